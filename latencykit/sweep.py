"""Builds a table: what is missing is measured in fresh processes, journalled as it comes, resumed after a kill."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from latencykit.bench import Sample, collect, measure_items
from latencykit.doctor import Verdict
from latencykit.errors import InputError, InterruptedRunError, NotComparableError
from latencykit.files import write_text
from latencykit.graph import chain
from latencykit.host import CpuFacts
from latencykit.kernels import Kernel, KernelInput, kernel_model
from latencykit.lowering import graph_to_onnx
from latencykit.measurement import Measurement, Protocol
from latencykit.runtime import Setting, runtime_version
from latencykit.schema import to_json
from latencykit.spec import Identity, Zero
from latencykit.table import (
    Key,
    Primitive,
    Row,
    Sentinel,
    Table,
    defined_row,
    key_id,
    load_table,
    make_row,
)
from latencykit.worker import Item

ROW_PROTOCOL = Protocol(samples=15, block_us=1000, warmup_ms=4, processes=3)
SECONDS_A_SAMPLE_SET = 0.035
"""Rough time of one row in one process, for the estimate before a build; the progress bar corrects it."""

SENTINEL_ID = "sentinel"
DRIFT_WARNING_PCT = 10.0
"""Spread of the sentinel through a build above which its rows are not all of one machine's mood."""
SENTINEL_LIMIT_PCT = 30.0
"""A resumed build whose sentinel differs by more than this is on another machine; shared hosts drift by 10 to 20 %."""
_SENTINEL = Kernel(
    "Conv",
    "",
    11,
    (("kernel_shape", (3, 3)), ("pads", (1, 1, 1, 1))),
    (
        KernelInput("activation", "tensor(float)", (1, 32, 32, 32)),
        KernelInput("weight", "tensor(float)", (32, 32, 3, 3)),
    ),
    1,
    (1, 32, 32, 32),
)  # standard layout, so that it is the same on every instruction set


@dataclass(frozen=True)
class Plan:
    """What a build will measure.

    Attributes:
        table: the existing table, None for a new one.
        wanted: every (setting, key) that the finished table must hold.
        missing: those of them without a row.
    """

    table: Table | None
    wanted: tuple[tuple[Setting, Key], ...]
    missing: tuple[tuple[Setting, Key], ...]

    def sample_sets(self, protocol: Protocol = ROW_PROTOCOL) -> int:
        """How many times a process will time a row; rows that are zero by definition are not timed."""
        return protocol.processes * sum(not _is_defined(key) for _, key in self.missing)

    def estimate_s(self, protocol: Protocol = ROW_PROTOCOL) -> float:
        """Rough seconds that the build will take."""
        return self.sample_sets(protocol) * SECONDS_A_SAMPLE_SET


def plan_build(path: Path, settings: Sequence[Setting], keys: Iterable[Key]) -> Plan:
    """Compare what is wanted with the table at `path`; raises `InputError` where that file is not a table."""
    table = load_table(path) if path.exists() else None
    unique = list(dict.fromkeys(keys))
    wanted = tuple((setting, key) for setting in settings for key in unique)
    return Plan(table, wanted, tuple(w for w in wanted if table is None or not table.has(*w)))


@dataclass(frozen=True)
class Built:
    """A finished table and what it took: rows measured now and found already, seconds in all and inside timed runs."""

    table: Table
    measured: int
    reused: int
    wall_s: float
    timed_s: float

    @property
    def drift_pct(self) -> float:
        """Largest spread of a setting's sentinel over all processes that added rows to the table, percent."""
        spread: dict[Setting, list[float]] = {}
        for sentinel in self.table.sentinels:
            spread.setdefault(sentinel.setting, []).extend(sentinel.medians_us)
        return max((100 * (max(medians) / min(medians) - 1) for medians in spread.values()), default=0.0)


