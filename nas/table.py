"""Table II from the results: per row the mean and standard deviation over seeds and the best, beside what it costs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from latencykit.errors import MissingRowError
from nas.results import Result, Selection

if TYPE_CHECKING:
    from rich.table import Table as RichTable

REFERENCE_ROW = "unet16"  # U-Net(16) + ResNet18, what the paper's 40.2 % is relative to
NOTHING = "-"
"""Shown where a figure is undefined or was not measured."""


@dataclass(frozen=True)
class Spread:
    """A figure over seeds: mean, sample standard deviation (None for one seed) and how many."""

    mean: float
    sd: float | None
    n: int

    def text(self, digits: int) -> str:
        """`0.832±0.004`, or the mean alone for one seed."""
        return f"{self.mean:.{digits}f}" + ("" if self.sd is None else f"±{self.sd:.{digits}f}")


def spread(values: Iterable[float | None]) -> Spread | None:
    """The spread of the values there are; None where there are none."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    return Spread(statistics.fmean(there), statistics.stdev(there) if len(there) > 1 else None, len(there))


@dataclass(frozen=True)
class TableRow:
    """One method of Table II.

    Attributes:
        row: its name.
        seeds: the seeds that its figures are over.
        best_seed: the one with the best Dice on the table's `best_by` split.
        dice_best: that seed's Dice on the split shown.
        dice: over seeds, as every `Spread` here.
        mae_constant: what predicting the training mean would reach, beside `mae` (decision 25).
        latency_reduction_pct: of the median latency, against the reference row; None without one.
        macs_m: true multiply-accumulates, millions; `macs_paper_m` is the paper's counting.
        params_k: deployed parameters, thousands.
    """

    row: str
    seeds: tuple[int, ...]
    best_seed: int
    dice_best: float
    dice: Spread
    mae: Spread
    mae_constant: Spread
    pearson_r: Spread | None
    auroc: Spread | None
    hd95_mm: Spread | None
    asd_mm: Spread | None
    p50_ms: Spread | None
    p99_ms: Spread | None
    latency_reduction_pct: float | None
    macs_m: Spread
    macs_paper_m: Spread
    params_k: Spread


@dataclass(frozen=True)
class Table:
    """Table II under one selection.

    Attributes:
        selection: split, subset, threads and pace; the same for every row.
        reference: row that the latency reduction is relative to.
        best_by: split by which the best seed is picked. Where it is the split shown, the best is an optimistic figure.
        rows: in the order of the results.
        notes: what a reader must know and the figures do not show.
    """

    selection: Selection
    reference: str
    best_by: str
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)


def build_table(
    results: Sequence[Result],
    selection: Selection,
    reference: str = REFERENCE_ROW,
    best_by: str | None = None,
) -> Table:
    """Gather Table II.

    Args:
        results: lines of `results.csv`.
        selection: which of them; see `nas.results.choose_selection`.
        reference: row that the latency reduction is relative to.
        best_by: split by which each row's best seed is picked; the split shown, as in the paper, where not given.

    Raises:
        MissingRowError: no line of the selection; a seed that was not scored on `best_by`; a reference other than the
            default that is not there.
    """
    chosen = selection.of(results)
    names = list(dict.fromkeys(result.row for result in chosen))
    by_row = {name: [result for result in chosen if result.row == name] for name in names}
    base = spread(result.p50_ms for result in by_row.get(reference, []))
    if reference not in by_row and reference != REFERENCE_ROW:
        raise MissingRowError(f"table: no row {reference!r} in {selection}; there are {', '.join(names)}.")
    best_by = best_by or selection.split
    rows = tuple(_row(name, by_row[name], base, _ranking(results, by_row[name], best_by)) for name in names)
    return Table(selection, reference, best_by, rows, tuple(_notes(rows, selection, reference, base, best_by)))


def _ranking(results: Sequence[Result], row: Sequence[Result], best_by: str) -> dict[int, float]:
    """Dice by seed on the split that decides which seed is best: on all of its frames, unless it is the one shown."""
    name, wanted = row[0].row, {result.seed for result in row}
    known = {r.seed: r.dice for r in results if (r.row, r.split, r.degraded) == (name, best_by, "all")}
    known |= {r.seed: r.dice for r in row if r.split == best_by}
    if lacking := sorted(wanted - set(known)):
        raise MissingRowError(
            f"table: {name} seed {lacking[0]} has no Dice on {best_by!r}; `nas run CONFIG --out DIR` scores it."
        )
    return {seed: known[seed] for seed in wanted}


