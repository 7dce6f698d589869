"""A picture to judge data by: random frames of each data set with their masks, and statistics side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec, SubplotSpec
from matplotlib.patches import Rectangle

from latencykit.errors import InputError
from nas.data.dataset import Dataset
from nas.data.frame_statistics import FrameStatistics, frame_statistics

_ROWS: Final = 3
_COLUMNS: Final = 6
_MEASURED: Final = 120
"""Frames a data set that the statistics are taken from, drawn from the seed."""

_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Distinct also for colour-blind readers (Okabe and Ito)."""

_CONTOUR: Final = "#ffd166"
_DEGRADED: Final = "#ef476f"


def contact_sheet(datasets: Sequence[Dataset], path: Path, seed: int = 0) -> None:
    """Draw 18 random frames of each data set and a column of statistics that compares them; write a PNG.

    Frames are drawn patient by patient, so that few are of the same one. Where a data set knows of degraded frames,
    a fifth of those shown are, framed in red.

    Args:
        datasets: one to four; each gets a block of rows.
        path: the PNG to write.
        seed: of the draws.

    Raises:
        InputError: there are no data sets or more than four.
    """
    if not 1 <= len(datasets) <= len(_COLOURS):
        raise InputError(f"a contact sheet of {len(datasets)} data sets: give one to {len(_COLOURS)}")
    height = 1.62 * _ROWS * len(datasets) + 0.75 * len(datasets)
    figure = Figure(figsize=(15.5, max(height, 9.5)), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1, 2, width_ratios=(2.55, 1))
    blocks = grid[0].subgridspec(len(datasets), 1)
    rng = np.random.default_rng(seed)
    for index, dataset in enumerate(datasets):
        _draw_frames(figure, blocks[index], dataset, _COLOURS[index], rng)
    measured = [(dataset.name, frame_statistics(_sample(dataset, rng))) for dataset in datasets]
    _draw_statistics(figure, grid[1], measured)
    figure.savefig(path, dpi=110)


def _sample(dataset: Dataset, rng: np.random.Generator) -> Dataset:
    if len(dataset) <= _MEASURED:
        return dataset
    return dataset.subset(np.sort(rng.choice(len(dataset), _MEASURED, replace=False)))


def _chosen(dataset: Dataset, rng: np.random.Generator) -> list[int]:
    """Return the frames to show: good ones first, then up to a fifth degraded, as many patients as can be."""
    count = min(_ROWS * _COLUMNS, len(dataset))
    bad = min(int(dataset.degraded.sum()), round(count / 5))
    chosen: list[int] = []
    for degraded, wanted in ((False, count - bad), (True, bad)):
        shuffled = rng.permutation(np.flatnonzero(dataset.degraded == degraded))
        _, first = np.unique(dataset.patients[shuffled], return_index=True)
        fresh = rng.permutation(first)
        order = np.concatenate([shuffled[fresh], np.delete(shuffled, first)])
        chosen += order[:wanted].tolist()
    return chosen


def _draw_frames(figure: Figure, block: SubplotSpec, dataset: Dataset, colour: str, rng: np.random.Generator) -> None:
    panel = figure.add_subfigure(block)
    known = f", {dataset.degraded.mean():.0%} acquired badly (red)" if dataset.degraded.any() else ""
    panel.suptitle(
        f"{dataset.name}: {len(dataset)} frames of {len(dataset.patient_ids())} patients{known}",
        color=colour,
        fontsize=12,
        fontweight="bold",
    )
    axes = panel.subplots(_ROWS, _COLUMNS, gridspec_kw={"wspace": 0.02, "hspace": 0.02})
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, index in zip(axes.flat, _chosen(dataset, rng), strict=False):
        axis.imshow(dataset.rgb(index)[0].transpose(1, 2, 0), interpolation="nearest")
        if dataset.masks[index].any():
            axis.contour(dataset.masks[index], levels=[0.5], colors=[_CONTOUR], linewidths=0.9)
        label = f"{dataset.patients[index]} {dataset.frame[index]}"
        axis.text(0.02, 0.97, label, color="white", fontsize=6.5, va="top", transform=axis.transAxes)
        if dataset.degraded[index]:
            axis.add_patch(
                Rectangle((0, 0), 1, 1, transform=axis.transAxes, fill=False, edgecolor=_DEGRADED, linewidth=4)
            )


