"""Picture of a race: what each network reached in each round, against its latency by the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from latencykit.macro import Macro
from nas.figures import DPI, INK, SERIES_COLORS, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nas.race import Entry, Race

NAMED = 3
"""So many of the last round's best are named by their macro configuration."""


def race_figure(race: Race, finalists: Mapping[str, Entry]) -> Figure:
    """Score against latency, round by round from faint to dark, and the macro configurations of the last ones."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.8), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    for number, entries in enumerate(race.rounds):
        share = (number + 1) / len(race.rounds)
        latencies, scores = [e.predicted_ms for e in entries], [e.score for e in entries]
        label = f"round {number + 1}: {len(entries)} networks, {entries[0].epochs} epochs"
        axes.scatter(latencies, scores, s=14 + 30 * share, color=SERIES_COLORS[0], alpha=share, label=label, lw=0)
    for (name, entry), color in zip(finalists.items(), SERIES_COLORS[1:], strict=False):
        axes.scatter(entry.predicted_ms, entry.score, s=110, marker="*", color=color, label=f"finalist: {name}")
    for rank, entry in enumerate(race.rounds[-1][:NAMED], start=1):
        place = (entry.predicted_ms, entry.score)
        axes.annotate(str(rank), place, xytext=(5, -11), textcoords="offset points", fontsize=8, color=INK)
        axes.plot([], [], ls="", marker=f"${rank}$", ms=6, color=INK, label=macro_label(entry.network.macro))
    tidy(axes)
    axes.set_xlabel("latency by the table, ms", fontsize=9, color=INK)
    axes.set_ylabel("Dice less the weighted error of the predicted Dice", fontsize=9, color=INK)
    axes.set_title("race of macro configurations, selection patients", fontsize=10, loc="left", color=INK)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def macro_label(macro: Macro) -> str:
    """A macro configuration in a few characters: strides, widths, nodes."""
    widths, quality = ("-".join(map(str, w)) for w in (macro.segmentation_widths, macro.quality_widths))
    output = f"/{macro.output_stride}" if macro.output_stride > 1 else ""
    return f"s{macro.segmentation_stride}{output} {widths}, q{macro.quality_stride} {quality}, m{macro.cell_nodes}"
