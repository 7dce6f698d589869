from __future__ import annotations

import numpy as np
import pytest

from latencykit.errors import InputError
from nas.data.folder import load_folder


def write_pair(save, root, name: str, value: int = 255) -> None:
    image = np.full((30, 40), 90, dtype=np.uint8)
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[10:20, 10:20] = value
    mask[0, 0] = 3
    save(root / "images" / f"{name}.png", image)
    save(root / "masks" / f"{name}.png", mask)


@pytest.fixture
def tree(tmp_path, save):
    for patient in "abcd":
        for frame in (1, 2):
            write_pair(save, tmp_path, f"{patient}_{frame}")
    return tmp_path


def test_the_text_before_the_first_underscore_is_the_patient(tree):
    data = load_folder(tree)
    assert data.patient_ids() == list("abcd")
    assert data.frame.tolist()[:2] == ["a_1", "a_2"]
    assert (data.spacing_mm == 1).all()


def test_any_value_or_the_one_asked_for_is_the_mask(tree):
    assert load_folder(tree).masks[0].sum() > load_folder(tree, mask_value=255).masks[0].sum() > 0


def test_a_pattern_names_the_patient(tree, save):
    data = load_folder(tree, patient_pattern=r".*_(\d)")
    assert data.patient_ids() == ["1", "2"]


def test_a_subfolder_names_the_patient(tmp_path, save):
    for name in ("x/1", "x/2", "y/1"):
        write_pair(save, tmp_path, name)
    assert load_folder(tmp_path).patients.tolist() == ["x", "x", "y"]


def test_splits_csv_is_followed(tree):
    (tree / "splits.csv").write_text("patient,split\na,valid\nb,train\nc,train\nd,train\n")
    assert load_folder(tree).of_split("valid").patient_ids() == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient,split\na,valid\na,train\n", "line 3: patient 'a' is in two splits"),
        ("patient,split\na,testing\n", "line 2: .*testing"),
        ("name,set\na,train\n", "line 2"),
        ("patient,split\na,train\n", "no split for patient 'b'"),
        ("patient,split\na\n", "line 2"),
    ],
)
def test_a_splits_csv_that_is_off_is_refused_with_its_line(tree, text, message):
    (tree / "splits.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_folder(tree)


def test_a_splits_csv_that_is_no_text_is_refused(tree):
    (tree / "splits.csv").write_bytes(b"patient,split\n\xff\xfe")
    with pytest.raises(InputError, match="not a readable CSV"):
        load_folder(tree)


def test_a_missing_mask_is_named(tree):
    (tree / "masks/b_2.png").unlink()
    with pytest.raises(InputError, match="b_2: no mask"):
        load_folder(tree)


def test_a_mask_without_image_is_named(tree):
    (tree / "images/b_2.png").unlink()
    with pytest.raises(InputError, match="b_2: no image"):
        load_folder(tree)


def test_a_mask_of_another_size_is_named(tree, save):
    save(tree / "masks/c_1.png", np.zeros((30, 39), dtype=np.uint8))
    with pytest.raises(InputError, match=r"c_1\.png: the mask is \(30, 39\), its image \(30, 40\)"):
        load_folder(tree)


def test_a_broken_mask_is_named(tree):
    (tree / "masks/c_1.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"c_1\.png: not a readable image"):
        load_folder(tree)


def test_a_name_without_patient_is_refused(tree, save):
    write_pair(save, tree, "nobody")
    with pytest.raises(InputError, match=r"nobody\.png: no patient's name"):
        load_folder(tree)


@pytest.mark.parametrize("pattern", ["(", "a"])
def test_a_pattern_that_is_none_or_has_no_group_is_refused(tree, pattern):
    with pytest.raises(InputError, match="patient_pattern"):
        load_folder(tree, patient_pattern=pattern)


def test_two_files_of_one_name_are_refused(tree, save):
    save(tree / "images/a_1.bmp", np.zeros((30, 40), dtype=np.uint8))
    with pytest.raises(InputError, match="same name"):
        load_folder(tree)


def test_an_empty_and_a_missing_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load_folder(tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match="no files with a suffix"):
        load_folder(tmp_path)
