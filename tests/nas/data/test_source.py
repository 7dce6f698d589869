from __future__ import annotations

import numpy as np
import pytest

import nas.data
from latencykit.errors import InputError
from nas.data import DataConfig, load


def test_the_phantom_is_the_default_and_needs_no_path():
    data = load(DataConfig(patients=3, frames_per_patient=2, valid_fraction=0.34, seed=5))
    assert (data.name, len(data)) == ("phantom", 6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "dicom"}, "'dicom' is unknown"),
        ({"kind": "mce"}, "'mce' needs a path"),
        ({"seed": -1}, "seed"),
        ({"valid_fraction": 1.0}, "valid_fraction"),
        ({"max_patients": 0}, "max_patients"),
        ({"frames_per_patient": 0}, "frames_per_patient"),
    ],
)
def test_a_configuration_that_is_off_is_refused_when_made(wrong, message):
    with pytest.raises(InputError, match=message):
        DataConfig(**wrong)


@pytest.mark.parametrize("kind", ["camus-npz", "camus-nifti", "mce", "folder"])
def test_a_missing_path_is_named_with_a_remedy(kind, tmp_path):
    with pytest.raises(InputError, match=r"gone: no such file or folder: correct the path"):
        load(DataConfig(kind=kind, path=str(tmp_path / "gone")))


@pytest.mark.parametrize("kind", ["camus-nifti", "mce", "folder"])
def test_an_empty_folder_is_refused_whatever_the_kind(kind, tmp_path):
    with pytest.raises(InputError, match=str(tmp_path)):
        load(DataConfig(kind=kind, path=str(tmp_path)))


def test_a_folder_for_a_file_and_a_file_for_a_folder_are_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for kind, path in (("camus-npz", tmp_path), ("camus-nifti", tmp_path / "file"), ("mce", tmp_path / "file")):
        with pytest.raises(InputError):
            load(DataConfig(kind=kind, path=str(path)))


def test_settings_reach_the_reader(tmp_path, save):
    for name in ("a-1", "a-2", "b-1"):
        save(tmp_path / "images" / f"{name}.png", np.zeros((9, 9), dtype=np.uint8))
        save(tmp_path / "masks" / f"{name}.png", np.full((9, 9), 4, dtype=np.uint8))
    config = DataConfig(kind="folder", path=str(tmp_path), patient_pattern="([a-z])-", mask_value=4)
    data = load(config)
    assert data.patient_ids() == ["a", "b"]
    assert data.masks.all()


def test_the_real_data_load_through_the_configuration(camus_npz):
    data = load(DataConfig(kind="camus-npz", path=str(camus_npz), max_patients=6, seed=2))
    assert (len(data), len(data.of_split("valid").patient_ids())) == (12, 1)


def test_all_that_is_public_is_there():
    assert all(hasattr(nas.data, name) for name in nas.data.__all__)
