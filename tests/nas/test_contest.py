from dataclasses import replace

import numpy as np
import pytest

from nas.contest import Contest, contest, markdown
from nas.metrics import FrameScores
from tests.nas.test_pareto import front_of

PATIENTS = tuple(f"p{index // 2}" for index in range(40))
HARD = np.random.default_rng(0).uniform(-0.1, 0.1, 40)


def scores(dice, error=0.05):
    true = dice + HARD
    predicted = true + error * np.where(np.arange(40) % 2, 1, -1)
    return FrameScores(
        true, true, true, predicted, float(true.mean()), acceptance=float(true.mean()), patients=PATIENTS
    )


def contest_of(rows, errors=None):
    """Of rows given as (Dice, ms)."""
    good = {row: [scores(dice)] for row, (dice, _) in rows.items()}
    usual = {row: 0.05 if row.startswith("unet") else 0.045 for row in rows} | (errors or {})
    bad = {row: [scores(dice - 0.2, usual[row])] for row, (dice, _) in rows.items()}
    return contest(front_of(rows), good, bad)


FAMILY = {"unet4-s8": (0.84, 0.8), "unet8-s4": (0.86, 1.5), "unet8-s2": (0.855, 4.0)}


def test_every_hand_made_row_of_the_front_is_met_once():
    duels = contest_of(FAMILY | {"nas-a": (0.84, 0.6), "nas-b": (0.861, 1.0)}).duels
    assert [(duel.hand_made, duel.searched, duel.beaten) for duel in duels] == [
        ("unet4-s8", "nas-a", True),
        ("unet8-s4", "nas-b", True),
    ]
    assert duels[1].latency_ratio == pytest.approx(1.0 / 1.5)
    assert duels[1].dice.mean == pytest.approx(0.001)
    assert duels[0].quality_searched.mae_ratio == pytest.approx(0.9 * duels[0].quality_hand_made.mae_ratio)


@pytest.mark.parametrize(
    ("row", "errors"),
    [
        ((0.86, 1.4), {}),  # too slow
        ((0.85, 0.5), {}),  # too bad
        ((0.86, 1.0), {"nas-a": 0.08}),  # predicts its Dice worse
    ],
)
def test_a_row_that_fails_a_condition_beats_nothing(row, errors):
    duels = contest_of(FAMILY | {"nas-a": row}, errors).duels
    assert not next(duel for duel in duels if duel.hand_made == "unet8-s4").beaten


def test_of_rows_that_beat_none_the_nearest_is_named():
    rows = {"unet8-s4": (0.86, 1.5), "nas-far": (0.7, 0.5), "nas-near": (0.86, 1.35), "nas-slow": (0.87, 9.0)}
    (duel,) = contest_of(rows).duels
    assert (duel.searched, duel.beaten) == ("nas-near", False)


def test_rows_without_scores_do_not_take_part():
    rows = {"unet8-s4": (0.86, 1.5), "unet4-s8": (0.85, 1.0), "nas-a": (0.861, 0.8), "nas-b": (0.7, 0.9)}
    good = {row: [scores(rows[row][0])] for row in ("unet8-s4", "nas-b")}
    found = contest(front_of(rows), good, good)
    (duel,) = found.duels
    assert (duel.hand_made, duel.searched, duel.beaten) == ("unet8-s4", "nas-b", False)
    assert found.left_out == ("nas-a", "unet4-s8")
    assert markdown(found).endswith("clean and degraded: nas-a, unet4-s8.\n")


def test_frames_that_are_all_accepted_leave_no_auroc():
    rows = {"unet8-s4": (0.86, 1.5), "nas-a": (0.86, 1.0)}
    good = {row: [scores(dice)] for row, (dice, _) in rows.items()}
    easy = {row: [replace(one, acceptance=0.0) for one in seeds] for row, seeds in good.items()}
    (duel,) = contest(front_of(rows), good, easy).duels
    assert duel.quality_searched.auroc is None
    assert duel.beaten


def test_one_family_has_nobody_to_contend_with():
    assert contest_of({"unet8-s4": (0.86, 1.5)}) == Contest()


def test_the_markdown_names_rows_margins_and_verdicts():
    text = markdown(contest_of({"unet8-s4": (0.86, 1.5), "nas-a": (0.861, 1.0)}))
    assert "| unet8-s4 | nas-a | 0.67 x | +0.0010 [" in text
    assert "| yes |" in text
