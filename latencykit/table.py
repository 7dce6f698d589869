"""The versioned latency table: rows under (setting, level, key), strict look-ups, provenance, a checksum.

History of the schema:

* 1 - levels `isolated` and `kernel` measured; `edge`, `calibration` and `validation` have their place and are empty.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from latencykit.bounds import shown
from latencykit.errors import InputError, MissingRowError, NotComparableError
from latencykit.files import write_text
from latencykit.graph import chain
from latencykit.host import CpuFacts
from latencykit.kernels import Kernel, kernel_from_json
from latencykit.measurement import LONGEST_US, Measurement
from latencykit.runtime import Setting
from latencykit.schema import decode, naming, read_json, to_json
from latencykit.spec import Identity, Operation, Shape, Zero, operation_from_json, operation_to_json

if TYPE_CHECKING:
    import pandas as pd

TABLE_SCHEMA = 1
MAX_TABLE_BYTES = 100_000_000
MAX_THREADS = 4096
_INT64 = 2**63

FRAME_COLUMNS = (
    *("level", "threads", "id", "label", "origin", "median_us", "low_us", "high_us", "error_pct"),
    *("processes", "samples", "macs", "parameters", "bytes"),
)
"""Columns of `Table.to_frame`, there without a row too."""

Level = Literal["isolated", "kernel", "edge"]
Origin = Literal["measured", "fitted", "interpolated", "defined"]
"""`defined` is for zero and identity, which are deleted before a network is made: 0 by definition, and said so."""


@dataclass(frozen=True)
class Primitive:
    """Key of the `isolated` level: a chain of operations alone in a model, in the graph's terms.

    Attributes:
        operations: the first takes all inputs, each further one its predecessor.
        inputs: shapes that enter the first.
    """

    operations: tuple[Operation, ...]
    inputs: tuple[Shape, ...]

    def __str__(self) -> str:
        shapes = " + ".join("x".join(map(str, shape)) for shape in self.inputs)
        return f"{' > '.join(map(str, self.operations))} on {shapes}"


Key = Primitive | Kernel


def key_level(key: Key) -> Level:
    """The level that a key belongs to."""
    return "kernel" if isinstance(key, Kernel) else "isolated"


def key_to_json(key: Key) -> Any:
    """A key as JSON data."""
    if isinstance(key, Kernel):
        return to_json(key)
    return {"operations": [operation_to_json(o) for o in key.operations], "inputs": [list(s) for s in key.inputs]}


def key_id(key: Key) -> str:
    """A short stable name of a key: its level and the start of a hash of its content."""
    content = json.dumps(key_to_json(key), sort_keys=True, separators=(",", ":"))
    return f"{key_level(key)}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Row:
    """One cost.

    Attributes:
        key: what was measured; setting: how it was run.
        origin: where the figure comes from.
        macs, parameters, bytes: of the key, bytes read and written once each.
        measurement: the raw samples; None where the origin is not `measured`.
        value_us: the figure of a row that was not measured.
    """

    key: Key
    setting: Setting
    origin: Origin
    macs: int
    parameters: int
    bytes: int
    measurement: Measurement | None = None
    value_us: float = 0.0

    def __post_init__(self) -> None:
        if (self.origin == "measured") != (self.measurement is not None):
            raise InputError(f"row {self.key}: origin {self.origin!r} and its samples do not fit together.")
        for name in ("macs", "parameters", "bytes"):
            if not 0 <= getattr(self, name) < _INT64:
                raise InputError(f"row {self.key}: {name} is {shown(getattr(self, name))}; expected 0 to 2^63 - 1.")
        if not 0 <= self.value_us <= LONGEST_US:
            raise InputError(f"row {self.key}: {self.value_us} us; expected 0 to {LONGEST_US:g}.")

    @property
    def level(self) -> Level:
        """The level that the row belongs to."""
        return key_level(self.key)

    @property
    def median_us(self) -> float:
        """The cost, call overhead included where it was measured."""
        return self.measurement.median_us if self.measurement else self.value_us

    @property
    def interval_us(self) -> tuple[float, float]:
        """Its interval; a point where nothing was measured."""
        return self.measurement.interval_us if self.measurement else (self.value_us, self.value_us)


def make_row(key: Key, setting: Setting, measurement: Measurement) -> Row:
    """A measured row with the key's own costs; its samples in whole nanoseconds, which is what a file keeps."""
    measurement = Measurement(tuple(tuple(round(v, 3) for v in samples) for samples in measurement.samples_us))
    if isinstance(key, Kernel):
        return Row(key, setting, "measured", key.macs, key.parameters, key.moved_bytes, measurement)
    graph = chain(key.operations, key.inputs)
    return Row(key, setting, "measured", graph.macs, graph.parameters, graph.moved_bytes, measurement)


