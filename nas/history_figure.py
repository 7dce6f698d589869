"""Picture of a search's history, epoch by epoch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from latencykit.errors import InputError
from latencykit.schema import decode
from nas.figures import DPI, INK, OPERATION_COLORS, SERIES_COLORS, operation_kind, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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

        def entropy(epoch: Epoch, name: str = name) -> float | None:
            return epoch.entropy.get(name)

        _line(axes, epochs, entropy, name.replace("_", "-"), color)
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
