from __future__ import annotations

import pytest

from latencykit.errors import InputError
from nas.data.roster import limited, patient_seed, seeded_split

NAMES = [f"p{number:02d}" for number in range(20)]


def test_a_seeded_split_has_the_share_asked_for_and_repeats():
    split = seeded_split(NAMES, 0.2, seed=5)
    assert list(split.values()).count("valid") == 4
    assert split == seeded_split(reversed(NAMES), 0.2, seed=5)
    assert split != seeded_split(NAMES, 0.2, seed=6)


def test_two_patients_give_one_on_each_side():
    assert sorted(seeded_split(["a", "b"], 0.01, seed=0).values()) == ["train", "valid"]


def test_patients_that_share_an_image_share_a_split():
    for seed in range(20):
        split = seeded_split(NAMES, 0.3, seed, together=[("p01", "p02")])
        assert split["p01"] == split["p02"]


@pytest.mark.parametrize("fraction", [0.0, 1.0, float("nan")])
def test_a_fraction_outside_of_0_to_1_is_refused(fraction):
    with pytest.raises(InputError, match="valid_fraction"):
        seeded_split(NAMES, fraction, seed=0)


def test_a_limit_keeps_the_shares_and_at_least_one_of_each_split():
    split = seeded_split(NAMES, 0.2, seed=0)
    assert sorted(limited(split, 5, seed=1).values()) == ["train"] * 4 + ["valid"]
    assert sorted(limited(split, 2, seed=1).values()) == ["train", "valid"]
    assert len(limited(split, 1, seed=1)) == 1
    assert limited(split, None, seed=1) == limited(split, 99, seed=1) == split


def test_a_limit_of_none_at_all_is_refused():
    with pytest.raises(InputError, match="max_patients"):
        limited(seeded_split(NAMES, 0.2, seed=0), 0, seed=0)


def test_a_patients_seed_depends_on_the_patient():
    assert patient_seed(1, "a") == patient_seed(1, "a") != patient_seed(1, "b")
