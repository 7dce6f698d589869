"""Pictures of a run: the search's history, predicted masks on frames, predicted against true Dice.

Every function gives a `matplotlib.figure.Figure`, made without pyplot, so that nothing global is touched;
`save_figure` writes one.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from latencykit.errors import InputError
from latencykit.files import write_bytes
from latencykit.schema import decode
from nas.metrics import FrameScores, Scores
from nas.results import Subset

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
INK, MUTED = "#333333", "#8a949e"
TRUE_COLOR, PREDICTED_COLOR = "#35c46a", "#ff8a3d"  # both readable on grey ultrasound and for the colour-blind

OPERATION_COLORS: Mapping[str, str] = {
    "conv": "#2f6db3",
    "dilated": "#d9822b",
    "separable": "#3a9d68",
    "max pool": "#8250b5",
    "avg pool": "#c2569b",
    "identity": "#6b7680",
    "zero": "#d5dade",
}
"""One colour for each kind of operation in all pictures, whatever it does to the resolution."""

SERIES_COLORS = ("#2f6db3", "#d9822b", "#3a9d68", "#8250b5")


def operation_kind(primitive: str) -> str:
    """Kind of a primitive, a key of `OPERATION_COLORS`: `down_dilated_conv` is `dilated`."""
    kinds = {"dilated_conv": "dilated", "separable_conv": "separable", "max_pool": "max pool", "avg_pool": "avg pool"}
    base = primitive.removeprefix("down_").removeprefix("up_")
    kind = kinds.get(base, base)
    if kind not in OPERATION_COLORS:
        raise InputError(f"figures: no colour for the primitive {primitive!r}; add its kind to OPERATION_COLORS.")
    return kind


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG or SVG by the file's ending, wholly or not at all; equal figures give equal bytes.

    Raises:
        InputError: another ending.
    """
    from matplotlib import rc_context

    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise InputError(f"{path}: figures are written as .png or .svg.")
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "nas"}):  # ids by content, not at random
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, metadata=metadata, facecolor="white")
    write_bytes(path, buffer.getvalue())


