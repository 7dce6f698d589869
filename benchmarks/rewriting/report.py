"""The rewrites as a table for people and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.rewriting.catalogue import REWRITES, Rewrite
from benchmarks.rewriting.runs import MARGIN, TOLERANCE, Outcome, Results
from latencykit.figures import BLUE, GREY, ORANGE

FAMILIES = {"sampled": "", "unet": ", U-Nets"}
COLUMNS = ("rewrite", "where", "setting", "ms before", "ms after", "ratio (95 %)", "verdict", "kept", "why")
NARROWEST_RATIO, WIDEST_RATIO = 0.5, 2.0
"""Where bars and intervals are cut; the figure is written beside a cut bar."""


def setting_name(outcome: Outcome) -> str:
    """Stride, threads and, if they are not the sampled networks, the family."""
    threads = f"{outcome.threads} thread{'s' if outcome.threads > 1 else ''}"
    return f"stride {outcome.stride}, {threads}{FAMILIES[outcome.family]}"


def markdown(results: Results, outcomes: Sequence[Outcome]) -> str:
    """The report as Markdown: a line a rewrite and setting, with what came of it."""
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    lines = [
        "# Rewrites, end to end",
        "",
        f"Whole networks ({machine}), before and after in the same fresh, pinned processes, in random order. The ratio",
        "is the median over pairs of one network in one process, its interval a bootstrap over these pairs. WINS and",
        f"LOSES: the whole interval lies beside 1, and the ratio at least {100 * MARGIN:.0f} % from it. Where nothing",
        "is said: four networks sampled from the paper's space; U-Nets: U-Net(8) and U-Net(16), each with ResNet18.",
        f"† computes another function; all other pairs gave the same outputs, at most {TOLERANCE:g} apart.",
        "`python -m benchmarks.rewrites` writes this page.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{' --- |' * 3}{' ---: |' * 3}{' --- |' * 3}",
    ]
    by_title = {rewrite.title: rewrite for rewrite in REWRITES}
    for title, group in groupby(outcomes, key=lambda outcome: outcome.title):
        for index, outcome in enumerate(group):
            lines.append(_line(by_title[title], outcome, first=index == 0))
    return "\n".join(lines) + "\n"


def _line(rewrite: Rewrite, outcome: Outcome, first: bool) -> str:
    low, high = outcome.interval
    title = rewrite.title + ("" if rewrite.same_function else " †")
    cells = (
        *((title, rewrite.where) if first else ("", "")),
        setting_name(outcome),
        f"{outcome.before_ms:.3f}",
        f"{outcome.after_ms:.3f}",
        f"{outcome.ratio:.3f} ({low:.3f} to {high:.3f})",
        outcome.verdict,
        *((rewrite.kept, rewrite.why) if first else ("", "")),
    )
    return f"| {' | '.join(cells)} |"


def picture(outcomes: Sequence[Outcome]) -> Figure:
    """Ratios as horizontal bars from 1 with their intervals, a group a rewrite and family."""
    groups = [(key, list(group)) for key, group in groupby(outcomes, key=lambda o: (o.title, o.family))]
    settings = sorted({(o.stride, o.threads) for o in outcomes})
    shades = {setting: (BLUE if setting[0] == 1 else ORANGE, 1.0 if setting[1] == 1 else 0.5) for setting in settings}
    height = 0.8 / max(len(settings), 1)
    figure = Figure(figsize=(10, 1.3 + 0.42 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for row, (_, group) in enumerate(groups):
        for outcome in group:
            setting = outcome.stride, outcome.threads
            y = row - 0.4 + height * (settings.index(setting) + 0.5)
            colour, alpha = shades[setting]
            low, high = outcome.interval
            shown = min(outcome.ratio, WIDEST_RATIO)
            axes.barh(y, shown - 1, height, left=1, color=colour, alpha=alpha, linewidth=0)
            if outcome.ratio >= WIDEST_RATIO:
                axes.annotate(f" {outcome.ratio:.1f}", (WIDEST_RATIO, y), fontsize=7, va="center", color=colour)
            else:
                axes.plot(np.clip([low, high], NARROWEST_RATIO, WIDEST_RATIO), [y, y], color="black", linewidth=0.8)
    axes.axvline(1, color=GREY, linewidth=1)
    names = [title + FAMILIES[family] for (title, family), _ in groups]
    axes.set_yticks(range(len(groups)), names, fontsize=8)
    axes.set(
        xlabel="latency after / before", xlim=(NARROWEST_RATIO, 1.08 * WIDEST_RATIO), ylim=(len(groups) - 0.4, -0.6)
    )
    axes.set_title("Rewrites, end to end (95 % intervals)", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    handles = [
        Patch(color=shades[s][0], alpha=shades[s][1], label=f"stride {s[0]}, {s[1]} thread{'s' if s[1] > 1 else ''}")
        for s in settings
    ]
    axes.legend(handles=handles, frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return figure
