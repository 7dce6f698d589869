from __future__ import annotations

import shutil

import nibabel
import numpy as np
import pytest

from latencykit.errors import InputError
from nas.data.camus import load_camus_nifti, load_camus_npz


def npz_fields() -> dict:
    mask = np.zeros((4, 256, 256), dtype=np.uint8)
    mask[:, 10:20, 10:20], mask[:, 30:40, 30:40], mask[:, 50:60, 50:60] = 1, 2, 3
    return {
        "image": np.full((4, 256, 256), 7, dtype=np.uint8),
        "mask": mask,
        "patient": np.array([33, 33, 68, 68], dtype=np.int16),
        "phase": np.array(["ED", "ES"] * 2),
        "split": np.array(["train"] * 4),
        "orig_hw": np.array([[512, 256]] * 4, dtype=np.int16),
        "spacing_mm": np.array([[0.3, 0.2]] * 4, dtype=np.float32),
    }


@pytest.fixture
def npz(tmp_path):
    def writer(**replaced):
        arrays = {key: value for key, value in {**npz_fields(), **replaced}.items() if value is not None}
        np.savez(tmp_path / "camus.npz", **arrays)
        return tmp_path / "camus.npz"

    return writer


def test_the_npz_gives_label_2_and_the_spacing_of_the_grid(npz):
    data = load_camus_npz(npz())
    assert data.patients.tolist() == ["patient0033"] * 2 + ["patient0068"] * 2
    assert data.masks[0].sum() == 100
    assert data.masks[0, 35, 35] == 1
    assert data.spacing_mm[0] == pytest.approx([0.6, 0.4])
    assert not data.degraded.any()


def test_the_two_patients_of_one_image_stay_together(npz):
    assert load_camus_npz(npz()).together == (("patient0033", "patient0068"),)
    assert load_camus_npz(npz(), max_patients=1).together == ()


def test_a_missing_npz_is_named_with_a_remedy(tmp_path):
    with pytest.raises(InputError, match=r"gone\.npz: no such file.*phantom"):
        load_camus_npz(tmp_path / "gone.npz")


def test_a_missing_key_is_named(npz):
    with pytest.raises(InputError, match=r"lacks the arrays \['orig_hw'\]"):
        load_camus_npz(npz(orig_hw=None))


def test_pickled_objects_are_refused(npz):
    with pytest.raises(InputError, match="not a readable npz"):
        load_camus_npz(npz(phase=np.array([{}] * 4, dtype=object)))


@pytest.mark.parametrize("kept", [0, 3, 1000, 200_000])
def test_a_cut_off_npz_is_refused(npz, kept):
    path = npz()
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"camus\.npz: not a readable npz"):
        load_camus_npz(path)


@pytest.mark.parametrize(
    "replaced",
    [
        {"image": np.zeros((4, 128, 128), dtype=np.uint8)},
        {"mask": np.zeros((3, 256, 256), dtype=np.uint8)},
        {"patient": np.array(["a"] * 4)},
        {"patient": np.array([1, 1, 2], dtype=np.int16)},
        {"orig_hw": np.zeros((4, 3), dtype=np.int16)},
        {"split": np.array(["train", "valid"] * 2)},
        {"spacing_mm": np.zeros((4, 2), dtype=np.float32)},
    ],
)
def test_arrays_that_do_not_fit_are_refused(npz, replaced):
    with pytest.raises(InputError):
        load_camus_npz(npz(**replaced))


def test_the_real_npz_has_its_known_content(camus_npz):
    data = load_camus_npz(camus_npz)
    assert (len(data), len(data.patient_ids())) == (898, 449)
    assert len(data.of_split("train").patient_ids()) == 399
    assert data.together == (("patient0033", "patient0068"),)
    assert data.masks.mean() == pytest.approx(0.0741, abs=1e-4)
    assert data.spacing_mm[0] == pytest.approx([0.308 * 549 / 256] * 2, rel=2e-3)


HEIGHT, WIDTH = 60, 40


def picture(value: int) -> np.ndarray:
    image = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    image[5:20, 3:9] = value  # upper left, higher than wide
    return image


def write_patient(database, name: str) -> None:
    (database / name).mkdir(parents=True)
    for phase in ("ED", "ES"):
        for suffix, array in (("", picture(200)), ("_gt", picture(2))):
            image = nibabel.Nifti1Image(array.T, np.diag([0.4, 0.3, 1, 1]))
            nibabel.save(image, database / name / f"{name}_4CH_{phase}{suffix}.nii.gz")
    (database / name / "Info_4CH.cfg").write_text("ED: 1\nES: 20\nImageQuality: Good\n")