def tidy(axes: Axes) -> None:
    """No box around the data, a faint grid behind it."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=INK, labelsize=8, length=3, which="both")
    axes.grid(color="#eceff2", lw=0.8)
    axes.set_axisbelow(True)


@dataclass(frozen=True)
class Epoch:
    """One line of `history.jsonl`; what a phase does not have is None.

    Attributes:
        epoch: from 0.
        phase: weights alone, or weights and architecture.
        temperature: of the Gumbel-Softmax.
        loss: of Eq. 3, with `cross_entropy` and `mse` its first two terms.
        expected_ms: latency that the architecture parameters expect.
        derived_ms: table's latency of the architecture that would be derived now.
        entropy: of the architecture parameters by cell type, 0 (decided) to 1 (uniform).
        op_counts: how often each primitive would be derived.
        dice_selection: Dice on the selection patients, of the mixture where all paths run.
        dice_derived: the same of the architecture that would be derived, with the supernet's weights.
    """

    epoch: int
    phase: Literal["warmup", "search"]
    temperature: float | None = None
    loss: float | None = None
    cross_entropy: float | None = None
    mse: float | None = None
    expected_ms: float | None = None
    derived_ms: float | None = None
    entropy: dict[str, float] = field(default_factory=dict)
    op_counts: dict[str, int] = field(default_factory=dict)
    dice_selection: float | None = None
    dice_derived: float | None = None


def read_history(path: Path) -> list[Epoch]:
    """Read `history.jsonl`; keys that no picture needs are passed over.

    Raises:
        InputError: it cannot be read, a line is not what it must be, or there is none; naming the file and the line.
    """
    known = {f.name for f in fields(Epoch)}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    epochs = []
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        try:
            data = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: {error}") from error
        if not isinstance(data, dict):
            raise InputError(f"{where}: an object expected, found {type(data).__name__}.")
        there = {key: value for key, value in data.items() if key in known and value is not None}
        epochs.append(decode(Epoch, there, where))
    if not epochs:
        raise InputError(f"{path} holds no epoch yet; let the search finish one.")
    return epochs


def history_figure(runs: Mapping[str, Sequence[Epoch]]) -> Figure:
    """Small multiples of searches by name, warm-up shaded: one run as two rows of three, several as columns."""
    from matplotlib.figure import Figure

    alone = len(runs) == 1
    figure = Figure(figsize=(12, 6.2) if alone else (4.2 * len(runs), 13), dpi=DPI, layout="constrained")
    if alone:
        grid = figure.subplots(2, 3, squeeze=False).reshape(-1, 1)
    else:
        grid = figure.subplots(len(_PANELS), len(runs), squeeze=False, sharey="row", sharex="col")
    for column, (name, epochs) in enumerate(runs.items()):
        for row, (title, panel) in enumerate(_PANELS.items()):
            axes = grid[row, column]
            panel(axes, epochs)
            _shade_warmup(axes, epochs)
            tidy(axes)
            axes.set_xlim(epochs[0].epoch - 0.5, epochs[-1].epoch + 0.5)
            axes.locator_params(axis="x", integer=True)
            if alone or row == len(_PANELS) - 1:
                axes.set_xlabel("epoch", fontsize=8)
            if handles := axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=7, framealpha=0.8, edgecolor="none", ncols=2 if len(handles) > 3 else 1)
            heading = title if alone or row else f"{name}\n{title}"
            axes.set_title(heading, fontsize=9.5, loc="left", color=INK)
        if alone:
            figure.suptitle(name, fontsize=11, x=0.01, ha="left", color=INK)
    return figure


def _line(
    axes: Axes,
    epochs: Sequence[Epoch],
    value: Callable[[Epoch], float | None],
    label: str,
    color: str,
    style: str = "-",
) -> None:
    points = [(epoch.epoch, found) for epoch in epochs if (found := value(epoch)) is not None]
    if points:
        marker = "o" if len(points) < 15 else ""
        axes.plot(*zip(*points, strict=True), style, color=color, lw=1.5, marker=marker, ms=3, label=label)
        if axes.get_yscale() == "log" and min(y for _, y in points) <= 0:
            axes.set_yscale("linear")


def _losses(axes: Axes, epochs: Sequence[Epoch]) -> None:
    axes.set_yscale("log")
    _line(axes, epochs, lambda e: e.loss, "total", INK)
    _line(axes, epochs, lambda e: e.cross_entropy, "cross-entropy", SERIES_COLORS[0])
    _line(axes, epochs, lambda e: e.mse, "MSE of the Dice", SERIES_COLORS[1])


def _dice(axes: Axes, epochs: Sequence[Epoch]) -> None:
    if all(epoch.dice_derived in (None, epoch.dice_selection) for epoch in epochs):
        _line(axes, epochs, lambda e: e.dice_selection, "", SERIES_COLORS[0])
        return
    _line(axes, epochs, lambda e: e.dice_selection, "mixture", SERIES_COLORS[0])
    _line(axes, epochs, lambda e: e.dice_derived, "derived, shared weights", SERIES_COLORS[1], "--")


def _latency(axes: Axes, epochs: Sequence[Epoch]) -> None:
    _line(axes, epochs, lambda e: e.expected_ms, "expected", SERIES_COLORS[0])
    _line(axes, epochs, lambda e: e.derived_ms, "derived", SERIES_COLORS[1], "--")


def _entropies(axes: Axes, epochs: Sequence[Epoch]) -> None:
    names = list(dict.fromkeys(name for epoch in epochs for name in epoch.entropy))
    for name, color in zip(names, SERIES_COLORS * len(names), strict=False):
        _line(axes, epochs, lambda e, name=name: e.entropy.get(name), name.replace("_", "-"), color)  # type: ignore[misc]
    axes.set_ylim(-0.03, 1.03)


def _operations(axes: Axes, epochs: Sequence[Epoch]) -> None:
    counted = [epoch for epoch in epochs if epoch.op_counts]
    below = np.zeros(len(counted))
    for kind, color in OPERATION_COLORS.items():
        heights = np.array([sum(n for op, n in e.op_counts.items() if operation_kind(op) == kind) for e in counted])
        if heights.any():
            axes.bar([e.epoch for e in counted], heights, 1.0, below, color=color, label=kind, ec="white", lw=0.3)
            below = below + heights
    if below.any():
        axes.set_ylim(0, 1.5 * below.max())  # the legend stands above the bars


def _temperature(axes: Axes, epochs: Sequence[Epoch]) -> None:
    axes.set_yscale("log")
    _line(axes, epochs, lambda e: e.temperature, "", SERIES_COLORS[3])


_PANELS: Mapping[str, Callable[[Axes, Sequence[Epoch]], None]] = {
    "losses": _losses,
    "Dice on the selection patients": _dice,
    "latency by the table, ms": _latency,
    "entropy of the architecture parameters": _entropies,
    "derived operations, edges": _operations,
    "temperature": _temperature,
}


def _shade_warmup(axes: Axes, epochs: Sequence[Epoch]) -> None:
    warmup = [epoch.epoch for epoch in epochs if epoch.phase == "warmup"]
    if warmup:
        axes.axvspan(warmup[0] - 0.5, warmup[-1] + 0.5, color="#f3f0e6", lw=0, zorder=0)
        axes.text(0.01, 0.02, "warm-up", transform=axes.transAxes, fontsize=7, color="#8a7f5c", zorder=1)


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame to show.

    Attributes:
        image: float (H, W), grey in [0, 1].
        mask_true: bool (H, W).
        mask_predicted: bool (H, W).
        uncertainty: float (H, W), in [0, 1].
        dice: of the predicted mask.
        dice_predicted: what the quality network said.
        title: which frame it is.
    """

    image: npt.NDArray[np.floating]
    mask_true: npt.NDArray[np.bool_]
    mask_predicted: npt.NDArray[np.bool_]
    uncertainty: npt.NDArray[np.floating]
    dice: float
    dice_predicted: float
    title: str


