"""`latencykit compare` and `latencykit selftest`: is it slower, and could a slowdown be told at all?"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.table import Table as Grid

from latencykit.commands.options import FILE
from latencykit.compare import MARGIN_PCT, ComparedRow, Comparison, compare
from latencykit.comparison_figure import comparison_figure
from latencykit.console import emit, json_option, threads_option
from latencykit.errors import RegressionError, UsageError
from latencykit.figures import figure_format, save_figure
from latencykit.judge import CONFIDENCE, Judgement
from latencykit.keys import key_id
from latencykit.progress import Stopwatch, progress
from latencykit.runtime import Setting
from latencykit.selftest import (
    ITEMS_A_KERNEL,
    PAIRS,
    PLANTED_PCT,
    SELFTEST_PROTOCOL,
    SelfTest,
    selftest,
    selftest_kernels,
)
from latencykit.table_file import load_table
from latencykit.topology import check_threads

SHOWN_ROWS = 25
_PLAIN: Mapping[str, Any] = {"box": None, "header_style": "bold", "pad_edge": False}


@click.command("compare")
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@click.option("--margin-pct", default=MARGIN_PCT, show_default=True, help="A smaller change does not matter.")
@click.option("--force", is_flag=True, help="Compare even tables of another CPU, runtime or setting.")
@click.option("--plot", type=FILE, help="Every row's ratio over its cost, PNG or SVG.")
@json_option
def compare_command(a: Path, b: Path, margin_pct: float, force: bool, plot: Path | None, as_json: bool) -> None:
    """Compare two tables row by row: SAME, FASTER or SLOWER in B, or UNCLEAR. Ends with 8 where any row is SLOWER.

    Example: latencykit compare luts/before.json luts/after.json --plot compared.png
    """
    if plot:
        figure_format(plot)
    found = compare(load_table(a), load_table(b), margin_pct, force=force)
    if plot:
        save_figure(comparison_figure(found, f"A {a}, B {b}"), plot)
    counts = ", ".join(f"{count} {name}" for name, count in found.counts.items() if count)
    data = {"a": str(a), "b": str(b), **comparison_json(found)}
    emit(as_json, "compare", data, _shown(found, counts), found.warnings)
    if found.counts["SLOWER"]:
        sys.exit(RegressionError.exit_code)


def comparison_json(found: Comparison) -> dict[str, Any]:
    """`compare`'s rows, counts and drift."""
    return {
        "margin_pct": found.margin_pct,
        "confidence_pct": 100 * CONFIDENCE,
        "rows": [_row_json(row) for row in found.rows],
        "counts": found.counts,
        "only_a": [str(row.key) for row in found.only_a],
        "only_b": [str(row.key) for row in found.only_b],
        "drift": [
            {"threads": d.setting.threads, "median_ratio": d.median_ratio, "sentinel_ratio": d.sentinel_ratio}
            for d in found.drifts
        ],
    }


def _row_json(row: ComparedRow) -> dict[str, Any]:
    return {
        "key": str(row.a.key),
        "id": key_id(row.a.key),
        "level": row.a.level,
        "threads": row.a.setting.threads,
        "a_us": row.a.median_us,
        "b_us": row.b.median_us,
        **_judgement_json(row.judgement),
    }


def _judgement_json(judgement: Judgement) -> dict[str, Any]:
    low, high = judgement.interval
    ci = [low, high] if math.isfinite(high) else [None, None]  # one process on either side has no interval
    return {"verdict": judgement.outcome, "ratio": judgement.ratio, "ci": ci, "q": judgement.q}


