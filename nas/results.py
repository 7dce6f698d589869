"""`results.csv`: a line per (row, seed, split, subset, threads, pace), the contract's columns in its order.

One process writes a file at a time; a reader always finds it wholly old or wholly new.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from latencykit.errors import InputError, MissingRowError
from latencykit.files import write_text

if TYPE_CHECKING:
    import pandas as pd

Subset = Literal["all", "clean", "degraded", "seen", "held_out"]
"""All frames of a split; those acquired well, or badly, where the data say so; all of them degraded by kinds that the
quality network's training sees, or by others (`nas.degradations`), distances in pixels."""
SUBSETS: tuple[Subset, ...] = get_args(Subset)
DEFAULT_THREADS = 4  # the contract's default
MAX_FILE_BYTES = 50_000_000

Key = tuple[str, int, str, str, int, float]


@dataclass(frozen=True)
class Result:
    """One line: what a trained row scored and how long a frame took. None is an empty cell: undefined or not measured.

    Attributes:
        row: name of the network pair, as Table II's rows (`unet16`).
        seed: of the search and training.
        split: which frames were scored.
        degraded: the subset of them: one of `SUBSETS`.
        dice: mean Dice.
        hd95_mm: mean 95th-percentile Hausdorff distance, mm.
        asd_mm: mean average symmetric surface distance, mm.
        mae: mean absolute error of the predicted Dice.
        mae_constant: the same of predicting the training mean.
        pearson_r: correlation of predicted and true Dice.
        auroc: of finding frames below the acceptance.
        threads: the runtime's threads while timed.
        pace_hz: calls per second while timed; 0 is back to back.
        p50_ms: median latency of the whole pair.
        p99_ms: its 99th percentile.
        macs: true multiply-accumulates a frame.
        macs_paper: the paper's counting.
        params: deployed parameters.
        config_sha: of the configuration file.
        table_sha: of the latency table; "" where none was used.
        commit: of this project; "" where unknown.

    Raises:
        InputError: a value outside its range, naming the column.
    """

    row: str
    seed: int
    split: str
    degraded: Subset
    dice: float
    hd95_mm: float | None
    asd_mm: float | None
    mae: float
    mae_constant: float
    pearson_r: float | None
    auroc: float | None
    threads: int
    pace_hz: float
    p50_ms: float | None
    p99_ms: float | None
    macs: int
    macs_paper: int
    params: int
    config_sha: str
    table_sha: str
    commit: str

    def __post_init__(self) -> None:
        for name in ("row", "split", "config_sha", "table_sha", "commit"):
            text = getattr(self, name)
            if not text.isprintable() or text != text.strip() or (name in ("row", "split") and not text):
                raise InputError(f"{name} is {text!r}; expected plain text on one line.")
        if self.degraded not in SUBSETS:
            raise InputError(f"degraded is {self.degraded!r}; expected one of {', '.join(SUBSETS)}.")
        for name in ("seed", "macs", "macs_paper", "params", "pace_hz", "hd95_mm", "asd_mm"):
            self._check(name, 0, math.inf)
        for name in ("dice", "mae", "mae_constant", "auroc"):
            self._check(name, 0, 1)
        self._check("threads", 1, math.inf)
        self._check("pearson_r", -1, 1)
        for name in ("p50_ms", "p99_ms"):
            self._check(name, 0, math.inf)
            if getattr(self, name) == 0:
                raise InputError(f"{name} is 0; expected a measured time, or nothing.")

    def _check(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise InputError(f"{name} is {value}; expected {low:g} to {high:g}, finite.")

    @property
    def key(self) -> Key:
        """What makes a line the same line: a later one replaces it."""
        return (self.row, self.seed, self.split, self.degraded, self.threads, self.pace_hz)


COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(Result))
_KINDS = {field.name: str(field.type) for field in fields(Result)}  # strings, since annotations are postponed
_KEY_TEXT = "row, seed, split, degraded, threads and pace_hz"


def merge(old: Iterable[Result], new: Iterable[Result]) -> list[Result]:
    """Old lines in their order, those with the key of a new one replaced in place, the other new ones at the end."""
    return list({result.key: result for result in (*old, *new)}.values())


def append(path: Path, new: Iterable[Result]) -> list[Result]:
    """Merge lines into the file, which need not exist yet, atomically; returns all of them."""
    results = merge(read_results(path) if path.exists() else [], new)
    write_results(path, results)
    return results


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Replace the file by these lines; raises `InputError` where two have one key."""
    if len({result.key for result in results}) < len(results):
        raise InputError(f"{path}: two results share {_KEY_TEXT}; merge them first.")
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_format(value) for value in asdict(result).values()] for result in results)
    write_text(path, buffer.getvalue())


def read_results(path: Path) -> list[Result]:
    """Read the file strictly.

    Raises:
        InputError: it cannot be read, has other columns, a wrong value or one key twice; naming the file and the line.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{path} is {path.stat().st_size} bytes; at most {MAX_FILE_BYTES} are read.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    results: dict[Key, Result] = {}
    try:
        header = next(reader, [])
        if tuple(header) != COLUMNS:
            raise InputError(f"columns {','.join(COLUMNS)} expected, found {','.join(header)[:200] or 'none'}.")
        for cells in reader:
            result = _parse(cells)
            if result.key in results:
                raise InputError(f"a second line with the same {_KEY_TEXT}; delete one.")
            results[result.key] = result
    except (csv.Error, InputError) as error:
        raise InputError(f"{path}, line {max(reader.line_num, 1)}: {error}") from error
    return list(results.values())


