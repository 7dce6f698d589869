"""Latency against Dice: which rows nothing beats, how much the front covers, and the picture of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from latencykit.errors import MissingRowError
from nas.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

Family = Literal["hand-made", "searched"]
VISUAL_LAG_MS = 50.0  # the paper's limit, "<50ms to avoid noticeable visual lag"
REFERENCE_MS = 200.0
REFERENCE_DICE = 0.5

_STYLES: Mapping[Family, tuple[str, str]] = {"hand-made": ("#5b6b7b", "s"), "searched": ("#c8502d", "o")}


@dataclass(frozen=True)
class ParetoPoint:
    """One row: median latency and Dice, means over seeds with their standard deviations (0 for one seed)."""

    row: str
    family: Family
    latency_ms: float
    latency_sd_ms: float
    dice: float
    dice_sd: float
    on_front: bool


@dataclass(frozen=True)
class Front:
    """The rows as points, and how much of the plane they dominate.

    Attributes:
        points: by latency, then row.
        conditions: what was compared, the selection in words.
        hypervolume: of Dice over the natural logarithm of ms, from the reference point: halving the latency counts the
            same at 80 ms and at 2 ms. Comparable only for one reference.
        hypervolume_by_family: the same of each family alone, so the searched rows' gain over the hand-made is seen.
        reference_ms: latency of the reference point; slower rows count nothing.
        reference_dice: Dice of the reference point; worse rows count nothing.
        untimed: rows without a latency, which are not points.
    """

    points: tuple[ParetoPoint, ...]
    conditions: str
    hypervolume: float
    hypervolume_by_family: Mapping[Family, float]
    reference_ms: float
    reference_dice: float
    untimed: tuple[str, ...]


def pareto_front(
    table: Table,
    hand_made: Collection[str],
    reference_ms: float = REFERENCE_MS,
    reference_dice: float = REFERENCE_DICE,
) -> Front:
    """The front of a table's rows, the mean Dice up and the mean of the median latencies down.

    Args:
        table: Table II under one selection.
        hand_made: rows of hand-made pairs; all others were searched.
        reference_ms: latency of the hypervolume's reference point.
        reference_dice: Dice of the hypervolume's reference point.

    Raises:
        MissingRowError: no row has a latency.
    """
    import moocore

    rows = [(row, row.p50_ms) for row in table.rows]
    timed = [(row, p50) for row, p50 in rows if p50 is not None]
    if not timed:
        raise MissingRowError(
            f"pareto: no row was timed ({table.selection}); `nas run CONFIG --out DIR` times the models."
        )
    plane = np.array([(math.log(p50.mean), -row.dice.mean) for row, p50 in timed])
    front = moocore.is_nondominated(plane, keep_weakly=True)
    points = tuple(
        ParetoPoint(
            row=row.row,
            family="hand-made" if row.row in hand_made else "searched",
            latency_ms=p50.mean,
            latency_sd_ms=p50.sd or 0.0,
            dice=row.dice.mean,
            dice_sd=row.dice.sd or 0.0,
            on_front=bool(kept),
        )
        for (row, p50), kept in zip(timed, front, strict=True)
    )
    reference = np.array([math.log(reference_ms), -reference_dice])
    volume = {
        family: float(moocore.hypervolume(plane[[point.family == family for point in points]], ref=reference))
        for family in _STYLES
        if any(point.family == family for point in points)
    }
    return Front(
        points=tuple(sorted(points, key=lambda p: (p.latency_ms, p.row))),
        conditions=str(table.selection),
        hypervolume=float(moocore.hypervolume(plane, ref=reference)),
        hypervolume_by_family=volume,
        reference_ms=reference_ms,
        reference_dice=reference_dice,
        untimed=tuple(row.row for row, p50 in rows if p50 is None),
    )


def pareto_figure(front: Front) -> Figure:
    """The plot: latency on a logarithmic axis, error bars of one standard deviation, the front as steps."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    from nas.figures import tidy

    figure = Figure(figsize=(7.6, 5.0), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    _limits(axes, front.points)
    for family, (color, marker) in _STYLES.items():
        points = [point for point in front.points if point.family == family]
        for point in points:
            axes.errorbar(
                point.latency_ms, point.dice, xerr=point.latency_sd_ms or None, yerr=point.dice_sd or None,
                fmt=marker, color=color, ms=7, mfc=color if point.on_front else "white", mew=1.4,
                elinewidth=1, capsize=2.5, zorder=3,
            )  # fmt: skip
        if points:
            axes.plot([], [], marker, color=color, ms=7, label=family)
    best = [point for point in front.points if point.on_front]
    ms, dice = [p.latency_ms for p in best], [p.dice for p in best]
    left, right = axes.get_xlim()
    axes.step(
        [*ms, right], [*dice, dice[-1]], where="post", color="#9aa5b1", lw=1.2, zorder=1, label="Pareto front (filled)"
    )
    if left < VISUAL_LAG_MS < right:
        axes.axvline(VISUAL_LAG_MS, color="#8a6d00", lw=1, ls=(0, (4, 3)), zorder=0, label="50 ms: visible lag")
    axes.set_xticks(_ticks(left, right), [f"{tick:g}" for tick in _ticks(left, right)])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"latency of the whole pair, median, ms\n{front.conditions}", fontsize=9)
    axes.set_ylabel("Dice, mean over seeds", fontsize=9)
    tidy(axes)
    axes.legend(loc="best", frameon=False, fontsize=8)
    axes.set_title(
        f"hypervolume {front.hypervolume:.3f} (Dice over ln ms; reference {front.reference_ms:g} ms, "
        f"{front.reference_dice:g})",
        fontsize=9, loc="left", color="#444444",
    )  # fmt: skip
    _label(figure, axes, front.points)
    return figure