def _draw_statistics(figure: Figure, block: SubplotSpec, measured: Sequence[tuple[str, FrameStatistics]]) -> None:
    grid = GridSpecFromSubplotSpec(4, 1, subplot_spec=block)
    axes = [figure.add_subplot(grid[row]) for row in range(4)]
    _draw_histograms(axes[0], measured)
    _draw_greys(axes[1], measured)
    _draw_shares(axes[2], measured)
    _draw_speckle(axes[3], measured)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.title.set_fontsize(10)


def _draw_histograms(axis: Axes, measured: Sequence[tuple[str, FrameStatistics]]) -> None:
    width = 4  # grey levels a step
    for (name, figures), colour in zip(measured, _COLOURS, strict=False):
        share = 100 * figures.histogram.reshape(-1, width).sum(axis=1)
        axis.stairs(share, np.arange(0, 257, width), color=colour, fill=True, alpha=0.18)
        axis.stairs(share, np.arange(0, 257, width), color=colour, linewidth=1.5, label=name)
    axis.set(title="grey levels inside of the sector", xlabel="grey level", ylabel="pixels, %", xlim=(0, 256))
    axis.legend(frameon=False, fontsize=9)


def _draw_greys(axis: Axes, measured: Sequence[tuple[str, FrameStatistics]]) -> None:
    regions = ("myocardium", "enclosed\n(cavity)", "rest of\nthe sector")
    for place, ((_, figures), colour) in enumerate(zip(measured, _COLOURS, strict=False)):
        values = (figures.wall_grey, figures.cavity_grey, figures.other_grey)
        _boxes(axis, values, np.arange(3) + (place - (len(measured) - 1) / 2) * 0.3, colour)
    axis.set_xticks(range(3), regions)
    axis.set(title="mean grey level, by frame", ylabel="grey level", ylim=(0, 255))


def _draw_shares(axis: Axes, measured: Sequence[tuple[str, FrameStatistics]]) -> None:
    top = max(float(figures.mask_share.max()) for _, figures in measured) * 100
    bins = np.linspace(0, max(top, 1e-6) * 1.02, 26)
    for (_, figures), colour in zip(measured, _COLOURS, strict=False):
        weights = np.full(figures.mask_share.size, 100 / figures.mask_share.size)
        counts, _ = np.histogram(100 * figures.mask_share, bins, weights=weights)
        axis.stairs(counts, bins, color=colour, fill=True, alpha=0.18)
        axis.stairs(counts, bins, color=colour, linewidth=1.5)
        axis.axvline(100 * figures.mask_share.mean(), color=colour, linestyle=":", linewidth=1.5)
    axis.set(title="share of the picture that is myocardium (dotted: mean)", xlabel="picture, %", ylabel="frames, %")


def _draw_speckle(axis: Axes, measured: Sequence[tuple[str, FrameStatistics]]) -> None:
    for place, ((_, figures), colour) in enumerate(zip(measured, _COLOURS, strict=False)):
        values = (figures.speckle_down_px, figures.speckle_across_px)
        _boxes(axis, values, np.arange(2) + (place - (len(measured) - 1) / 2) * 0.3, colour)
    axis.set_xticks(range(2), ("down", "across"))
    axis.set(title="size of the speckle in the myocardium", ylabel="width at half maximum, px")
    axis.set_ylim(bottom=0)


def _boxes(axis: Axes, values: Sequence[np.ndarray], places: np.ndarray, colour: str) -> None:
    finite = [column[np.isfinite(column)] for column in values]
    axis.boxplot(
        finite,
        positions=places,
        widths=0.24,
        showfliers=False,
        manage_ticks=False,
        patch_artist=True,
        boxprops={"facecolor": colour, "alpha": 0.35, "edgecolor": colour},
        medianprops={"color": colour, "linewidth": 2},
        whiskerprops={"color": colour},
        capprops={"color": colour},
    )