def build(
    path: Path,
    plan: Plan,
    verdict: Verdict,
    protocol: Protocol = ROW_PROTOCOL,
    advance: Callable[[str], None] = lambda done: None,
) -> Built:
    """Measure what a plan misses and write the table.

    Every sample goes to a journal beside the table at once. A build that was killed goes on from there: its sentinel
    is measured again first, and a machine that answers differently is another machine (design 12).

    Args:
        path: the table.
        plan: from `plan_build`.
        verdict: the doctor's, stored in the table.
        protocol: the measuring protocol.
        advance: told the id of each sample set as it comes, those of the journal included.

    Raises:
        NotComparableError: the table or journal belongs to another CPU, runtime or machine.
        UnfitError: more threads than physical processors.
        InterruptedRunError: stopped from the keyboard; the same command resumes.
    """
    begin_s = time.perf_counter()
    runtime = {"onnxruntime": runtime_version(), "python": platform.python_version(), "numpy": np.__version__}
    if plan.table is not None:
        plan.table.require_same_machine(verdict.cpu, runtime)
    journal = Journal(path.with_name(f"{path.name}.journal"), verdict.cpu, runtime, protocol)
    table = plan.table or Table(verdict.cpu, runtime, to_json(verdict), ())
    if plan.table is not None and plan.missing:
        table = replace(table, doctor=_both(table.doctor, verdict), parents=(*table.parents, table.checksum))
    timed_s = 0.0
    try:
        for setting in dict.fromkeys(setting for setting, _ in plan.missing):
            keys = [key for missing, key in plan.missing if missing == setting]
            earlier = [s.medians_us for s in table.sentinels if s.setting == setting]
            rows, sentinel, seconds = _measure_setting(setting, keys, sum(earlier, ()), journal, protocol, advance)
            table = table.with_rows(rows, [sentinel] if sentinel else [])
            timed_s += seconds
    except KeyboardInterrupt as stop:
        raise InterruptedRunError(
            f"stopped; what was measured is in {journal.path}, the same command resumes"
        ) from stop
    table.save(path)
    journal.remove()
    reused = len(plan.wanted) - len(plan.missing)
    return Built(load_table(path), len(plan.missing), reused, time.perf_counter() - begin_s, timed_s)


def _measure_setting(
    setting: Setting,
    keys: Sequence[Key],
    earlier_us: Sequence[float],
    journal: Journal,
    protocol: Protocol,
    advance: Callable[[str], None],
) -> tuple[list[Row], Sentinel | None, float]:
    timed = {key_id(key): key for key in keys if not _is_defined(key)}
    known = [sample for sample in journal.samples(setting) if sample.id in timed]
    done: dict[str, frozenset[int]] = {}
    for sample in known:
        done[sample.id] = done.get(sample.id, frozenset()) | {sample.process}
        advance(sample.id)
    timed_s = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        items = [_item(name, key, Path(scratch)) for name, key in timed.items()]
        sentinel = _item(SENTINEL_ID, _SENTINEL, Path(scratch))
        before_us = [*earlier_us, *_sentinel_medians_us(journal, setting)] if known or earlier_us else []
        if before_us:
            _check_sentinel(setting, sentinel, before_us, journal, protocol)
        with closing(measure_items(items, setting, protocol, done=done, first=sentinel)) as samples:
            for sample in samples:
                journal.append(setting, sample)
                timed_s += sample.timed_s
                if sample.id != SENTINEL_ID:
                    known.append(sample)
                    advance(sample.id)
    measured = collect(known)
    rows = [
        defined_row(key, setting) if isinstance(key, Primitive) and _is_defined(key)
        else make_row(key, setting, measured[key_id(key)])
        for key in keys
    ]  # fmt: skip
    medians = _sentinel_medians_us(journal, setting)
    return rows, Sentinel(setting, tuple(medians)) if medians else None, timed_s


def _is_defined(key: Key) -> bool:
    return isinstance(key, Primitive) and all(isinstance(o, Identity | Zero) for o in key.operations)


def _item(name: str, key: Key, folder: Path) -> Item:
    path = folder / f"{name}.onnx"
    as_is = isinstance(key, Kernel)
    path.write_bytes(key_model(key))
    return Item(name, str(path), as_is)