def plot_pareto(front: Front, path: Path) -> None:
    """Write `pareto_figure` to a PNG or SVG file."""
    from nas.figures import save_figure

    save_figure(pareto_figure(front), path)


def _limits(axes: Axes, points: Sequence[ParetoPoint]) -> None:
    low = min(max(p.latency_ms - p.latency_sd_ms, p.latency_ms / 2) for p in points)
    high = max(p.latency_ms + p.latency_sd_ms for p in points)
    margin = max(0.12 * math.log(high / low), 0.12)
    axes.set_xscale("log")
    axes.set_xlim(low * math.exp(-margin), high * math.exp(1.4 * margin))  # labels stand to the right
    bottom, top = min(p.dice - p.dice_sd for p in points), max(p.dice + p.dice_sd for p in points)
    pad = max(0.12 * (top - bottom), 0.004)
    axes.set_ylim(bottom - 1.5 * pad, top + 1.5 * pad)


def _ticks(left: float, right: float) -> list[float]:
    """1, 2, 5 of each decade within the limits; all digits, then tenths where that leaves fewer than three."""
    decades = range(math.floor(math.log10(left)), math.ceil(math.log10(right)) + 1)
    for digits in ((1, 2, 5), tuple(range(1, 10)), tuple(d / 10 for d in range(10, 100))):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        if len(inside := [tick for tick in ticks if left <= tick <= right]) > 2:
            break
    return inside


_Box = tuple[float, float, float, float]


