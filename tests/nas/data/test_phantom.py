from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import ndimage

from latencykit.errors import InputError
from nas.data.frame_statistics import frame_statistics
from nas.data.phantom import DEGRADATIONS, load_phantom, phantom_frame


@pytest.fixture(scope="module")
def data():
    return load_phantom(patients=12, frames_per_patient=4, valid_fraction=0.25, seed=1)


def test_the_phantom_is_a_data_set_of_the_size_asked_for(data):
    assert (len(data), len(data.patient_ids())) == (48, 12)
    assert len(data.of_split("valid").patient_ids()) == 3
    assert data.frame.tolist()[:4] == ["00", "01", "02", "03"]


def test_a_frame_depends_on_seed_patient_and_number_alone(data):
    again = load_phantom(patients=12, frames_per_patient=2, valid_fraction=0.25, max_patients=3, seed=1)
    for patient in again.patient_ids():
        first = data.subset((data.patients == patient) & (data.frame == "01"))
        second = again.subset((again.patients == patient) & (again.frame == "01"))
        assert first.sha256 == second.sha256
    assert (phantom_frame(1, 0, 0).image != phantom_frame(2, 0, 0).image).any()
    assert (phantom_frame(1, 0, 0).image != phantom_frame(1, 1, 0).image).any()


def test_the_cavity_is_brighter_than_the_myocardium_as_contrast_makes_it(data):
    figures = frame_statistics(data.subset(~data.degraded))
    assert np.mean(figures.cavity_grey > figures.wall_grey + 15) > 0.9


def test_every_mask_covers_a_share_as_real_ones_do_and_is_of_one_or_two_pieces(data):
    share = data.masks.mean(axis=(1, 2))
    assert 0.02 < share.min() < share.max() < 0.2
    assert all(ndimage.label(mask)[1] <= 2 for mask in data.masks)


def test_frames_of_a_patient_beat_and_patients_differ(data):
    share = data.masks.mean(axis=(1, 2)).reshape(12, 4)
    assert share.mean(axis=1).std() > 0.005
    assert (np.ptp(share, axis=1) > 0.002).any()


def test_between_a_tenth_and_a_fifth_of_the_frames_are_acquired_badly():
    marks = [phantom_frame(0, patient, 0).degradation for patient in range(120)]
    bad = [mark for mark in marks if mark]
    assert 0.05 < len(bad) / len(marks) < 0.27
    assert set(bad) <= set(DEGRADATIONS)
    assert len(set(bad)) >= 4


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_each_degradation_changes_the_picture(kind):
    good, bad = phantom_frame(0, 7, 1), phantom_frame(0, 7, 1, kind)
    assert (good.degradation, bad.degradation) == (None, kind)
    assert np.abs(good.image.astype(int) - bad.image).mean() > 2


def test_low_gain_and_attenuation_darken():
    good = phantom_frame(0, 7, 1).image.mean()
    assert phantom_frame(0, 7, 1, "low_gain").image.mean() < good - 5
    assert phantom_frame(0, 7, 1, "attenuation").image.mean() < good - 5


def test_an_unknown_degradation_is_refused():
    with pytest.raises(InputError, match=r"unknown degradation 'fog'.*low_gain"):
        phantom_frame(0, 0, 0, "fog")


@pytest.mark.parametrize("replaced", [{"patients": 1}, {"frames_per_patient": 0}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(replaced):
    with pytest.raises(InputError, match="a phantom of"):
        load_phantom(**{"patients": 3, "frames_per_patient": 1, **replaced})


def test_a_frame_is_made_in_well_under_a_second_of_processor_time():
    start = time.process_time()
    for frame in range(4):
        phantom_frame(0, 0, frame)
    assert (time.process_time() - start) / 4 < 0.5