def key_model(key: Key) -> bytes:
    """The ONNX model that measures a key."""
    if isinstance(key, Kernel):
        return kernel_model(key)
    return bytes(graph_to_onnx(chain(key.operations, key.inputs)).SerializeToString())


def _both(doctor: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
    """Two verdicts of one machine, at two builds: fit if it was both times, and every reason of either."""
    later = to_json(verdict)
    reasons = [*doctor.get("reasons", []), *later["reasons"]]
    unique = {json.dumps(reason, sort_keys=True): reason for reason in reasons}
    return {**later, "fit": doctor.get("fit") is True and verdict.fit, "reasons": list(unique.values())}


def _sentinel_medians_us(journal: Journal, setting: Setting) -> list[float]:
    return [Measurement((s.samples_us,)).median_us for s in journal.samples(setting) if s.id == SENTINEL_ID]


def _check_sentinel(
    setting: Setting, sentinel: Item, before: Sequence[float], journal: Journal, protocol: Protocol
) -> None:
    now = [Measurement((s.samples_us,)).median_us for s in measure_items([sentinel], setting, protocol)]
    change_pct = 100 * (float(np.median(now)) / float(np.median(before)) - 1)
    if abs(change_pct) > SENTINEL_LIMIT_PCT:
        raise NotComparableError(
            f"the sentinel kernel took {np.median(before):.1f} us before and takes {np.median(now):.1f} "
            f"us now ({change_pct:+.0f} %; at most {SENTINEL_LIMIT_PCT:.0f} % expected): another machine, or busy. "
            f"Free it of other work and run the same command again, or delete {journal.path} to start over."
        )


class Journal:
    """Samples of an unfinished build: a JSON line each, flushed as it comes; the first says where they are from."""

    def __init__(self, path: Path, cpu: CpuFacts, runtime: dict[str, str], protocol: Protocol) -> None:
        """Open or begin the journal; raises `NotComparableError` where it was begun on another machine or otherwise."""
        self.path = path
        header = json.loads(json.dumps({"cpu": to_json(cpu), "runtime": runtime, "protocol": to_json(protocol)}))
        self._entries: list[tuple[Setting, Sample]] = []
        if path.exists():
            self._load(_identity(header))
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(header)

    def _load(self, identity: Any) -> None:
        try:
            text = self.path.read_text(encoding="utf-8")
            if "\n" not in text:  # killed while the first line was being written
                self.path.unlink()
                return
            lines = text.splitlines()
            if _identity(json.loads(lines[0])) != identity:
                raise NotComparableError(
                    f"{self.path} was begun on another CPU, runtime or protocol; delete it to start over on this one."
                )
            for index, line in enumerate(lines[1:], start=1):
                try:
                    entry = json.loads(line)
                except ValueError:
                    if index == len(lines) - 1:
                        break  # the line that was being written when the build was killed
                    raise
                self._entries.append((Setting(**entry["setting"]), _sample(entry["sample"])))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{self.path} is not a build's journal ({error}); delete it to start over.") from error
        whole = "".join(f"{line}\n" for line in lines[: 1 + len(self._entries)])
        if whole != text:
            write_text(self.path, whole)

    def samples(self, setting: Setting) -> list[Sample]:
        """Samples of a setting so far."""
        return [sample for found, sample in self._entries if found == setting]

    def append(self, setting: Setting, sample: Sample) -> None:
        """Add a sample durably."""
        self._entries.append((setting, sample))
        self._write({"setting": to_json(setting), "sample": to_json(sample)})

    def _write(self, value: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(value, separators=(",", ":")) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Delete the journal, its table being written."""
        self.path.unlink()


def _identity(header: Any) -> Any:
    cpu = header["cpu"]
    return [cpu["model"], cpu["isa"], cpu["physical_cores"], header["runtime"]["onnxruntime"], header["protocol"]]


def _sample(data: dict[str, Any]) -> Sample:
    return Sample(**{**data, "samples_us": tuple(data["samples_us"]), "affinity": tuple(data["affinity"])})