def _shown(found: Comparison, counts: str) -> list[Any]:
    drifts = [
        f"{d.setting}: rows {_percent(d.median_ratio)} in the middle"
        + ("" if d.sentinel_ratio is None else f", sentinel {_percent(d.sentinel_ratio)}")
        for d in found.drifts
    ]
    changed = [row for row in found.rows if row.judgement.outcome in ("SLOWER", "FASTER")]
    changed.sort(key=lambda row: row.judgement.ratio, reverse=True)
    grid = Grid("verdict", "B to A", "95 % interval", "A us", "threads", "what", **_PLAIN)
    for row in _ends(changed):
        judgement = row.judgement
        low, high = map(_percent, judgement.interval)
        cost, threads = f"{row.a.median_us:.1f}", str(row.a.setting.threads)
        grid.add_row(judgement.outcome, _percent(judgement.ratio), f"{low} to {high}", cost, threads, str(row.a.key))
    hidden = [f"and {len(changed) - SHOWN_ROWS} more; --json lists all"] if len(changed) > SHOWN_ROWS else []
    return [*drifts, *([grid] if changed else []), *hidden, f"{counts or 'no rows'} (margin {found.margin_pct:g} %)"]


def _ends(rows: Sequence[ComparedRow]) -> Sequence[ComparedRow]:
    """The slowest and the fastest ones where there are many."""
    if len(rows) <= SHOWN_ROWS:
        return rows
    return [*rows[: SHOWN_ROWS - SHOWN_ROWS // 2], *rows[-(SHOWN_ROWS // 2) :]]


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"


@click.command("selftest")
@threads_option
@click.option("--pairs", default=PAIRS, show_default=True, help="How many kernels are paired with themselves.")
@json_option
def selftest_command(threads: int, pairs: int, as_json: bool) -> None:
    """Prove the measuring here: equal kernels must read SAME, planted slowdowns SLOWER. Ends with 8 where they do not.

    Example: latencykit selftest --threads 2
    """
    if pairs < 1:
        raise UsageError(f"--pairs {pairs}: at least 1 expected; percentages need 60 or so.")
    check_threads(threads)
    watch = Stopwatch()
    kernels = selftest_kernels(pairs)
    with progress("measure pairs", pairs * ITEMS_A_KERNEL * SELFTEST_PROTOCOL.processes) as advance:
        found = selftest(Setting(threads), kernels, advance=advance)
    data = {"threads": threads, **selftest_json(found), "wall_s": watch.seconds}
    remedy = "stop other programs and run `latencykit doctor`, then this again"
    warnings = [f"{shortfall}: {remedy}" for shortfall in found.shortfalls]
    emit(as_json, "selftest", data, _selftest_shown(found), warnings)
    if found.shortfalls:
        sys.exit(RegressionError.exit_code)


def selftest_json(found: SelfTest) -> dict[str, Any]:
    """`selftest`'s shares, and each pair that got the wrong verdict."""
    return {
        "pairs": len(found.pairs) // len(PLANTED_PCT),
        "processes": SELFTEST_PROTOCOL.processes,
        "same_pct": found.right_pct(0.0),
        "slowdown_found_pct": found.right_pct(*PLANTED_PCT[1:]),
        **{f"slowdown_{planted:g}_found_pct": found.right_pct(planted) for planted in PLANTED_PCT[1:]},
        "passed": not found.shortfalls,
        "wrong": [
            {"key": str(pair.kernel), "planted_pct": pair.planted_pct, **_judgement_json(pair.judgement)}
            for pair in found.pairs
            if not pair.right
        ],
    }


def _selftest_shown(found: SelfTest) -> list[str]:
    data = selftest_json(found)
    shares = [f"planted +{planted:g} % found {found.right_pct(planted):.0f} %" for planted in PLANTED_PCT[1:]]
    wrong = [
        f"  {pair.kernel}, planted +{pair.planted_pct:g} %: {pair.judgement.outcome} at "
        f"{_percent(pair.judgement.ratio)}"
        for pair in found.pairs
        if not pair.right
    ]
    head = f"{found.setting}: {data['pairs']} pairs of a kernel with itself, {data['processes']} processes"
    return [head, f"SAME {found.right_pct(0.0):.0f} %, {', '.join(shares)}", *wrong]
