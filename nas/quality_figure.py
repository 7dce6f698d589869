"""Pictures of what the quality network says: masks on frames, predicted against true Dice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from latencykit.errors import InputError
from nas.figures import DPI, INK, MUTED, SERIES_COLORS, tidy
from nas.metrics import FrameScores, Scores
from nas.results import Subset

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRUE_COLOR, PREDICTED_COLOR = "#35c46a", "#ff8a3d"  # both readable on grey ultrasound and for the colour-blind


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
