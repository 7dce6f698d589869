"""Is every pair of the hand-made front beaten by a searched one? The searched row that comes nearest, and by how much.

The hand-made front is what no other hand-made row beats in time and Dice, whatever the searched ones do.

A searched row beats a hand-made one where its Dice is no worse (the whole interval of the paired difference above
-0.005), its predicted Dice errs no more beside the constant predictor and finds bad frames no worse, and a frame takes
at most 0.85 of the time.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nas.metrics import FrameScores
from nas.paired import Difference, dice_difference
from nas.pareto import Front, ParetoPoint

DICE_MARGIN = 0.005
LATENCY_RATIO = 0.85

Seeds = Sequence[FrameScores]
"""A row's scores of the same frames, one for each seed."""


@dataclass(frozen=True)
class Quality:
    """A row's quality network, means over the seeds that define them: its error over the constant's, and its AUROC."""

    mae_ratio: float
    auroc: float | None


@dataclass(frozen=True)
class Duel:
    """A row of the hand-made front and the searched row that comes nearest to beating it.

    Attributes:
        hand_made, searched: the rows.
        latency_ratio: median latency of the searched one over the hand-made one's.
        dice: the searched one's less the hand-made one's, on the same patients.
        quality_hand_made, quality_searched: of frames degraded by kinds that no training saw.
        beaten: all conditions of the module's text hold.
    """

    hand_made: str
    searched: str
    latency_ratio: float
    dice: Difference
    quality_hand_made: Quality
    quality_searched: Quality
    beaten: bool


@dataclass(frozen=True)
class Contest:
    """All duels, and the rows that could not take part.

    Attributes:
        duels: one for each hand-made row that no other hand-made row beats, the fastest first; none where there is no
            hand-made or no searched row.
        left_out: rows without scores to compare.
    """

    duels: tuple[Duel, ...] = ()
    left_out: tuple[str, ...] = ()


def contest(front: Front, good: Mapping[str, Seeds], bad: Mapping[str, Seeds]) -> Contest:
    """Set every row of the hand-made front against every searched row.

    Args:
        front: every row's latency and Dice.
        good: scores of the frames as they are, by row; rows without do not take part.
        bad: scores of the same frames degraded by held-out kinds, by the same rows.

    Raises:
        InputError: scores of different frames.
    """
    hand_made = [point for point in front.points if point.family == "hand-made" and point.row in good]
    searched = [point for point in front.points if point.family == "searched" and point.row in good]
    left_out = tuple(point.row for point in front.points if point.row not in good)
    if not hand_made or not searched:
        return Contest(left_out=left_out)
    quality = {name: _quality(scores) for name, scores in bad.items()}
    duels = []
    for ours in _undominated(hand_made):
        against = [_duel(ours, theirs, good, quality) for theirs in searched]
        duels.append(min(against, key=lambda duel: (not duel.beaten, _lack(duel))))
    return Contest(tuple(duels), left_out)


def _undominated(points: Sequence[ParetoPoint]) -> list[ParetoPoint]:
    import moocore

    kept = moocore.is_nondominated(np.array([(point.latency_ms, -point.dice) for point in points]), keep_weakly=True)
    return [point for point, stays in zip(points, kept, strict=True) if stays]


def _quality(seeds: Seeds) -> Quality:
    scores = [one.summary() for one in seeds]
    known = [one.auroc for one in scores if one.auroc is not None]
    ratio = statistics.fmean(one.mae / max(one.mae_constant, 1e-9) for one in scores)
    return Quality(ratio, statistics.fmean(known) if known else None)


def _duel(
    hand_made: ParetoPoint, searched: ParetoPoint, good: Mapping[str, Seeds], quality: Mapping[str, Quality]
) -> Duel:
    difference = dice_difference(good[searched.row], good[hand_made.row])
    ours, theirs = quality[hand_made.row], quality[searched.row]
    ratio = searched.latency_ms / hand_made.latency_ms
    beaten = (
        difference.low >= -DICE_MARGIN
        and ratio <= LATENCY_RATIO
        and theirs.mae_ratio <= ours.mae_ratio
        and (ours.auroc is None or (theirs.auroc is not None and theirs.auroc >= ours.auroc))
    )
    return Duel(hand_made.row, searched.row, ratio, difference, ours, theirs, beaten)


def _lack(duel: Duel) -> float:
    """Ranks those that do not beat a row: what is lacking of Dice, in margins, and of time, in tenths."""
    return max(0.0, -duel.dice.low / DICE_MARGIN - 1) + max(0.0, duel.latency_ratio / LATENCY_RATIO - 1) * 10


def markdown(found: Contest) -> str:
    """The duels as a table, and who was not in any."""
    lines = [
        "| of the hand-made front | nearest searched | its time | its Dice less, 95 % interval | error of the "
        "predicted Dice over the constant's | AUROC | beaten |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for d in found.duels:
        aurocs = " / ".join(
            "-" if q.auroc is None else f"{q.auroc:.2f}" for q in (d.quality_searched, d.quality_hand_made)
        )
        ratios = f"{d.quality_searched.mae_ratio:.2f} / {d.quality_hand_made.mae_ratio:.2f}"
        verdict = "yes" if d.beaten else "no"
        lines.append(
            f"| {d.hand_made} | {d.searched} | {d.latency_ratio:.2f} x | {d.dice} | {ratios} | {aurocs} | {verdict} |"
        )
    note = (
        f"Beaten: Dice no worse (interval above -{DICE_MARGIN}), at most {LATENCY_RATIO} of the time, quality network "
        "no worse (searched / hand-made, frames degraded by kinds held out of training). The searched row shown is the "
        "nearest of all, so a front of many rows flatters."
    )
    if found.left_out:
        rows = ", ".join(found.left_out)
        note += f"\nLeft out, ablations or without scores of the same frames, clean and degraded: {rows}."
    return "\n".join((*lines, "", note)) + "\n"
