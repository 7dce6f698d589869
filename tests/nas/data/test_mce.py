from __future__ import annotations

import json

import numpy as np
import pytest

from latencykit.errors import InputError
from nas.data.mce import load_mce

HEIGHT, WIDTH = 48, 64


def write_frame(save, folder, stem: str, label: str = "myocardium", suffix: str = ".png") -> None:
    image = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    image[12:25, 20:33] = 200
    save(folder / f"{stem}{suffix}", image)
    points = [[20, 12], [32, 12], [32, 24], [20, 24]]
    shapes = [{"label": label, "points": points, "shape_type": "polygon"}]
    annotation = {"shapes": shapes, "imageHeight": HEIGHT, "imageWidth": WIDTH, "imagePath": f"{stem}{suffix}"}
    (folder / f"{stem}.json").write_text(json.dumps(annotation))


@pytest.fixture
def tree(tmp_path, save):
    for patient in range(4):
        for frame in range(6):
            write_frame(save, tmp_path / f"subject_{patient:03d}", str(frame), suffix=".jpg" if frame % 2 else ".png")
    return tmp_path


def test_frames_are_cropped_to_the_centre_and_resized_with_their_masks(tree):
    data = load_mce(tree)
    assert len(data) == 24
    assert data.images.shape == (24, 1, 256, 256)
    rows, cols = np.nonzero(data.masks[0])
    grid = 256 / HEIGHT
    assert (rows.min(), rows.max() + 1) == pytest.approx((12 * grid, 25 * grid), abs=1)
    assert (cols.min(), cols.max() + 1) == pytest.approx((12 * grid, 25 * grid), abs=1)
    assert data.images[0, 0][data.masks[0] == 1].mean() > 185


def test_the_unknown_spacing_is_one_pixel(tree):
    assert (load_mce(tree).spacing_mm == 1).all()


def test_frames_are_drawn_per_patient_whoever_else_is_read(tree):
    data = load_mce(tree, frames_per_patient=3, seed=4)
    assert [int((data.patients == patient).sum()) for patient in data.patient_ids()] == [3] * 4
    fewer = load_mce(tree, frames_per_patient=3, seed=4, max_patients=2)
    for patient in fewer.patient_ids():
        assert fewer.frame[fewer.patients == patient].tolist() == data.frame[data.patients == patient].tolist()


def test_a_fifth_of_the_patients_is_for_validation(tree):
    assert len(load_mce(tree, valid_fraction=0.25).of_split("valid").patient_ids()) == 1


def test_an_image_without_annotation_is_refused_or_left_out_on_demand(tree):
    (tree / "subject_001/2.json").unlink()
    with pytest.raises(InputError, match=r"subject_001.2\.json: no annotation"):
        load_mce(tree)
    assert len(load_mce(tree, skip_unannotated=True)) == 23


def test_an_unknown_label_is_refused_with_its_file(tree, save):
    write_frame(save, tree / "subject_002", "3", label="septum", suffix=".jpg")
    with pytest.raises(InputError, match=r"subject_002.3\.json: unknown label 'septum', accepted are"):
        load_mce(tree)


def test_a_broken_image_is_refused_with_its_file(tree):
    (tree / "subject_000/0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=r"subject_000.0\.png: not a readable image"):
        load_mce(tree)


def test_two_images_of_one_name_are_refused(tree, save):
    write_frame(save, tree / "subject_000", "0", suffix=".jpg")
    with pytest.raises(InputError, match="several images are named '0'"):
        load_mce(tree)


def test_an_empty_and_a_missing_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="no patient folder"):
        load_mce(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        load_mce(tmp_path / "gone")


def test_zero_frames_a_patient_are_refused(tree):
    with pytest.raises(InputError, match="frames_per_patient"):
        load_mce(tree, frames_per_patient=0)
