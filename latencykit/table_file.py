"""A table as a file: one JSON object with a schema, its history, and a checksum over what it says.

History of the schema:

* 1 - levels `isolated` and `kernel`; `calibration` and `validation` have their place and are empty.
* 2 - level `edge`, its macro configurations listed once; networks as this CPU runs them, their timings, the cost models
  calibrated on them, validations. Since 2 a model may have `drift_pct`, which is written where there is some.
* 3 - what is paced is of the median call of a process. Until 2 it was of the first decile, which no caller sees: where
  an older table is read, its paced timings, cost models, edge costs and validations are left out; `build` adds them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from latencykit.architecture import architecture_from_json, architecture_to_json
from latencykit.bounds import shown
from latencykit.calibration import CostModel, NetworkTiming
from latencykit.errors import InputError
from latencykit.files import write_text
from latencykit.graph import chain
from latencykit.host import CpuFacts
from latencykit.kernels import Kernel, kernel_from_json
from latencykit.keys import Edge, Key, Level, Primitive, key_to_json
from latencykit.macro import Macro
from latencykit.measurement import Measurement
from latencykit.runtime import Setting
from latencykit.schema import decode, naming, read_json, to_json
from latencykit.sentinel import CONVOLUTION, SentinelName
from latencykit.space import CellType
from latencykit.spec import Shape, operation_from_json
from latencykit.table import LoweredNetwork, Origin, Row, Sentinel, Table

TABLE_SCHEMA = 3
MAX_TABLE_BYTES = 100_000_000
MAX_THREADS = 4096

T = TypeVar("T")


def save_table(table: Table, path: Path) -> None:
    """Write a table, wholly or not at all, one row or network a line."""
    content = _content(table)
    lists = {name: content.pop(name) for name in ("networks", "timings", "rows")}
    head = json.dumps({"checksum": table_checksum(table), **content}, indent=1, allow_nan=False)[:-2]
    for name, items in lists.items():
        lines = ",\n".join("  " + json.dumps(item, separators=(",", ":"), allow_nan=False) for item in items)
        head += f',\n "{name}": [\n{lines}\n ]' if items else f',\n "{name}": []'
    write_text(path, head + "\n}\n")


def load_table(path: Path | str) -> Table:
    """Read a table of this schema or an older one.

    Raises:
        InputError: not a table, a newer schema, or a checksum that does not fit its content.
    """
    path = Path(path)
    if not os.path.exists(path):  # and no error where a folder on the way is closed
        raise InputError(f"{path} does not exist; measure this machine's: latencykit build --out {path} --threads N.")
    data = read_json(path, MAX_TABLE_BYTES)
    schema = data.get("schema") if isinstance(data, dict) else None
    if isinstance(schema, int) and schema > TABLE_SCHEMA:
        raise InputError(
            f"{path} has table schema {schema}, this version reads up to {TABLE_SCHEMA}; update latencykit."
        )
    if type(schema) is not int or schema < 1:
        raise InputError(f"{path} is not a latency table: schema {TABLE_SCHEMA} or less expected, found {schema!r}.")
    content = {key: value for key, value in data.items() if key != "checksum"}
    try:
        found = _checksum(content)
    except (ValueError, RecursionError) as error:  # a number beyond float's range, or nested too deeply to be a table
        raise InputError(f"{path} is not a latency table: {error}") from error
    if schema == 1:
        data = _from_schema_1(data, str(path))
    file = decode(_TableFile, data, str(path))
    if found != file.checksum:
        raise InputError(f"{path} was changed after it was written (its checksum does not fit); restore or rebuild it.")
    if not isinstance(file.doctor.get("reasons", []), list):
        raise InputError(f"{path}: the doctor's reasons are {type(file.doctor['reasons']).__name__}; a list expected.")
    if wrong := [setting.threads for setting in file.settings if not 1 <= setting.threads <= MAX_THREADS]:
        raise InputError(f"{path}: the threads of a setting are {shown(wrong[0])}; expected 1 to {MAX_THREADS}.")
    with naming(str(path)):
        table = _table(file, path)
    return _without_rhythms(table) if schema < 3 else table


def _without_rhythms(table: Table) -> Table:
    """A table of schema 1 or 2 without its paced figures."""
    return replace(
        table,
        rows=tuple(row for row in table.rows if not (isinstance(row.key, Edge) and row.key.pace_hz)),
        timings=tuple(timing for timing in table.timings if not timing.pace_hz),
        models=tuple(model for model in table.models if not model.pace_hz),
        validations=tuple(validation for validation in table.validations if not validation.get("pace_hz")),
    )


def table_checksum(table: Table) -> str:
    """SHA-256 of a table's content."""
    return _checksum(_content(table))


