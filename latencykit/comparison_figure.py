"""The picture of a comparison: every row's ratio over its cost, the margin as a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from latencykit.compare import ComparedRow, Comparison, Drift
from latencykit.figures import BLUE, GREEN, GREY, ORANGE
from latencykit.judge import OUTCOMES, Outcome

_COLOURS: Mapping[Outcome, str] = {"SAME": BLUE, "FASTER": GREEN, "SLOWER": ORANGE, "UNCLEAR": GREY}
_SHOWN_MARGINS = 4
"""The axis shows at least this many margins to either side, and 95 % of the rows; what lies beyond sits on its edge."""


def comparison_figure(comparison: Comparison, title: str) -> Figure:
    """Ratio of every row over what it costs in A, with its interval; one panel for each setting."""
    drifts = comparison.drifts or (None,)
    figure = Figure(figsize=(1 + 5.5 * len(drifts), 4.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(drifts), sharey=True))
    changes = np.array([_percent(row.judgement.ratio) for row in comparison.rows] or [0.0])
    limit = max(_SHOWN_MARGINS * comparison.margin_pct, 1.1 * float(np.percentile(np.abs(changes), 95, method="lower")))
    for axes, drift in zip(panels, drifts, strict=True):
        rows = [row for row in comparison.rows if drift and row.a.setting == drift.setting]
        _band(axes, comparison.margin_pct, limit)
        for outcome in OUTCOMES:
            _points(axes, [row for row in rows if row.judgement.outcome == outcome], outcome, limit)
        axes.set_title(_headline(drift, len(rows)), loc="left", fontsize=10)
        axes.set(xscale="log" if rows else "linear", xlabel="cost in A, µs", ylim=(-limit, limit))
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=len(OUTCOMES))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("B against A, %")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _percent(ratio: float) -> float:
    return 100 * (ratio - 1)


def _headline(drift: Drift | None, rows: int) -> str:
    if drift is None:
        return "no rows in common"
    sentinel = "" if drift.sentinel_ratio is None else f", sentinel {_percent(drift.sentinel_ratio):+.1f} %"
    return f"{drift.setting}: {rows} rows, median {_percent(drift.median_ratio):+.1f} %{sentinel}"


def _band(axes: Axes, margin_pct: float, limit: float) -> None:
    low = _percent(1 / (1 + margin_pct / 100))
    axes.axhspan(low, margin_pct, color=GREY, alpha=0.15, linewidth=0)
    axes.axhline(0, color=GREY, linewidth=1)
    axes.annotate(
        f"± {margin_pct:g} %", (1, margin_pct), xycoords=("axes fraction", "data"), xytext=(-2, 2),
        textcoords="offset points", ha="right", fontsize=8, color=GREY,
    )  # fmt: skip


def _points(axes: Axes, rows: Sequence[ComparedRow], outcome: Outcome, limit: float) -> None:
    colour = _COLOURS[outcome]
    costs = np.array([row.a.median_us for row in rows])
    changes = np.array([_percent(row.judgement.ratio) for row in rows])
    intervals = np.array([row.judgement.interval for row in rows]).reshape(-1, 2)
    low, high = (100 * (intervals - 1)).clip(-limit, limit).T
    axes.vlines(costs, low, high, color=colour, alpha=0.25, linewidth=0.8)
    inside = np.abs(changes) <= limit
    axes.scatter(
        costs[inside], changes[inside], s=14, color=colour, alpha=0.85, linewidth=0, label=f"{outcome} {len(rows)}"
    )
    for beyond, marker, edge in ((changes > limit, "^", limit), (changes < -limit, "v", -limit)):
        axes.scatter(
            costs[beyond], np.full(beyond.sum(), edge), s=30, color=colour, marker=marker, linewidth=0, clip_on=False
        )