def _row(name: str, results: Sequence[Result], base: Spread | None, ranking: dict[int, float]) -> TableRow:
    def over(value: Callable[[Result], float | None]) -> Spread | None:
        return spread(map(value, results))

    def certain(value: Callable[[Result], float]) -> Spread:
        found = over(value)
        assert found is not None  # a required column, and a row has at least one line
        return found

    best = max(results, key=lambda result: (ranking[result.seed], -result.seed))
    p50_ms = over(lambda r: r.p50_ms)
    return TableRow(
        row=name,
        seeds=tuple(sorted(result.seed for result in results)),
        best_seed=best.seed,
        dice_best=best.dice,
        dice=certain(lambda r: r.dice),
        mae=certain(lambda r: r.mae),
        mae_constant=certain(lambda r: r.mae_constant),
        pearson_r=over(lambda r: r.pearson_r),
        auroc=over(lambda r: r.auroc),
        hd95_mm=over(lambda r: r.hd95_mm),
        asd_mm=over(lambda r: r.asd_mm),
        p50_ms=p50_ms,
        p99_ms=over(lambda r: r.p99_ms),
        latency_reduction_pct=None if base is None or p50_ms is None else 100 * (1 - p50_ms.mean / base.mean),
        macs_m=certain(lambda r: r.macs / 1e6),
        macs_paper_m=certain(lambda r: r.macs_paper / 1e6),
        params_k=certain(lambda r: r.params / 1e3),
    )


def _notes(
    rows: Sequence[TableRow], selection: Selection, reference: str, base: Spread | None, best_by: str
) -> Iterable[str]:
    if base is None:
        yield f"No latency of the reference row {reference}, so no latency reduction."
    if unmeasured := [row.row for row in rows if row.p50_ms is None]:
        yield f"Not timed: {', '.join(unmeasured)}."
    if len({row.seeds for row in rows}) > 1:
        yield (
            "Rows are over different seeds: " + "; ".join(f"{r.row} {', '.join(map(str, r.seeds))}" for r in rows) + "."
        )
    partial = [row.row for row in rows if any(0 < f.n < len(row.seeds) for f in (row.p50_ms, row.hd95_mm) if f)]
    if partial:
        yield f"Some seeds lack a latency or a distance: {', '.join(partial)}."
    if best_by == selection.split and any(len(row.seeds) > 1 for row in rows):
        yield f"The best seed was picked on the split it is shown for ({selection.split}), as in the paper: optimistic."


def _text(value: Spread | None, digits: int) -> str:
    return NOTHING if value is None else value.text(digits)


COLUMNS: tuple[tuple[str, Callable[[TableRow], str]], ...] = (
    ("method", lambda r: r.row),
    ("seeds", lambda r: str(len(r.seeds))),
    ("Dice", lambda r: r.dice.text(3)),
    ("best", lambda r: f"{r.dice_best:.3f}"),
    ("MAE", lambda r: r.mae.text(3)),
    ("const. MAE", lambda r: f"{r.mae_constant.mean:.3f}"),
    ("r", lambda r: _text(r.pearson_r, 2)),
    ("AUROC", lambda r: _text(r.auroc, 2)),
    ("HD95 mm", lambda r: _text(r.hd95_mm, 1)),
    ("ASD mm", lambda r: _text(r.asd_mm, 2)),
    ("p50 ms", lambda r: _text(r.p50_ms, 2)),
    ("p99 ms", lambda r: NOTHING if r.p99_ms is None else f"{r.p99_ms.mean:.2f}"),
    ("less ms %", lambda r: NOTHING if r.latency_reduction_pct is None else f"{r.latency_reduction_pct:.1f}"),
    ("MACs M", lambda r: f"{r.macs_m.mean:.0f}"),
    ("paper's M", lambda r: f"{r.macs_paper_m.mean:.0f}"),
    ("params k", lambda r: f"{r.params_k.mean:.0f}"),
)
"""Heading and text of every column shown: the mean, with the standard deviation where seeds differ by nature."""


def caption(table: Table) -> str:
    """What the figures are of, in a line."""
    return f"Of {table.selection}. Mean ± deviation over seeds; less ms: reduction of p50 from {table.reference}."


def rich_table(table: Table) -> RichTable:
    """The table for the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable

    text = "\n".join((caption(table), *table.notes))
    shown = RichTable(title="Table II", caption=text, caption_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, (heading, _) in enumerate(COLUMNS):
        shown.add_column(heading, justify="right" if index else "left", overflow="fold", no_wrap=not index)
    for row in table.rows:
        shown.add_row(*(text(row) for _, text in COLUMNS))
    return shown


def markdown_table(table: Table) -> str:
    """The table as GitHub's markdown, its caption and notes below it."""
    lines = ["| " + " | ".join(heading for heading, _ in COLUMNS) + " |"]
    lines.append("|" + "---|" + "---:|" * (len(COLUMNS) - 1))
    for row in table.rows:
        lines += ["| " + " | ".join(text(row).replace("|", r"\|") for _, text in COLUMNS) + " |"]
    return "\n".join((*lines, "", caption(table), *table.notes)) + "\n"
