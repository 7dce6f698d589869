"""Two tables, row by row: what is the same, faster or slower in the second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from latencykit.errors import NotComparableError, UsageError
from latencykit.host import CpuFacts
from latencykit.judge import ONE_MEASUREMENT, OUTCOMES, Judgement, judge
from latencykit.keys import Key
from latencykit.runtime import Setting
from latencykit.table import MACHINE_FACTS, Row, Table

MARGIN_PCT = 3.0
_VARYING_FACTS = {"memory_bytes", "nominal_mhz"}
"""Facts that differ between two looks at one machine and mean nothing."""


@dataclass(frozen=True)
class ComparedRow:
    """One cost in both tables."""

    a: Row
    b: Row
    judgement: Judgement


@dataclass(frozen=True)
class Drift:
    """What moved all rows of a setting together: the machine's mood, mostly. It is shown, and not taken out of a row.

    Attributes:
        median_ratio: the median over rows of B's figure to A's.
        sentinel_ratio: the same of the kernel that both builds timed throughout; None where one did not.
    """

    setting: Setting
    median_ratio: float
    sentinel_ratio: float | None


@dataclass(frozen=True)
class Comparison:
    """All rows of two tables.

    Attributes:
        rows: measured in both, in A's order.
        only_a, only_b: measured in one.
        drifts: one for each setting in common.
        warnings: why the verdicts may say more about the machine than about its kernels.
    """

    rows: tuple[ComparedRow, ...]
    only_a: tuple[Row, ...]
    only_b: tuple[Row, ...]
    drifts: tuple[Drift, ...]
    margin_pct: float
    warnings: tuple[str, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        """How many rows of each verdict, and `ONLY_A`, `ONLY_B`."""
        found = Counter(row.judgement.outcome for row in self.rows)
        of_one = {"ONLY_A": len(self.only_a), "ONLY_B": len(self.only_b)}
        return {**{outcome: found[outcome] for outcome in OUTCOMES}, **of_one}


def compare(a: Table, b: Table, margin_pct: float = MARGIN_PCT, *, force: bool = False) -> Comparison:
    """Judge every row that was measured in both tables; `latencykit.judge` says how.

    A row whose samples are the same ones, since one table was made from the other, is the same.

    Args:
        a: before.
        b: after.
        margin_pct: a smaller change does not matter.
        force: compare what is not comparable; the warnings then say why it is not.

    Raises:
        NotComparableError: another CPU or runtime, or no row in common.
        UsageError: a margin that is none.
    """
    if not 0 < margin_pct < 100:
        raise UsageError(f"the margin is {margin_pct:g} %; expected more than 0 and less than 100: --margin-pct 3")
    rows_a, rows_b = _measured(a), _measured(b)
    common = [key for key in rows_a if key in rows_b]
    reasons = [*_other_machine(a, b), *([] if common else [_nothing_in_common(a, b)])]
    if reasons and not force:
        raise NotComparableError(
            f"{a.name} and {b.name} are not comparable: {'; '.join(reasons)}. "
            "Compare tables of one CPU, runtime and setting, or pass --force"
        )
    judged = _judged([(rows_a[key], rows_b[key]) for key in common], margin_pct)
    drifts = tuple(_drift(setting, judged, a, b) for setting in dict.fromkeys(setting for setting, _ in common))
    return Comparison(
        judged,
        tuple(row for key, row in rows_a.items() if key not in rows_b),
        tuple(row for key, row in rows_b.items() if key not in rows_a),
        drifts,
        margin_pct,
        (*reasons, *_warnings(a, b, drifts, margin_pct)),
    )


def _judged(pairs: list[tuple[Row, Row]], margin_pct: float) -> tuple[ComparedRow, ...]:
    both = [(a, b, a.measurement, b.measurement) for a, b in pairs]
    told = [(a.setting, m, n) for a, _, m, n in both if m is not None and n is not None and m != n]
    found = iter(judge([m for _, m, _ in told], [n for _, _, n in told], [s for s, _, _ in told], margin_pct))
    return tuple(ComparedRow(a, b, ONE_MEASUREMENT if m == n else next(found)) for a, b, m, n in both)


def _measured(table: Table) -> dict[tuple[Setting, Key], Row]:
    return {(row.setting, row.key): row for row in table.rows if row.measurement is not None}


def _other_machine(a: Table, b: Table) -> list[str]:
    facts = [(name, getattr(a.cpu, name), getattr(b.cpu, name)) for name in MACHINE_FACTS]
    facts.append(("onnxruntime", a.runtime["onnxruntime"], b.runtime["onnxruntime"]))
    return [f"{name} is {mine!r} in A and {theirs!r} in B" for name, mine, theirs in facts if mine != theirs]


def _nothing_in_common(a: Table, b: Table) -> str:
    listed = ["; ".join(map(str, table.settings)) or "nothing" for table in (a, b)]
    return f"they share no measured row (A holds {listed[0]}, B {listed[1]})"


def _drift(setting: Setting, rows: tuple[ComparedRow, ...], a: Table, b: Table) -> Drift:
    ratios = [row.judgement.ratio for row in rows if row.a.setting == setting]
    before, after = (table.sentinels_us(setting) for table in (a, b))
    sentinel = float(np.median(after) / np.median(before)) if before and after else None
    return Drift(setting, float(np.median(ratios)), sentinel)


def _warnings(a: Table, b: Table, drifts: tuple[Drift, ...], margin_pct: float) -> list[str]:
    found = [f"{side}: {doubt}" for side, table in (("A", a), ("B", b)) for doubt in table.doubts]
    names = [f.name for f in fields(CpuFacts) if f.name not in {*MACHINE_FACTS, *_VARYING_FACTS}]
    facts = [(name, getattr(a.cpu, name), getattr(b.cpu, name)) for name in names]
    if changed := [f"{name} {mine!r} to {theirs!r}" for name, mine, theirs in facts if mine != theirs]:
        found.append(f"the machine was set up otherwise: {', '.join(changed)}")
    same = all(getattr(a.cpu, name) == getattr(b.cpu, name) for name in MACHINE_FACTS)
    least = np.log1p(margin_pct / 100) / 2
    moved = [drift for drift in drifts if same and abs(np.log(drift.median_ratio)) >= least]
    found += [
        f"at {drift.setting} the rows moved together, by {100 * (drift.median_ratio - 1):+.1f} % in the middle: first "
        "suspect the machine; run `latencykit doctor` and build both tables in one sitting"
        for drift in moved
    ]
    return found