def defined_row(key: Primitive, setting: Setting) -> Row:
    """The row of an operation that no network contains: an identity passes its input on, a zero is deleted."""
    if not all(isinstance(operation, Identity | Zero) for operation in key.operations):
        raise InputError(f"row {key}: only identity and zero cost nothing by definition.")
    return Row(key, setting, "defined", 0, 0, 0)


@dataclass(frozen=True)
class Sentinel:
    """A kernel timed at the start of every measuring process, so that a machine that changed is seen."""

    setting: Setting
    medians_us: tuple[float, ...]

    def __post_init__(self) -> None:
        Measurement((self.medians_us,))  # as plausible as samples


@dataclass(frozen=True)
class Table:
    """All costs of one CPU under one runtime.

    Attributes:
        cpu: facts about the machine, without its name.
        runtime: versions by package; `onnxruntime` decides whether two tables may be compared.
        doctor: the doctor's verdict when the table was built, as JSON data.
        rows: in the order they were added.
        sentinels: the drift through the build.
        calibration, validation: empty until they have been made.
        parents: checksums of the tables that this one was made from.
    """

    cpu: CpuFacts
    runtime: Mapping[str, str]
    doctor: Mapping[str, Any]
    rows: tuple[Row, ...]
    sentinels: tuple[Sentinel, ...] = ()
    calibration: Mapping[str, Any] | None = None
    validation: Mapping[str, Any] | None = None
    parents: tuple[str, ...] = ()
    path: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if "onnxruntime" not in self.runtime:
            raise InputError("table: `runtime` names no version of onnxruntime.")
        if len(self._index) != len(self.rows):
            raise InputError("table: two rows have the same setting, level and key.")
        if lost := {sentinel.setting for sentinel in self.sentinels} - {row.setting for row in self.rows}:
            raise InputError(f"table: a sentinel of {lost.pop()}, a setting without rows.")

    @cached_property
    def _index(self) -> Mapping[tuple[Setting, Key], Row]:
        return {(row.setting, row.key): row for row in self.rows}

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Execution settings with rows, fewest threads first, in an order that is always the same."""
        return tuple(sorted({row.setting for row in self.rows}, key=astuple))

    def setting(self, threads: int) -> Setting:
        """The table's setting of that many threads, the default one where there are several.

        Raises:
            MissingRowError: it has none.
        """
        found = [setting for setting in self.settings if setting.threads == threads]
        if not found:
            has = ", ".join(str(s.threads) for s in self.settings) or "none"
            raise MissingRowError(
                f"{self.name} has no rows for {threads} threads, only for {has}. Pass one of these as `--threads N`, "
                f"or measure: latencykit build --out {self.name} --threads {threads}"
            )
        return Setting(threads) if Setting(threads) in found else found[0]

    @property
    def name(self) -> str:
        """The file's path, or a word where there is none."""
        return str(self.path) if self.path else "TABLE"

    def row(self, setting: Setting, key: Key) -> Row:
        """The row of a key; raises `MissingRowError` with the command that adds it."""
        return self.lookup(setting, [key])[0]

    def lookup(self, setting: Setting, keys: Iterable[Key], remedy: str = "") -> list[Row]:
        """Rows of several keys, in order; raises one `MissingRowError` that names all that are missing.

        Args:
            setting: the execution setting.
            keys: what is looked up.
            remedy: options of `latencykit build` that would add the rows; empty where the space's own build adds them.
        """
        wanted = list(keys)
        missing = [key for key in dict.fromkeys(wanted) if (setting, key) not in self._index]
        if missing:
            listed = "\n".join(f"  {key}" for key in missing[:5]) + ("\n  ..." if len(missing) > 5 else "")
            raise MissingRowError(
                f"{self.name} has no row for {len(missing)} of {len(set(wanted))} costs at {setting}:\n{listed}\n"
                f"Measure them: latencykit build --out {self.name} --threads {setting.threads} {remedy}".rstrip()
            )
        return [self._index[setting, key] for key in wanted]

    def has(self, setting: Setting, key: Key) -> bool:
        """Whether there is a row."""
        return (setting, key) in self._index

    def with_rows(self, rows: Sequence[Row], sentinels: Sequence[Sentinel] = ()) -> Table:
        """This table with rows added or replaced."""
        index = dict(self._index) | {(row.setting, row.key): row for row in rows}
        return replace(self, rows=tuple(index.values()), sentinels=(*self.sentinels, *sentinels))

    def require_same_machine(self, cpu: CpuFacts, runtime: Mapping[str, str]) -> None:
        """Raise `NotComparableError` where figures measured under these facts must not join this table."""
        for name in ("model", "isa", "physical_cores", "l2_bytes", "l3_bytes"):
            mine, theirs = getattr(self.cpu, name), getattr(cpu, name)
            if mine != theirs:
                raise NotComparableError(
                    f"{self.name} is a table of another CPU: {name} is {mine!r} there and {theirs!r} here. "
                    "Write a new one: latencykit build --out NEW.json"
                )
        if self.runtime["onnxruntime"] != runtime["onnxruntime"]:
            raise NotComparableError(
                f"{self.name} was measured with onnxruntime {self.runtime['onnxruntime']}, this is "
                f"{runtime['onnxruntime']}: kernels differ between versions. "
                "Write a new one: latencykit build --out NEW.json"
            )

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the content."""
        return _checksum(self._content())

    def to_frame(self) -> pd.DataFrame:
        """One line a row: level, threads, label, microseconds with interval, costs."""
        import pandas as pd  # slow to import, and needed for nothing else here

        return pd.DataFrame.from_records(
            [
                {
                    "level": row.level,
                    "threads": row.setting.threads,
                    "id": key_id(row.key),
                    "label": str(row.key),
                    "origin": row.origin,
                    "median_us": row.median_us,
                    "low_us": row.interval_us[0],
                    "high_us": row.interval_us[1],
                    "error_pct": row.measurement.error_pct if row.measurement else 0.0,
                    "processes": row.measurement.processes if row.measurement else 0,
                    "samples": row.measurement.count if row.measurement else 0,
                    "macs": row.macs,
                    "parameters": row.parameters,
                    "bytes": row.bytes,
                }
                for row in self.rows
            ],
            columns=FRAME_COLUMNS,
        )

    def _content(self) -> dict[str, Any]:
        settings = list(self.settings)
        return {
            "schema": TABLE_SCHEMA,
            "cpu": to_json(self.cpu),
            "runtime": dict(self.runtime),
            "doctor": dict(self.doctor),
            "settings": [to_json(setting) for setting in settings],
            "sentinels": [
                {"setting": settings.index(s.setting), "medians_us": [round(v, 3) for v in s.medians_us]}
                for s in self.sentinels
            ],
            "calibration": self.calibration,
            "validation": self.validation,
            "parents": list(self.parents),
            "rows": [_row_to_json(row, settings) for row in self.rows],
        }

    def save(self, path: Path) -> None:
        """Write the table, wholly or not at all, one row a line."""
        content = self._content()
        rows = content.pop("rows")
        head = json.dumps({"checksum": self.checksum, **content}, indent=1, allow_nan=False)
        lines = ",\n".join("  " + json.dumps(row, separators=(",", ":"), allow_nan=False) for row in rows)
        write_text(path, f'{head[:-2]},\n "rows": [\n{lines}\n ]\n}}\n')


def load_table(path: Path) -> Table:
    """Read a table.

    Raises:
        InputError: not a table, a newer schema, or a checksum that does not fit its content.
    """
    data = read_json(path, MAX_TABLE_BYTES)
    schema = data.get("schema") if isinstance(data, dict) else None
    if isinstance(schema, int) and schema > TABLE_SCHEMA:
        raise InputError(
            f"{path} has table schema {schema}, this version reads up to {TABLE_SCHEMA}; update latencykit."
        )
    if schema != TABLE_SCHEMA:
        raise InputError(f"{path} is not a latency table: schema {TABLE_SCHEMA} expected, found {schema!r}.")
    file = decode(_TableFile, data, str(path))
    content = {key: value for key, value in data.items() if key != "checksum"}
    try:
        found = _checksum(content)
    except (ValueError, RecursionError) as error:  # a number beyond float's range, or nested too deeply to be a table
        raise InputError(f"{path} is not a latency table: {error}") from error
    if found != file.checksum:
        raise InputError(f"{path} was changed after it was written (its checksum does not fit); restore or rebuild it.")
    if not isinstance(file.doctor.get("reasons", []), list):
        raise InputError(f"{path}: the doctor's reasons are {type(file.doctor['reasons']).__name__}; a list expected.")
    if wrong := [setting.threads for setting in file.settings if not 1 <= setting.threads <= MAX_THREADS]:
        raise InputError(f"{path}: the threads of a setting are {shown(wrong[0])}; expected 1 to {MAX_THREADS}.")
    rows = tuple(_row_from_json(row, file.settings, f"{path}: row {i}") for i, row in enumerate(file.rows))
    with naming(str(path)):
        drift = tuple(Sentinel(_listed(file.settings, s.setting, "sentinels"), s.medians_us) for s in file.sentinels)
        return Table(
            file.cpu, file.runtime, file.doctor, rows, drift, file.calibration, file.validation, file.parents, path
        )


def _listed(settings: Sequence[Setting], index: int, where: str) -> Setting:
    if not 0 <= index < len(settings):
        raise InputError(f"{where}: names setting {index}; the table lists {len(settings)}.")
    return settings[index]


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _row_to_json(row: Row, settings: Sequence[Setting]) -> dict[str, Any]:
    data: dict[str, Any] = {
        "level": row.level,
        "setting": settings.index(row.setting),
        "label": str(row.key),
        "origin": row.origin,
        "median_us": round(row.median_us, 3),
        "macs": row.macs,
        "parameters": row.parameters,
        "bytes": row.bytes,
        "key": key_to_json(row.key),
    }
    if row.measurement:
        low, high = row.measurement.interval_us
        data |= {
            "interval_us": [round(low, 3), round(high, 3)],
            "error_pct": round(row.measurement.error_pct, 3),
            "n": row.measurement.count,
            "processes": row.measurement.processes,
            "samples_us": [[round(v, 3) for v in samples] for samples in row.measurement.samples_us],
        }
    return data


def _row_from_json(data: Mapping[str, Any], settings: Sequence[Setting], where: str) -> Row:
    file = decode(_RowFile, data, where)
    if file.level == "edge":
        raise InputError(f"{where}: rows of level 'edge' come with a later schema; update latencykit.")
    key: Key
    if file.level == "kernel":
        key = kernel_from_json(file.key, where)
    else:
        plain = decode(_PrimitiveFile, file.key, where)
        with naming(where):
            key = Primitive(tuple(map(operation_from_json, plain.operations)), plain.inputs)
            chain(key.operations, key.inputs)  # raises where the operations do not fit the shapes
    setting = _listed(settings, file.setting, where)
    with naming(where):
        measurement = Measurement(file.samples_us) if file.samples_us is not None else None
        value_us = file.median_us if measurement is None else 0.0
        return Row(key, setting, file.origin, file.macs, file.parameters, file.bytes, measurement, value_us)


@dataclass(frozen=True)
class _PrimitiveFile:
    operations: tuple[dict[str, Any], ...]
    inputs: tuple[Shape, ...]


@dataclass(frozen=True)
class _RowFile:
    level: Level
    setting: int
    label: str
    origin: Origin
    median_us: float
    macs: int
    parameters: int
    bytes: int
    key: dict[str, Any]
    interval_us: tuple[float, float] | None = None
    error_pct: float | None = None
    n: int = 0
    processes: int = 0
    samples_us: tuple[tuple[float, ...], ...] | None = None


@dataclass(frozen=True)
class _SentinelFile:
    setting: int
    medians_us: tuple[float, ...]


@dataclass(frozen=True)
class _TableFile:
    schema: int
    checksum: str
    cpu: CpuFacts
    runtime: dict[str, str]
    doctor: dict[str, Any]
    settings: tuple[Setting, ...]
    sentinels: tuple[_SentinelFile, ...]
    calibration: dict[str, Any] | None
    validation: dict[str, Any] | None
    parents: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
