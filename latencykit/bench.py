"""The one measuring function, for kernels, primitives and whole networks: fresh pinned processes, interleaved.

Every process times every item once, in an order of its own, so that drift of the machine falls on all items alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from latencykit.errors import InputError, LatencyKitError, UnfitError
from latencykit.measurement import Measurement, Protocol
from latencykit.runtime import Setting
from latencykit.topology import check_threads
from latencykit.worker import Item, Job, job_to_json

NETWORK_PROTOCOL = Protocol(samples=240, block_us=0, warmup_ms=50, processes=3)
"""Whole networks: single calls, so that percentiles are a caller's, and enough of them for a 99th percentile."""

PACED_SAMPLES = 120
"""Calls in a paced process: four seconds at 30 a second."""

P99_CALLS = 662
"""Calls that a 99th percentile needs for 99 % confidence (MLPerf's LoadGen)."""

_SINGLE_THREADED = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Sample:
    """What one process found for one item."""

    id: str
    process: int
    samples_us: tuple[float, ...]
    affinity: tuple[str, ...]
    memory_bytes: int | None
    timed_s: float = 0.0


def measure(
    model: bytes | Path, setting: Setting, protocol: Protocol = NETWORK_PROTOCOL, *, seed: int = 0
) -> Measurement:
    """Measure one model: ONNX bytes or a file.

    Raises:
        UnfitError: more threads than physical processors.
        InputError: onnxruntime refuses the model.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = model if isinstance(model, Path) else Path(scratch) / "model.onnx"
        if isinstance(model, bytes):
            path.write_bytes(model)
        samples = list(measure_items([Item("model", str(path.resolve()))], setting, protocol, seed=seed))
    return collect(samples)["model"]


def measure_items(
    items: Sequence[Item],
    setting: Setting,
    protocol: Protocol,
    *,
    seed: int = 0,
    done: Mapping[str, frozenset[int]] | None = None,
    first: Item | None = None,
    one_model_a_process: bool = False,
) -> Generator[Sample, None, None]:
    """Measure items in `protocol.processes` rounds of fresh processes, yielding samples as they come.

    Close it (`contextlib.closing`) where the loop over it may be left early: that ends the measuring process.

    Args:
        items: what to time.
        setting: the execution setting.
        protocol: the measuring protocol.
        seed: decides the orders and the input values.
        done: rounds in which an item has been measured already, by item id; these are not measured again.
        first: a sentinel that every process times before the items.
        one_model_a_process: a process for each item and round, so that one model's memory is not another's.

    Raises:
        UnfitError: more threads than physical processors.
        InputError: onnxruntime refuses a model.
        LatencyKitError: a measuring process was killed or ended before its work was done.
    """
    cpus = check_threads(setting.threads)
    for process in range(protocol.processes):
        order = [item for item in items if process not in (done or {}).get(item.id, frozenset())]
        random.Random(f"{seed}/{process}").shuffle(order)
        for group in [[item] for item in order] if one_model_a_process else [order]:
            if group:
                batch = (*([first] if first else ()), *group)
                yield from _run(Job(setting, protocol, cpus, batch, seed), process)


def collect(samples: Sequence[Sample]) -> dict[str, Measurement]:
    """Measurements by item id; samples of one item are ordered by process."""
    by_id: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda s: s.process):
        by_id.setdefault(sample.id, []).append(sample)
    return {name: Measurement(tuple(s.samples_us for s in group)) for name, group in by_id.items()}


@dataclass(frozen=True)
class MeasuredModel:
    """What `measure` found for one model."""

    path: str
    measurement: Measurement
    affinity: tuple[str, ...]
    memory_bytes: int | None

    @property
    def warnings(self) -> list[str]:
        """Reasons to mistrust the figure, each with its remedy."""
        found = [f"{self.path}: {w.code} ({w.value:.1f} %): {w.remedy}" for w in self.measurement.warnings]
        if self.measurement.count < P99_CALLS:
            calls = self.measurement.count
            found.append(f"{self.path}: p99 rests on {calls} calls, {P99_CALLS} are sound: raise `--processes`")
        if not self.affinity:
            found.append(f"{self.path}: this system does not tell where threads run; affinity is not verified")
        return found


def measure_models(
    paths: Sequence[Path],
    setting: Setting,
    pace_hz: float | None,
    processes: int,
    advance: Callable[[], object] = lambda: None,
) -> list[MeasuredModel]:
    """Time model files end to end, interleaved, each in a process of its own so that its peak memory is its own.

    Args:
        paths: ONNX files.
        setting: the execution setting.
        pace_hz: calls a second; None is back to back.
        processes: fresh processes a model.
        advance: called after each process.

    Raises:
        UnfitError: more threads than physical processors.
        InputError: onnxruntime refuses a model.
    """
    protocol = replace(NETWORK_PROTOCOL, processes=processes, pace_hz=pace_hz)
    if pace_hz is not None:
        protocol = replace(protocol, samples=PACED_SAMPLES)
    items = [Item(str(index), str(path.resolve())) for index, path in enumerate(paths)]
    found = []
    with contextlib.closing(measure_items(items, setting, protocol, one_model_a_process=True)) as measured:
        for sample in measured:
            found.append(sample)
            advance()
    results = []
    for item, path in zip(items, paths, strict=True):
        mine = [sample for sample in found if sample.id == item.id]
        memory = [sample.memory_bytes for sample in mine if sample.memory_bytes is not None]
        measurement = collect(mine)[item.id]
        results.append(MeasuredModel(str(path), measurement, mine[0].affinity, max(memory, default=None)))
    return results


@contextlib.contextmanager
def background_load(processes: int) -> Iterator[None]:
    """Keep that many other processes busy meanwhile: an ultrasound machine's CPU is shared."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def _run(job: Job, process: int) -> Generator[Sample, None, None]:
    """One measuring process; its lines as samples."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:  # a pipe could fill up
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "latencykit.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            env={**os.environ, **_SINGLE_THREADED},
        )
        try:
            yield from _samples_of(child, job, process)
            if child.wait():
                complaints.seek(0)
                tail = complaints.read().strip().splitlines()[-1:] or ["no message"]
                raise LatencyKitError(
                    f"the measuring process ended with {child.returncode}, 0 expected: {tail[0]}. Run the same command "
                    "again; a build goes on from there. -9 is often a lack of memory"
                )
        finally:
            if child.poll() is None:
                child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()


def _samples_of(child: subprocess.Popen[str], job: Job, process: int) -> Generator[Sample, None, None]:
    assert child.stdin is not None
    assert child.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended already; how, its exit code says
        child.stdin.write(job_to_json(job) + "\n")
        child.stdin.close()
    for line in child.stdout:
        try:
            found = json.loads(line)
        except ValueError:
            if line.endswith("\n"):
                raise LatencyKitError(f"the measuring process printed {line!r}, a line of JSON expected") from None
            return  # killed in the middle of a line
        if "ready" in found:
            continue
        if "error" in found:
            raise (UnfitError if found.get("exit_code") == UnfitError.exit_code else InputError)(found["error"])
        yield Sample(
            found["id"],
            process,
            tuple(found["samples_us"]),
            tuple(found["affinity"]),
            found["memory_bytes"],
            found["timed_s"],
        )
