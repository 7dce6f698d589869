"""The latency table: rows under (setting, level, key), strict look-ups, and what its figures rest on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from latencykit.architecture import Network, architecture_to_json
from latencykit.bounds import MAX_NODES, shown
from latencykit.calibration import CostModel, NetworkTiming
from latencykit.errors import InputError, MissingRowError, NotComparableError
from latencykit.graph import chain
from latencykit.host import CpuFacts
from latencykit.kernels import MAX_TEXT, Kernel
from latencykit.keys import Edge, Key, Level, Primitive, key_id, key_level
from latencykit.macro import Macro
from latencykit.measurement import LONGEST_US, Measurement, best_state_us
from latencykit.runtime import Setting
from latencykit.sentinel import CONVOLUTION, SentinelName

if TYPE_CHECKING:
    import pandas as pd

FRAME_COLUMNS = (
    *("level", "threads", "id", "label", "origin", "median_us", "low_us", "high_us", "error_pct"),
    *("processes", "samples", "macs", "parameters", "bytes"),
)
"""Columns of `Table.to_frame`, there without a row too."""

MACHINE_FACTS = ("model", "isa", "physical_cores", "l2_bytes", "l3_bytes")
"""Facts about a CPU that make two machines different ones; figures of these are never mixed."""

_INT64 = 2**63

Origin = Literal["measured", "fitted", "interpolated", "defined"]
"""`defined` is for zero and identity, which are deleted before a network is made: 0 by definition, and said so."""


@dataclass(frozen=True)
class Row:
    """One cost.

    Attributes:
        key: what was measured; setting: how it was run.
        origin: where the figure comes from.
        macs, parameters, bytes: of the key, bytes read and written once each.
        measurement: the raw samples; None where the origin is not `measured`.
        value_us: the figure of a row that was not measured.
        residual_pct: of a fitted or interpolated row, the mean absolute error of what it was fitted with.
    """

    key: Key
    setting: Setting
    origin: Origin
    macs: int
    parameters: int
    bytes: int
    measurement: Measurement | None = None
    value_us: float = 0.0
    residual_pct: float = 0.0

    def __post_init__(self) -> None:
        if (self.origin == "measured") != (self.measurement is not None):
            raise InputError(f"row {self.key}: origin {self.origin!r} and its samples do not fit together.")
        for name in ("macs", "parameters", "bytes"):
            if not 0 <= getattr(self, name) < _INT64:
                raise InputError(f"row {self.key}: {name} is {shown(getattr(self, name))}; expected 0 to 2^63 - 1.")
        if not abs(self.value_us) <= LONGEST_US or not 0 <= self.residual_pct <= LONGEST_US:
            raise InputError(f"row {self.key}: {self.value_us} us; expected a number of at most {LONGEST_US:g}.")

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

    @property
    def error_pct(self) -> float:
        """Half the interval's width where it was measured, the residual of the fit else; percent."""
        return self.measurement.error_pct if self.measurement else self.residual_pct


def make_row(key: Primitive | Kernel, setting: Setting, measurement: Measurement) -> Row:
    """A measured row with the key's own costs; its samples in whole nanoseconds, which is what a file keeps."""
    measurement = Measurement(tuple(tuple(round(v, 3) for v in samples) for samples in measurement.samples_us))
    if isinstance(key, Kernel):
        return Row(key, setting, "measured", key.macs, key.parameters, key.moved_bytes, measurement)
    graph = chain(key.operations, key.inputs)
    return Row(key, setting, "measured", graph.macs, graph.parameters, graph.moved_bytes, measurement)


def defined_row(key: Primitive, setting: Setting) -> Row:
    """The row of an operation that no network contains: an identity passes its input on, a zero is deleted."""
    if not key.is_free:
        raise InputError(f"row {key}: only identity and zero cost nothing by definition.")
    return Row(key, setting, "defined", 0, 0, 0)


@dataclass(frozen=True)
class Sentinel:
    """A model timed throughout a build, so that a machine that changed is seen; `model` says which."""

    setting: Setting
    medians_us: tuple[float, ...]
    model: SentinelName = CONVOLUTION.name

    def __post_init__(self) -> None:
        Measurement((self.medians_us,))  # as plausible as samples


@dataclass(frozen=True)
class LoweredNetwork:
    """A network as this table's CPU runs it, so that a host with other instructions need not lower it.

    Attributes:
        id: `network_id` of the architecture, or `model_id` of an ONNX file.
        network: the pair; None where it came as ONNX.
        kernels: how often each kernel runs.
    """

    id: str
    network: Network | None
    kernels: Mapping[Kernel, int]

    def __post_init__(self) -> None:
        if not (self.id.isprintable() and 0 < len(self.id) <= MAX_TEXT):
            raise InputError(f"network {self.id[:80]!r}: expected a name of at most {MAX_TEXT} printable characters.")
        if wrong := [count for count in self.kernels.values() if not 1 <= count <= MAX_NODES]:
            raise InputError(f"network {self.id}: a kernel runs {shown(wrong[0])} times; expected 1 to {MAX_NODES}.")


def network_id(network: Network) -> str:
    """A short stable name of a network pair, from its content."""
    content = json.dumps(architecture_to_json(network), sort_keys=True, separators=(",", ":"))
    return f"network-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def model_id(model: bytes) -> str:
    """The same for ONNX bytes."""
    return f"model-{hashlib.sha256(model).hexdigest()[:16]}"