def results_frame(results: Sequence[Result]) -> pd.DataFrame:
    """The lines as a DataFrame with the contract's columns; None becomes NaN."""
    import pandas as pd

    kinds = {"str": "str", "int": "int64", "float": "float64", "float | None": "float64", "Subset": "str"}
    frame = pd.DataFrame([asdict(result) for result in results], columns=list(COLUMNS))
    return frame.astype({name: kinds[kind] for name, kind in _KINDS.items()})


_SUBSET_TEXTS = {
    "seen": "frames degraded by kinds seen in training",
    "held_out": "frames degraded by kinds held out",
}


@dataclass(frozen=True)
class Selection:
    """Which lines are compared with each other: one split, subset, thread count and pace."""

    split: str
    degraded: Subset
    threads: int
    pace_hz: float

    def of(self, results: Iterable[Result]) -> list[Result]:
        """The lines of this selection in their order; raises `MissingRowError` where there is none."""
        chosen = [r for r in results if (r.split, r.degraded, r.threads, r.pace_hz) == self._values]
        if not chosen:
            raise MissingRowError(f"results: no line for {self}; `nas run CONFIG --out DIR` makes them.")
        return chosen

    @property
    def _values(self) -> tuple[str, str, int, float]:
        return (self.split, self.degraded, self.threads, self.pace_hz)

    def __str__(self) -> str:
        pace = f"paced at {self.pace_hz:.4g} Hz" if self.pace_hz else "back to back"
        subset = _SUBSET_TEXTS.get(self.degraded, f"{self.degraded} frames")
        return f"split {self.split}, {subset}, {self.threads} thread{'s' if self.threads > 1 else ''}, {pace}"


def choose_selection(
    results: Sequence[Result],
    split: str | None = None,
    degraded: Subset = "all",
    threads: int | None = None,
    pace_hz: float | None = None,
) -> Selection:
    """A selection with what was left open filled in from the results.

    The split: the only one there is. Threads: 4 where measured, else the most. The pace: the paced one, since
    on-the-fly use is paced; back to back where nothing else was measured.

    Raises:
        MissingRowError: no results, none for what was asked, or several splits or paces to choose from.
    """
    left = [r for r in results if r.degraded == degraded and split in (None, r.split) and threads in (None, r.threads)]
    left = [r for r in left if pace_hz in (None, r.pace_hz)]
    if not left:
        asked = {"split": split, "subset": degraded, "threads": threads, "pace": pace_hz}
        there: dict[str, Sequence[object]] = {
            "splits": sorted({r.split for r in results}),
            "subsets": sorted({r.degraded for r in results}),
            "threads": sorted({r.threads for r in results}),
            "paces": sorted({r.pace_hz for r in results}),
        }
        wanted = ", ".join(f"{name} {value}" for name, value in asked.items() if value is not None)
        known = "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in there.items())
        raise MissingRowError(f"results: none of {len(results)} lines is of {wanted}; there are {known}.")
    if len(splits := sorted({r.split for r in left})) > 1:
        raise MissingRowError(f"results: there are the splits {', '.join(splits)}; choose one.")
    counts = {r.threads for r in left}
    threads = DEFAULT_THREADS if DEFAULT_THREADS in counts else max(counts)
    paces = {r.pace_hz for r in left if r.threads == threads}
    if len(paced := sorted(paces - {0})) > 1:
        raise MissingRowError(f"results: there are the paces {', '.join(f'{p:g}' for p in paced)} Hz; choose one.")
    return Selection(splits[0], degraded, threads, paced[0] if paced else 0.0)


def _format(value: str | float | None) -> str:
    if value is None:
        return ""
    return repr(float(value)).removesuffix(".0") if isinstance(value, float) else str(value)


def _parse(cells: Sequence[str]) -> Result:
    if len(cells) != len(COLUMNS):
        raise InputError(f"{len(COLUMNS)} cells expected, found {len(cells)}.")
    values: dict[str, object] = {}
    for name, cell in zip(COLUMNS, cells, strict=True):
        kind = _KINDS[name]
        try:
            if kind == "int":
                values[name] = int(cell)
            elif kind.startswith("float"):
                values[name] = None if not cell and kind.endswith("None") else float(cell)
            else:
                values[name] = cell
        except ValueError:
            raise InputError(f"{name} is {cell!r}; expected a number.") from None
    return Result(**values)  # type: ignore[arg-type]  # each of its field's type
