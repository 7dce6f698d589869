from dataclasses import replace

import numpy as np
import pytest

from latencykit.errors import InputError
from nas.metrics import FrameScores
from nas.paired import dice_difference


def scores(dice, patients):
    return FrameScores(*[np.asarray(dice, np.float64)] * 4, 0.8, patients=tuple(patients))


def patients(count, frames_each):
    return [f"p{index}" for index in range(count) for _ in range(frames_each)]


def test_a_constant_difference_has_no_spread():
    names = patients(10, 2)
    base = np.random.default_rng(0).uniform(0.5, 0.8, 20)
    found = dice_difference([scores(base + 0.1, names)], [scores(base, names)])
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))


def test_rows_are_paired_so_hard_frames_do_not_widen_the_interval():
    rng, names = np.random.default_rng(1), patients(50, 2)
    hard, noise = rng.uniform(0.2, 0.9, 100), rng.normal(0, 0.01, 100)
    found = dice_difference([scores(hard + noise, names)], [scores(hard, names)])
    assert found.high - found.low < 0.01 < np.std(hard)
    assert found.low < noise.mean() < found.high


def test_patients_are_drawn_not_frames():
    rng = np.random.default_rng(2)
    of_patient = rng.normal(0, 0.05, 20)
    difference = np.repeat(of_patient, 50)  # all frames of a patient say the same
    names, zeros = patients(20, 50), np.zeros(1000)
    found = dice_difference([scores(0.5 + difference, names)], [scores(0.5 + zeros, names)])
    expected = 2 * 1.96 * of_patient.std() / np.sqrt(20)
    assert found.high - found.low == pytest.approx(expected, rel=0.15)


def test_patients_with_more_frames_count_for_more():
    names = ["a"] * 3 + ["b"]
    found = dice_difference([scores([0.4, 0.4, 0.4, 0.8], names)], [scores([0, 0, 0, 0], names)])
    assert found.mean == pytest.approx(0.5)
    assert (found.low, found.high) == pytest.approx((0.4, 0.8))


def test_seeds_are_averaged_frame_by_frame():
    names = patients(5, 1)
    one, other = scores([0.4] * 5, names), scores([0.6] * 5, names)
    assert dice_difference([one, other], [scores([0.5] * 5, names)]).mean == pytest.approx(0)


def test_what_cannot_be_paired_is_refused():
    one = scores([0.5, 0.6], ["a", "b"])
    with pytest.raises(InputError, match="different frames"):
        dice_difference([one], [scores([0.5, 0.6], ["b", "a"])])
    with pytest.raises(InputError, match="name no patients"):
        dice_difference([replace(one, patients=())], [one])
    with pytest.raises(InputError, match="of one patient"):
        dice_difference([scores([0.5], ["a"])], [scores([0.5], ["a"])])