def _checksum(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _from_schema_1(data: dict[str, Any], where: str) -> dict[str, Any]:
    if data.get("calibration") is not None or data.get("validation") is not None:
        raise InputError(f"{where}: a table of schema 1 has neither `calibration` nor `validation`.")
    added: dict[str, list[Any]] = {"macros": [], "networks": [], "timings": [], "models": [], "validations": []}
    if early := sorted(added.keys() & data.keys()):
        raise InputError(f"{where}: unknown field {early[0]!r}; a table of schema 1 has none.")
    return {key: value for key, value in data.items() if key not in ("calibration", "validation")} | added


def _content(table: Table) -> dict[str, Any]:
    settings = list(table.settings)
    macros = list(dict.fromkeys(row.key.macro for row in table.rows if isinstance(row.key, Edge)))
    kernels = list(dict.fromkeys(row.key for row in table.rows if isinstance(row.key, Kernel)))
    place = {kernel: index for index, kernel in enumerate(kernels)}
    return {
        "schema": TABLE_SCHEMA,
        "cpu": to_json(table.cpu),
        "runtime": dict(table.runtime),
        "doctor": dict(table.doctor),
        "settings": [to_json(setting) for setting in settings],
        "macros": [to_json(macro) for macro in macros],
        "sentinels": [
            {"setting": settings.index(s.setting), "medians_us": [round(v, 3) for v in s.medians_us]}
            | ({"model": s.model} if s.model != CONVOLUTION.name else {})  # there was no other at first
            for s in table.sentinels
        ],
        "models": [_model_to_json(model, settings) for model in table.models],
        "validations": [dict(validation) for validation in table.validations],
        "parents": list(table.parents),
        "networks": [
            {
                "id": network.id,
                "architecture": architecture_to_json(network.network) if network.network else None,
                "kernels": [[place[kernel], count] for kernel, count in network.kernels.items()],
            }
            for network in table.networks
        ],
        "timings": [{**to_json(timing), "setting": settings.index(timing.setting)} for timing in table.timings],
        "rows": [_row_to_json(row, settings, macros) for row in table.rows],
    }


def _model_to_json(model: CostModel, settings: list[Setting]) -> dict[str, Any]:
    data = {**to_json(model), "setting": settings.index(model.setting)}
    return data if model.drift_pct else {name: value for name, value in data.items() if name != "drift_pct"}


def _row_to_json(row: Row, settings: Sequence[Setting], macros: Sequence[Macro]) -> dict[str, Any]:
    key = key_to_json(row.key)
    if isinstance(row.key, Edge):
        key["macro"] = macros.index(row.key.macro)
    data: dict[str, Any] = {
        "level": row.level,
        "setting": settings.index(row.setting),
        "label": str(row.key),
        "origin": row.origin,
        "median_us": round(row.median_us, 3),
        "macs": row.macs,
        "parameters": row.parameters,
        "bytes": row.bytes,
        "key": key,
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
    elif row.origin != "defined":
        data["error_pct"] = round(row.residual_pct, 3)
    return data


def _table(file: _TableFile, path: Path) -> Table:
    where = "the table"
    rows = tuple(_row_from_json(row, file, f"row {i}") for i, row in enumerate(file.rows))
    kernels = list(dict.fromkeys(row.key for row in rows if isinstance(row.key, Kernel)))
    networks = tuple(
        LoweredNetwork(
            network.id,
            None if network.architecture is None else architecture_from_json(network.architecture, "a network"),
            _counts(network, kernels, where),
        )
        for network in file.networks
    )
    return Table(
        file.cpu,
        file.runtime,
        file.doctor,
        rows,
        tuple(
            Sentinel(_listed(file.settings, s.setting, "setting", where), s.medians_us, s.model) for s in file.sentinels
        ),
        networks,
        tuple(
            NetworkTiming(_listed(file.settings, t.setting, "setting", where), t.pace_hz, t.network, t.medians_us)
            for t in file.timings
        ),
        tuple(
            CostModel(
                _listed(file.settings, m.setting, "setting", where),
                m.pace_hz, m.coefficients, m.covariance, m.spread_pct, m.residual_pct, m.networks, m.spread_by_latency,
                m.drift_pct,
            )
            for m in file.models
        ),
        file.validations,
        file.parents,
        path,
    )  # fmt: skip


def _counts(network: _NetworkFile, kernels: Sequence[Kernel], where: str) -> dict[Kernel, int]:
    counts = {_listed(kernels, index, "kernel", where): count for index, count in network.kernels}
    if len(counts) < len(network.kernels):
        raise InputError(f"{where}: network {network.id} lists a kernel twice.")
    return counts


def _listed(items: Sequence[T], index: int, what: str, where: str) -> T:
    if not 0 <= index < len(items):
        raise InputError(f"{where}: names {what} {index}; the table lists {len(items)}.")
    return items[index]


def _row_from_json(data: Mapping[str, Any], table: _TableFile, where: str) -> Row:
    file = decode(_RowFile, data, where)
    key: Key
    if file.level == "kernel":
        key = kernel_from_json(file.key, where)
    elif file.level == "edge":
        edge = decode(_EdgeFile, file.key, where)
        macro = _listed(table.macros, edge.macro, "macro configuration", where)
        key = Edge(macro, edge.cell_type, edge.index, edge.candidate, edge.pace_hz)
    else:
        plain = decode(_PrimitiveFile, file.key, where)
        with naming(where):
            key = Primitive(tuple(map(operation_from_json, plain.operations)), plain.inputs)
            chain(key.operations, key.inputs)  # raises where the operations do not fit the shapes
    setting = _listed(table.settings, file.setting, "setting", where)
    costs = file.macs, file.parameters, file.bytes
    with naming(where):
        if file.samples_us is not None:
            return Row(key, setting, file.origin, *costs, Measurement(file.samples_us))
        return Row(key, setting, file.origin, *costs, None, file.median_us, file.error_pct or 0.0)


@dataclass(frozen=True)
class _PrimitiveFile:
    operations: tuple[dict[str, Any], ...]
    inputs: tuple[Shape, ...]


@dataclass(frozen=True)
class _EdgeFile:
    macro: int
    cell_type: CellType | None
    index: int
    candidate: str
    pace_hz: float | None


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
    model: SentinelName = CONVOLUTION.name


@dataclass(frozen=True)
class _NetworkFile:
    id: str
    architecture: dict[str, Any] | None
    kernels: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _TimingFile:
    setting: int
    pace_hz: float | None
    network: str
    medians_us: tuple[float, ...]


@dataclass(frozen=True)
class _ModelFile:
    setting: int
    pace_hz: float | None
    coefficients: dict[str, float]
    covariance: tuple[tuple[float, ...], ...]
    spread_pct: float
    residual_pct: float
    networks: int
    spread_by_latency: tuple[tuple[float, float], ...] = ()
    drift_pct: float = 0.0


@dataclass(frozen=True)
class _TableFile:
    schema: int
    checksum: str
    cpu: CpuFacts
    runtime: dict[str, str]
    doctor: dict[str, Any]
    settings: tuple[Setting, ...]
    macros: tuple[Macro, ...]
    sentinels: tuple[_SentinelFile, ...]
    models: tuple[_ModelFile, ...]
    validations: tuple[dict[str, Any], ...]
    parents: tuple[str, ...]
    networks: tuple[_NetworkFile, ...]
    timings: tuple[_TimingFile, ...]
    rows: tuple[dict[str, Any], ...]