def qualitative_figure(frames: Sequence[Frame]) -> Figure:
    """A strip of frames: contours above, uncertainty below, true and predicted Dice under each.

    Raises:
        InputError: no frame.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    if not frames:
        raise InputError("qualitative: no frame to show.")
    figure = Figure(figsize=(2.3 * len(frames) + 0.9, 5.4), dpi=DPI, layout="constrained")
    grid = figure.subplots(2, len(frames), squeeze=False)
    for (top, bottom), frame in zip(grid.T, frames, strict=True):
        top.imshow(frame.image, cmap="gray", vmin=0, vmax=1)
        for mask, color in ((frame.mask_true, TRUE_COLOR), (frame.mask_predicted, PREDICTED_COLOR)):
            if mask.any() and not mask.all():  # contour warns where there is no line to draw
                top.contour(mask.astype(float), [0.5], colors=[color], linewidths=1.3)
        top.set_title(frame.title, fontsize=8.5, color=INK)
        shown = bottom.imshow(frame.uncertainty, cmap="magma", vmin=0, vmax=1)
        bottom.set_xlabel(f"Dice {frame.dice:.3f}\npredicted {frame.dice_predicted:.3f}", fontsize=8.5, color=INK)
        for axes in (top, bottom):
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
    colorbar = figure.colorbar(shown, ax=grid[1].tolist(), shrink=0.85, pad=0.01)
    colorbar.set_label("uncertainty", fontsize=8)
    colorbar.ax.tick_params(labelsize=7)
    lines = [Line2D([], [], color=color, lw=2) for color in (TRUE_COLOR, PREDICTED_COLOR)]
    figure.legend(
        lines, ["true contour", "predicted contour"], loc="outside upper left", ncols=2, fontsize=8, frameon=False
    )
    return figure


def quality_panels(rows: Mapping[str, Mapping[Subset, FrameScores]]) -> dict[str, FrameScores]:
    """What to show of each row: its frames as they are, and degraded, each under a title."""
    titles: dict[Subset, str] = {"all": "", "seen": ", degraded", "held_out": ", kinds held out"}
    return {
        name + title: by_subset[subset]
        for name, by_subset in rows.items()
        for subset, title in titles.items()
        if subset in by_subset
    }


def quality_figure(rows: Mapping[str, FrameScores]) -> Figure:
    """Predicted against true Dice, a panel per row, with the figures that say whether the prediction is worth anything.

    Raises:
        InputError: no row, or one without frames.
    """
    from matplotlib.figure import Figure

    if not rows:
        raise InputError("quality: no row to show.")
    columns = min(len(rows), 3)
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(3.9 * columns, 4.1 * lines), dpi=DPI, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    values = np.concatenate([array for scores in rows.values() for array in (scores.dice, scores.dice_predicted)])
    low = max(0.0, float(np.quantile(values, 0.01)) - 0.15) if len(values) else 0.0
    for axes, (name, scores) in zip(grid, rows.items(), strict=False):
        _quality_panel(axes, name, scores, scores.summary(), low)
    for axes in grid[len(rows) :]:
        axes.set_axis_off()
    return figure


def _quality_panel(axes: Axes, name: str, scores: FrameScores, summary: Scores, low: float) -> None:
    axes.plot([low, 1], [low, 1], color=MUTED, lw=1, zorder=1)
    axes.axhline(scores.dice_constant, color=SERIES_COLORS[1], lw=1, ls="--", zorder=1, label="constant prediction")
    if scores.acceptance > low:
        axes.axvspan(low, scores.acceptance, color="#f7ecec", lw=0, zorder=0, label=f"Dice under {scores.acceptance:g}")
    x, y = np.clip(scores.dice, low, 1), np.clip(scores.dice_predicted, low, 1)  # what lies below is shown on the edge
    axes.scatter(x, y, s=14, color=SERIES_COLORS[0], alpha=0.55, lw=0, zorder=2, clip_on=False)
    r = "undefined" if summary.pearson_r is None else f"{summary.pearson_r:.2f}"
    auroc = "" if summary.auroc is None else f"   AUROC {summary.auroc:.2f}"
    text = f"MAE {summary.mae:.3f}   constant's {summary.mae_constant:.3f}\nr {r}{auroc}   n {summary.frames}"
    for trivial, found in summary.trivial.items():
        text += "" if found.auroc is None else f"\n{trivial}: AUROC {found.auroc:.2f}"
    box = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1.5}
    axes.text(0.03, 0.98, text, transform=axes.transAxes, va="top", fontsize=8, color=INK, bbox=box)
    axes.set(xlim=(low, 1), ylim=(low, 1), aspect="equal")
    axes.set_xlabel("true Dice", fontsize=8.5)
    axes.set_ylabel("predicted Dice", fontsize=8.5)
    axes.set_title(name, fontsize=10, loc="left", color=INK)
    tidy(axes)
    axes.legend(loc="lower right", fontsize=7, frameon=False)