def _label(figure: Figure, axes: Axes, points: Sequence[ParetoPoint]) -> None:
    """Name the points, each label where it covers least: other labels, markers, error bars, the front, the legend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # places everything, so that boxes in pixels are known
    figure.set_layout_engine("none")  # labels must not move what they were placed around
    renderer = canvas.get_renderer()
    pixel = figure.dpi / 72
    legend = axes.get_legend()
    taken: list[_Box] = []
    if legend is not None:
        x0, y0, x1, y1 = legend.get_window_extent(renderer).extents
        taken.append((x0, y0, x1, y1))
    for point in points:
        x, y = axes.transData.transform((point.latency_ms, point.dice))
        x0, y0 = axes.transData.transform(
            (max(point.latency_ms - point.latency_sd_ms, 1e-9), point.dice - point.dice_sd)
        )
        x1, y1 = axes.transData.transform((point.latency_ms + point.latency_sd_ms, point.dice + point.dice_sd))
        reach, cap = 6 * pixel, 3.5 * pixel
        taken += [
            (x - reach, y - reach, x + reach, y + reach),
            (x0 - cap, y - cap, x1 + cap, y + cap),
            (x - cap, y0 - cap, x + cap, y1 + cap),
        ]
    x0, y0, x1, y1 = axes.get_window_extent(renderer).extents
    frame: _Box = (x0, y0, x1, y1)
    corner: tuple[float, float] | None = None
    for point in (p for p in points if p.on_front):
        x, y = axes.transData.transform((point.latency_ms, point.dice))
        if corner is not None:
            taken += [(corner[0], corner[1] - 2, x, corner[1] + 2), (x - 2, corner[1], x + 2, y)]
        corner = x, y
    if corner is not None:
        taken.append((corner[0], corner[1] - 2, frame[2], corner[1] + 2))
    for point in sorted(points, key=lambda p: (not p.on_front, p.latency_ms)):
        label = axes.annotate(
            point.row, (point.latency_ms, point.dice), xytext=(0, 0), textcoords="offset points", fontsize=8,
            ha="center", va="center", color=_STYLES[point.family][0], zorder=4,
        )  # fmt: skip
        box = _place(label, axes, point, taken, frame, renderer, pixel)
        taken.append(box)


def _place(
    label: Annotation,
    axes: Axes,
    point: ParetoPoint,
    taken: Sequence[_Box],
    frame: _Box,
    renderer: RendererBase,
    pixel: float,
) -> _Box:
    """Move a label to the best of some offsets around its point; a thin line leads back where it stands far off."""
    extent = label.get_window_extent(renderer)
    half_width, half_height = extent.width / 2 + 2 * pixel, extent.height / 2 + pixel
    x, y = axes.transData.transform((point.latency_ms, point.dice))
    around = [other for other in taken if not _inside((x, y), other)]  # not the point's own mark and bars
    best: tuple[float, float, float, _Box] | None = None
    for step, gap in enumerate((8, 14, 22, 32, 44)):
        for turn, angle in enumerate((40, -40, 140, -140, 0, 180, 90, -90)):
            dx = math.cos(math.radians(angle)) * (gap * pixel + half_width)
            dy = math.sin(math.radians(angle)) * (gap * pixel + half_height)
            box = (x + dx - half_width, y + dy - half_height, x + dx + half_width, y + dy + half_height)
            outside = box[0] < frame[0] or box[1] < frame[1] or box[2] > frame[2] or box[3] > frame[3]
            leader = [(x + f * dx, y + f * dy) for f in np.linspace(0, 1, 12)]
            crossed = sum(_inside(spot, other) for other in around for spot in leader)
            cost = (
                40 * crossed
                + 4 * sum(_overlap(box, other) for other in taken)
                + 1e6 * outside
                + 12 * step * pixel**2
                + turn
            )
            if best is None or cost < best[0]:
                best = (cost, dx, dy, box)
    assert best is not None
    _, dx, dy, box = best
    label.set_position((dx / pixel, dy / pixel))
    if math.hypot(dx, dy) > half_width + 18 * pixel:
        axes.annotate(
            "", (point.latency_ms, point.dice), xytext=(dx / pixel, dy / pixel), textcoords="offset points",
            arrowprops={"arrowstyle": "-", "color": "#9aa5b1", "lw": 0.7, "shrinkA": 9, "shrinkB": 5}, zorder=2,
        )  # fmt: skip
    return box


def _inside(spot: tuple[float, float], box: _Box) -> bool:
    return box[0] <= spot[0] <= box[2] and box[1] <= spot[1] <= box[3]


def _overlap(a: _Box, b: _Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