@pytest.fixture
def tree(tmp_path):
    for number in (1, 2, 3, 4):
        write_patient(tmp_path / "database_nifti", f"patient{number:04d}")
    return tmp_path


def write_splits(tree, train: str, valid: str, test: str) -> None:
    (tree / "database_split").mkdir()
    for name, numbers in (("training", train), ("validation", valid), ("testing", test)):
        text = "\n".join(f"patient000{number}" for number in numbers)
        (tree / "database_split" / f"subgroup_{name}.txt").write_text(text)


def test_nifti_slices_are_turned_upright_padded_and_resized(tree):
    data = load_camus_nifti(tree)
    assert len(data) == 8
    assert data.frame.tolist() == ["ED", "ES"] * 4
    rows, cols = np.nonzero(data.masks[0])
    grid = 256 / HEIGHT
    assert (rows.min(), rows.max() + 1) == pytest.approx((5 * grid, 20 * grid), abs=1)
    assert (cols.min(), cols.max() + 1) == pytest.approx((13 * grid, 19 * grid), abs=1)
    assert data.images[0, 0][data.masks[0] == 1].mean() > 180
    assert data.spacing_mm[0] == pytest.approx([0.3 / grid, 0.4 / grid])


def test_official_split_files_are_followed_and_testing_patients_left_out(tree):
    write_splits(tree, "13", "2", "4")
    data = load_camus_nifti(tree / "database_nifti")
    assert data.of_split("train").patient_ids() == ["patient0001", "patient0003"]
    assert data.of_split("valid").patient_ids() == ["patient0002"]


def test_without_split_files_the_seed_splits(tree):
    data = load_camus_nifti(tree, valid_fraction=0.25, seed=1)
    assert len(data.of_split("valid").patient_ids()) == 1
    assert data.sha256 == load_camus_nifti(tree, valid_fraction=0.25, seed=1).sha256


def test_a_patient_in_two_split_files_is_refused_by_name(tree):
    write_splits(tree, "134", "24", "")
    with pytest.raises(InputError, match=r"subgroup_validation\.txt: 'patient0004' is also listed in 'train'"):
        load_camus_nifti(tree)


def test_a_patient_in_no_split_file_is_refused_by_name(tree):
    write_splits(tree, "1", "2", "3")
    with pytest.raises(InputError, match=r"no split file lists.*patient0004"):
        load_camus_nifti(tree)


def test_testing_patients_alone_are_refused_rather_than_trained_on(tree):
    write_splits(tree, "", "", "1234")
    with pytest.raises(InputError, match="testing group"):
        load_camus_nifti(tree)


def test_a_missing_mask_is_refused_by_file(tree):
    (tree / "database_nifti/patient0002/patient0002_4CH_ES_gt.nii.gz").unlink()
    with pytest.raises(InputError, match=r"patient0002_4CH_ES_gt\.nii\.gz: no such file"):
        load_camus_nifti(tree)


def test_a_mask_of_another_size_is_refused_by_file(tree):
    path = tree / "database_nifti/patient0003/patient0003_4CH_ED_gt.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((40, 59), dtype=np.uint8), np.eye(4)), path)
    with pytest.raises(InputError, match=r"patient0003_4CH_ED_gt\.nii\.gz: the mask is \(59, 40\)"):
        load_camus_nifti(tree)


@pytest.mark.parametrize("content", [b"", b"not gzip", "cut"])
def test_a_broken_nifti_is_refused_by_file(tree, content):
    path = tree / "database_nifti/patient0001/patient0001_4CH_ED.nii.gz"
    path.write_bytes(path.read_bytes()[:-40] if content == "cut" else content)
    with pytest.raises(InputError, match=r"patient0001_4CH_ED\.nii\.gz: not a readable NIfTI"):
        load_camus_nifti(tree)


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 4), dtype=np.uint8), np.full((4, 4), 999.0), np.full((4, 4), np.nan)]
)
def test_a_volume_or_values_beyond_8_bits_are_refused(tree, array):
    path = tree / "database_nifti/patient0001/patient0001_4CH_ED.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    with pytest.raises(InputError, match="patient0001_4CH_ED"):
        load_camus_nifti(tree)


def test_an_empty_folder_is_refused(tree):
    shutil.rmtree(tree / "database_nifti")
    with pytest.raises(InputError, match="no patient folders"):
        load_camus_nifti(tree)
