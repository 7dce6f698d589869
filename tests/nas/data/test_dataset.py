from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latencykit.errors import InputError
from nas.data.dataset import Dataset, patient_units, split_by_patient


def test_length_is_the_number_of_frames(make):
    assert len(make(patients=3, frames=4)) == 12


def test_rgb_repeats_grey_and_lies_between_0_and_1(make):
    data = make()
    rgb = data.rgb([3, 1])
    assert rgb.shape == (2, 3, 256, 256)
    assert rgb.dtype == np.float32
    assert (rgb[:, 0] == rgb[:, 2]).all()
    assert (rgb[0, 1] == data.images[3, 0] / np.float32(255)).all()


def test_rgb_keeps_colour_and_takes_one_index(make):
    data = make(channels=3)
    assert (np.rint(data.rgb(2)[0] * 255) == data.images[2]).all()


def test_a_subset_by_indices_keeps_their_order(make):
    assert make().subset([4, 0]).patients.tolist() == ["p2", "p0"]


def test_a_subset_by_mask_keeps_every_field_of_the_chosen(make):
    data = make(degraded=np.arange(10) == 3)
    part = data.subset(data.degraded)
    assert (len(part), part.frame.tolist(), part.degraded.tolist()) == (1, ["1"], [True])


@pytest.mark.parametrize("chosen", [[], [10], [-11], np.zeros(3, dtype=bool), np.zeros(10, dtype=bool)])
def test_a_subset_of_nothing_or_of_what_is_not_there_is_refused(make, chosen):
    with pytest.raises(InputError):
        make().subset(chosen)


def test_a_split_is_asked_for_by_name(make):
    assert make().of_split("valid").patient_ids() == ["p4"]


def test_an_absent_split_is_refused_with_those_that_are_there(make):
    with pytest.raises(InputError, match=r"'test'.*\['train', 'valid'\]"):
        make().of_split("test")


def test_the_hash_is_of_the_content_and_not_of_the_name(make):
    data = make()
    other = data.images.copy()
    other[0, 0, 0, 0] ^= 1
    assert data.sha256 == make(name="other").sha256
    assert data.sha256 != make(images=other).sha256
    assert data.sha256 != make(frame=data.frame[::-1].copy()).sha256


def test_channel_statistics_agree_with_numpy(make):
    for channels in (1, 3):
        data = make(channels=channels)
        mean, deviation = data.channel_statistics()
        rgb = data.rgb(range(len(data))).astype(np.float64)
        assert mean == pytest.approx(rgb.mean(axis=(0, 2, 3)))
        assert deviation == pytest.approx(rgb.std(axis=(0, 2, 3)))


WRONG = {
    "no frames": {"images": np.zeros((0, 1, 256, 256), dtype=np.uint8)},
    "two channels": {"images": np.zeros((10, 2, 256, 256), dtype=np.uint8)},
    "no channel axis": {"images": np.zeros((10, 256, 256), dtype=np.uint8)},
    "another size": {"images": np.zeros((10, 1, 128, 128), dtype=np.uint8)},
    "float images": {"images": np.zeros((10, 1, 256, 256), dtype=np.float32)},
    "masks of another size": {"masks": np.zeros((10, 128, 128), dtype=np.uint8)},
    "a mask too few": {"masks": np.zeros((9, 256, 256), dtype=np.uint8)},
    "a mask with label 2": {"masks": np.full((10, 256, 256), 2, dtype=np.uint8)},
    "double spacing": {"spacing_mm": np.ones((10, 2))},
    "spacing of zero": {"spacing_mm": np.zeros((10, 2), dtype=np.float32)},
    "spacing of NaN": {"spacing_mm": np.full((10, 2), np.nan, dtype=np.float32)},
    "numbers for patients": {"patients": np.arange(10)},
    "nameless patients": {"patients": np.array([""] * 10)},
    "an unknown split": {"splits": np.array(["test"] * 10)},
    "degraded as integers": {"degraded": np.zeros(10, dtype=np.int64)},
    "a frame's number missing": {"frame": np.array(["0"] * 9)},
    "a group of strangers": {"together": (("p0", "nobody"),)},
}


@pytest.mark.parametrize("replaced", WRONG.values(), ids=WRONG.keys())
def test_wrong_fields_are_refused_with_the_data_sets_name(make, replaced):
    with pytest.raises(InputError, match="'small'"):
        replace(make(), **replaced)


def test_a_patient_in_two_splits_is_refused_by_name(make):
    splits = np.array(["train", "valid"] * 5)
    with pytest.raises(InputError, match=r"patient 'p0' is in the splits 'train' and 'valid'"):
        make(splits=splits)


def test_a_group_that_stays_together_may_not_lie_in_two_splits(make):
    with pytest.raises(InputError, match="share an image but not a split"):
        make(together=(("p0", "p4"),))


def test_a_subset_forgets_groups_of_which_one_is_left(make):
    data = make(together=(("p0", "p1"), ("p1", "p2", "p3")))
    assert data.subset(data.patients != "p1").together == (("p2", "p3"),)


def split_names(parts: dict[str, Dataset]) -> dict[str, list[str]]:
    return {name: part.patient_ids() for name, part in parts.items()}


def test_a_split_has_the_papers_shares_and_shares_no_patient(make):
    names = split_names(split_by_patient(make(patients=10, frames=1), {"train": 0.4, "eval": 0.4, "test": 0.2}, seed=3))
    assert [len(part) for part in names.values()] == [4, 4, 2]
    assert sorted(patient for part in names.values() for patient in part) == [f"p{number}" for number in range(10)]


def test_a_split_is_the_same_for_a_seed_and_another_for_another(make):
    data = make(patients=10, frames=1)
    first, again, other = (split_names(split_by_patient(data, {"a": 0.5, "b": 0.5}, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_groups_of_the_data_set_and_of_the_call_stay_together(make):
    data = make(patients=8, frames=1, together=(("p0", "p1"),))
    for seed in range(20):
        parts = split_names(split_by_patient(data, {"a": 0.5, "b": 0.5}, seed, together=[("p1", "p2"), ("p5", "p6")]))
        homes = {patient: name for name, part in parts.items() for patient in part}
        assert homes["p0"] == homes["p1"] == homes["p2"]
        assert homes["p5"] == homes["p6"]
        assert len(parts["a"]) == len(parts["b"]) == 4


def test_every_part_gets_a_patient_however_small_its_share(make):
    parts = split_by_patient(make(patients=3, frames=1), {"a": 0.98, "b": 0.01, "c": 0.01}, seed=0)
    assert all(len(part) == 1 for part in parts.values())


@pytest.mark.parametrize("fractions", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": 0.5, "b": 0.6}])
def test_shares_that_do_not_sum_to_one_are_refused(make, fractions):
    with pytest.raises(InputError, match="sum to 1"):
        split_by_patient(make(), fractions, seed=0)


def test_fewer_patients_than_parts_are_refused(make):
    with pytest.raises(InputError, match="fewer than the 3 parts"):
        split_by_patient(make(patients=2), {"a": 0.4, "b": 0.4, "c": 0.2}, seed=0)


@given(st.lists(st.lists(st.sampled_from("abcdefg"), max_size=3), max_size=5))
def test_units_are_a_partition_that_no_group_crosses(groups):
    units = patient_units("abcdef", groups)
    assert sorted(patient for unit in units for patient in unit) == list("abcdef")
    for group in groups:
        assert len({unit for unit in units for patient in group if patient in unit}) <= 1
