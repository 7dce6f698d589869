"""Picture of a race: what each network reached in each round, against its latency by the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from latencykit.macro import Macro
from nas.figures import DPI, INK, SERIES_COLORS, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nas.race import Entry, Race

SHOWN_DICE = 0.08
"""Below the best; what is worse stands at the lower edge: what learned nothing would squeeze the others."""
NAMED = 3
"""So many of the last round's best are named by their macro configuration."""


def race_figure(race: Race, finalists: Mapping[str, Entry]) -> Figure:
    """Dice against latency, round by round from faint to dark; the last ones' macro configurations and errors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.8), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    everyone = [entry.dice for entries in race.rounds for entry in entries]
    floor = max(min(everyone), max(everyone) - SHOWN_DICE)
    for number, entries in enumerate(race.rounds):
        share = (number + 1) / len(race.rounds)
        look: dict[str, Any] = {"s": 14 + 30 * share, "color": SERIES_COLORS[0], "alpha": share, "lw": 0}
        label = f"round {number + 1}: {len(entries)} networks, {entries[0].epochs} epochs"
        shown, below = ([e for e in entries if (e.dice >= floor) == there] for there in (True, False))
        axes.scatter([e.predicted_ms for e in shown], [e.dice for e in shown], label=label, **look)
        axes.scatter([e.predicted_ms for e in below], [floor] * len(below), marker="v", **look)
    for (name, entry), color in zip(finalists.items(), SERIES_COLORS[1:], strict=False):
        place = entry.predicted_ms, max(floor, entry.dice)
        axes.scatter(*place, s=110, marker="*", color=color, label=f"finalist: {name}")
    for rank, entry in enumerate(race.rounds[-1][:NAMED], start=1):
        place = entry.predicted_ms, max(floor, entry.dice)
        axes.annotate(str(rank), place, xytext=(5, -11), textcoords="offset points", fontsize=8, color=INK)
        label = f"{macro_label(entry.network.macro)}: predicted Dice off by {entry.mae:.3f}"
        axes.plot([], [], ls="", marker=f"${rank}$", ms=6, color=INK, label=label)
    tidy(axes)
    axes.set_xlabel("latency by the table, ms", fontsize=9, color=INK)
    axes.set_ylabel("Dice (triangles: below)", fontsize=9, color=INK)
    title = "race of macro configurations, selection patients; in the last round the predicted Dice's error counts, too"
    axes.set_title(title, fontsize=10, loc="left", color=INK)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def macro_label(macro: Macro) -> str:
    """A macro configuration in a few characters: strides, widths, nodes."""
    widths, quality = ("-".join(map(str, w)) for w in (macro.segmentation_widths, macro.quality_widths))
    output = f"/{macro.output_stride}" if macro.output_stride > 1 else ""
    return f"s{macro.segmentation_stride}{output} {widths}, q{macro.quality_stride} {quality}, m{macro.cell_nodes}"
