"""The core's pictures: estimated against measured, and where a network's time goes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latencykit.cost import Prediction
from latencykit.errors import UsageError
from latencykit.files import write_bytes
from latencykit.table import Level
from latencykit.validate import Validation

FORMATS = ("png", "svg", "pdf")
"""Suffixes that a figure's path may have."""
BLUE, ORANGE, GREY = "#2563a8", "#d9822b", "#8a8f98"
_LEVELS: tuple[tuple[Level, str, str], ...] = (
    ("isolated", "sum of isolated operations", ORANGE),
    ("kernel", "sum of kernels", BLUE),
)


def figure_format(path: Path) -> str:
    """The format that a path's suffix names; asked before long work, so that a figure is not lost at its end.

    Raises:
        UsageError: no format, or one that is not written.
    """
    suffix = path.suffix.lstrip(".").lower()
    if suffix not in FORMATS:
        raise UsageError(f"the figure {path} ends in {path.suffix!r}; expected one of .{', .'.join(FORMATS)}")
    return suffix


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the path's suffix, wholly or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=figure_format(path), dpi=150)
    write_bytes(path, buffer.getvalue())


def validation_figure(validation: Validation) -> Figure:
    """Predicted over measured ms for each level, and the spread of their errors beside the repeatability."""
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    measured = np.array([n.measured_ms for n in validation.networks])
    errors = []
    for level, label, colour in _LEVELS:
        predicted = np.array([n.predicted_ms[level] for n in validation.networks])
        fit = validation.levels[level]
        tau = "-" if fit.kendall_tau is None else f"{fit.kendall_tau:.2f}"
        left.scatter(
            measured,
            predicted,
            s=22,
            color=colour,
            alpha=0.8,
            linewidth=0,
            label=f"{label}\nMAPE {fit.mape_pct:.1f} %, tau {tau}",
        )
        errors.append(100 * (predicted / measured - 1))
    _identity_band(left, measured, [n.predicted_ms[level] for n in validation.networks for level, _, _ in _LEVELS])
    left.set(xlabel="measured end to end, ms", ylabel="predicted, ms")
    left.set_title(f"{len(measured)} networks, {validation.setting}", loc="left", fontsize=11)
    left.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(-0.02, -0.13), ncols=2)
    halves = np.array([100 * (n.half_a_ms / n.half_b_ms - 1) for n in validation.networks])
    _error_strips(right, [*errors, halves], ["isolated", "kernels", "measured\nagain"], [ORANGE, BLUE, GREY])
    return figure


def _identity_band(axes: Axes, measured: np.ndarray, predicted: list[float]) -> None:
    low = min(measured.min(), *predicted) * 0.95
    high = max(measured.max(), *predicted) * 1.05
    ends = np.array([low, high])
    axes.fill_between(ends, 0.9 * ends, 1.1 * ends, color=GREY, alpha=0.15, linewidth=0)
    axes.plot(ends, ends, color=GREY, linewidth=1)
    axes.annotate(
        "± 10 %", (high, high), xytext=(-6, -26), textcoords="offset points", ha="right", color=GREY, fontsize=8
    )
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.spines[["top", "right"]].set_visible(False)


def _error_strips(axes: Axes, groups: list[np.ndarray], names: list[str], colours: list[str]) -> None:
    rng = np.random.default_rng(0)
    for index, (errors, colour) in enumerate(zip(groups, colours, strict=True)):
        axes.scatter(index + rng.uniform(-0.18, 0.18, len(errors)), errors, s=16, color=colour, alpha=0.7, linewidth=0)
        axes.plot([index - 0.28, index + 0.28], [np.median(errors)] * 2, color=colour, linewidth=2.5)
        axes.annotate(
            f"{np.median(errors):+.1f} %", (index + 0.3, np.median(errors)), fontsize=9, va="center", color=colour
        )
    axes.axhline(0, color=GREY, linewidth=1)
    axes.set_xticks(range(len(names)), names)
    axes.set(xlim=(-0.5, len(names) - 0.2), ylabel="error of the figure, %")
    axes.set_title("bias and spread", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)


def prediction_figure(prediction: Prediction, title: str, most: int = 15) -> Figure:
    """The dearest kernels of a network as bars, the rest in one."""
    shown, rest = prediction.shares[:most], prediction.shares[most:]
    labels = [f"{share.count} x {share.row.key}" for share in shown]
    costs = [share.cost_us / 1000 for share in shown]
    if rest:
        labels.append(f"{len(rest)} further kernels")
        costs.append(sum(share.cost_us for share in rest) / 1000)
    figure = Figure(figsize=(9, 0.32 * len(costs) + 1.2), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(labels, costs, color=[BLUE] * len(shown) + [GREY] * bool(rest))
    axes.bar_label(bars, [f"{100000 * cost / prediction.latency_us:.1f} %" for cost in costs], padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="ms in one frame")
    axes.set_title(title, loc="left", fontsize=11)
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