@dataclass(frozen=True)
class Table:
    """All costs of one CPU under one runtime.

    Attributes:
        cpu: facts about the machine, without its name.
        runtime: versions by package; `onnxruntime` decides whether two tables may be compared.
        doctor: the doctor's verdict when the table was built, as JSON data.
        rows: in the order they were added.
        sentinels: the drift through the build.
        networks: what was lowered on this CPU: calibration networks, added models.
        timings: how long whole networks took.
        models: cost models calibrated on these timings, one for each setting and rhythm.
        validations: summaries of `latencykit validate`, as JSON data.
        parents: checksums of the tables that this one was made from.
    """

    cpu: CpuFacts
    runtime: Mapping[str, str]
    doctor: Mapping[str, Any]
    rows: tuple[Row, ...]
    sentinels: tuple[Sentinel, ...] = ()
    networks: tuple[LoweredNetwork, ...] = ()
    timings: tuple[NetworkTiming, ...] = ()
    models: tuple[CostModel, ...] = ()
    validations: tuple[Mapping[str, Any], ...] = ()
    parents: tuple[str, ...] = ()
    path: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if "onnxruntime" not in self.runtime:
            raise InputError("table: `runtime` names no version of onnxruntime.")
        if len(self._index) != len(self.rows):
            raise InputError("table: two rows have the same setting, level and key.")
        of_settings: Mapping[str, Sequence[Sentinel | NetworkTiming | CostModel]] = {
            "sentinel": self.sentinels, "timing": self.timings, "cost model": self.models,
        }  # fmt: skip
        for what, found in of_settings.items():
            if lost := {one.setting for one in found} - {row.setting for row in self.rows}:
                raise InputError(f"table: a {what} of {lost.pop()}, a setting without rows.")
        if len({(t.setting, t.pace_hz, t.network) for t in self.timings}) != len(self.timings):
            raise InputError("table: a network was timed twice under one setting and rhythm.")
        if len({(m.setting, m.pace_hz) for m in self.models}) != len(self.models):
            raise InputError("table: two cost models of one setting and rhythm.")
        if len(self._networks) != len(self.networks):
            raise InputError("table: a network is listed twice.")
        if unknown := {timing.network for timing in self.timings} - self._networks.keys():
            raise InputError(f"table: a timing of {unknown.pop()}, a network that is not listed.")
        kernels = {row.key for row in self.rows if isinstance(row.key, Kernel)}
        if absent := {kernel for network in self.networks for kernel in network.kernels} - kernels:
            raise InputError(f"table: a network runs {absent.pop()}, a kernel without a row.")

    @cached_property
    def _index(self) -> Mapping[tuple[Setting, Key], Row]:
        return {(row.setting, row.key): row for row in self.rows}

    @cached_property
    def _networks(self) -> Mapping[str, LoweredNetwork]:
        return {network.id: network for network in self.networks}

    def network(self, name: str) -> LoweredNetwork | None:
        """The network of an id; None where the table has not lowered it."""
        return self._networks.get(name)

    def network_of(self, timing: NetworkTiming) -> LoweredNetwork:
        """The network that one of this table's timings is of."""
        return self._networks[timing.network]

    def model(self, setting: Setting, pace_hz: float | None) -> CostModel | None:
        """The cost model of a setting and rhythm; None where nothing was calibrated."""
        return next((m for m in self.models if (m.setting, m.pace_hz) == (setting, pace_hz)), None)

    def has_edges(self, setting: Setting, macro: Macro, pace_hz: float | None) -> bool:
        """Whether the edge costs of a configuration and rhythm are stored."""
        return self.has(setting, Edge(macro, None, 0, "", pace_hz))

    def sentinels_us(self, setting: Setting, model: SentinelName = CONVOLUTION.name) -> list[float]:
        """What a sentinel took through the build."""
        return [us for s in self.sentinels if (s.setting, s.model) == (setting, model) for us in s.medians_us]

    def reference_us(self, setting: Setting, model: SentinelName = CONVOLUTION.name) -> float | None:
        """What a sentinel took in the machine's best state; None where it was not timed."""
        seen = self.sentinels_us(setting, model)
        return best_state_us(seen) if seen else None

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

    @property
    def doubts(self) -> list[str]:
        """Reasons to mistrust all of its figures, for whoever uses them."""
        found = []
        if any(validation.get("trial") for validation in self.validations):
            found.append(f"{self.name} is of a trial (run.py --quick): its figures are worth nothing")
        if not self.doctor.get("fit", True):
            found.append(f"{self.name} was measured while the doctor called the machine unfit; build it when it is fit")
        return found

    def require_same_machine(self, cpu: CpuFacts, runtime: Mapping[str, str]) -> None:
        """Raise `NotComparableError` where figures measured under these facts must not join this table."""
        for name in MACHINE_FACTS:
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

    def require_same_kernels(self, cpu: CpuFacts, runtime: Mapping[str, str]) -> None:
        """Raise `NotComparableError` where a network would run other kernels under these facts than the table's."""
        remedy = (
            "the runtime makes other kernels here. Use what the table brought along, or make it again with these "
            "networks: latencykit kit make --models DIR"
        )
        theirs, ours = self.cpu.isa_float32, cpu.isa_float32
        if theirs != ours:
            raise NotComparableError(
                f"{self.name} is of a CPU with {', '.join(theirs) or 'no vector instructions'}, this one has "
                f"{', '.join(ours) or 'none'}: {remedy}"
            )
        if self.runtime["onnxruntime"] != runtime["onnxruntime"]:
            raise NotComparableError(
                f"{self.name} was measured with onnxruntime {self.runtime['onnxruntime']}, this is "
                f"{runtime['onnxruntime']}: {remedy}"
            )

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
                    "error_pct": row.error_pct,
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
