"""The core's pictures: estimated against measured, and where a network's time goes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latencykit.agreement import Validation
from latencykit.errors import UsageError
from latencykit.files import write_bytes
from latencykit.keys import Level
from latencykit.predict import Prediction

FORMATS = ("png", "svg", "pdf")
"""Suffixes that a figure's path may have."""
BLUE, ORANGE, GREEN, GREY = "#2563a8", "#d9822b", "#3d8b5f", "#8a8f98"
_COLOURS: dict[Level, str] = {"isolated": ORANGE, "kernel": BLUE, "edge": GREEN}
_NAMES: dict[Level, str] = {"isolated": "sum of isolated operations", "kernel": "sum of kernels", "edge": "edge costs"}


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
    """Predicted over measured ms, plain sums and calibrated ones side by side, and the spread of all errors."""
    figure = Figure(figsize=(15, 5.2), layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=(1, 1, 1))
    measured = np.array([n.measured_ms for n in validation.networks])
    errors: list[tuple[str, str, np.ndarray]] = []
    rhythm = f"{validation.pace_hz:g} calls a second" if validation.pace_hz else "back to back"
    parts = (("raw", validation.raw), ("calibrated", validation.calibrated))
    shown = {(word, level): _figures_ms(validation, word, level) for word, fits in parts for level in fits}
    every = np.concatenate([measured, *shown.values()])
    for axes, (word, fits) in zip(panels, parts, strict=False):
        for level, fit in fits.items():
            predicted = shown[word, level]
            tau = "-" if fit.kendall_tau is None else f"{fit.kendall_tau:.2f}"
            label = f"{_NAMES[level]}: MAPE {fit.mape_pct:.1f} %, tau {tau}"
            axes.scatter(measured, predicted, s=22, color=_COLOURS[level], alpha=0.75, linewidth=0, label=label)
            errors.append((f"{level}\n{word}", _COLOURS[level], 100 * (predicted / measured - 1)))
        _identity_band(axes, every)
        axes.set(xlabel="measured end to end, ms", ylabel="predicted, ms")
        axes.set_title(f"{word}: {len(measured)} networks", loc="left", fontsize=11)
        if fits:
            axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(-0.02, -0.13))
    halves = np.array([100 * (n.half_a_ms / n.half_b_ms - 1) for n in validation.networks])
    _error_strips(panels[2], [*errors, ("measured\nagain", GREY, halves)])
    slowdown = validation.slowdown_pct
    speed = "" if slowdown is None else f"; calibration networks {slowdown:+.1f} % against the build"
    figure.suptitle(f"{validation.setting}, {rhythm}{speed}", x=0.01, ha="left", fontsize=11)
    return figure


def _figures_ms(validation: Validation, word: str, level: Level) -> np.ndarray:
    return np.array([(n.raw_ms if word == "raw" else n.calibrated_ms)[level] for n in validation.networks])


def _identity_band(axes: Axes, figures_ms: np.ndarray) -> None:
    low, high = 0.95 * figures_ms.min(), 1.05 * figures_ms.max()
    ends = np.array([low, high])
    axes.fill_between(ends, 0.9 * ends, 1.1 * ends, color=GREY, alpha=0.15, linewidth=0)
    axes.plot(ends, ends, color=GREY, linewidth=1)
    axes.annotate(
        "± 10 %", (high, high), xytext=(-6, -26), textcoords="offset points", ha="right", color=GREY, fontsize=8
    )
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.spines[["top", "right"]].set_visible(False)


def _error_strips(axes: Axes, groups: list[tuple[str, str, np.ndarray]]) -> None:
    rng = np.random.default_rng(0)
    for index, (_, colour, errors) in enumerate(groups):
        axes.scatter(index + rng.uniform(-0.18, 0.18, len(errors)), errors, s=14, color=colour, alpha=0.7, linewidth=0)
        axes.plot([index - 0.28, index + 0.28], [np.median(errors)] * 2, color=colour, linewidth=2.5)
        axes.annotate(
            f"{np.median(errors):+.1f}", (index + 0.3, np.median(errors)), fontsize=8, va="center", color=colour
        )
    axes.axhline(0, color=GREY, linewidth=1)
    axes.set_xticks(range(len(groups)), [name for name, _, _ in groups], fontsize=8)
    axes.set(xlim=(-0.5, len(groups) - 0.2), ylabel="error of the figure, %")
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
    axes.bar_label(bars, [f"{100000 * cost / prediction.raw_us:.1f} %" for cost in costs], padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="ms of the kernel sum")
    axes.set_title(title, loc="left", fontsize=11)
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
