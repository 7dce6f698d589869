"""The one measuring function, for kernels, primitives and whole networks: fresh pinned processes, interleaved.

Every process times every item once, in an order of its own, so that drift of the machine falls on all items alike.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from latencykit.errors import InputError, LatencyKitError, UnfitError
from latencykit.measurement import Measurement, Protocol, best_state_us
from latencykit.runtime import Setting
from latencykit.sentinel import CONVOLUTION, NETWORK, SentinelModel, SentinelName
from latencykit.topology import check_threads
from latencykit.worker import Item, Job, job_to_json

NETWORK_PROTOCOL = Protocol(samples=240, block_us=0, warmup_ms=50, processes=3)
"""Whole networks: single calls, so that percentiles are a caller's, and enough of them for a 99th percentile."""

VALIDATION_PROTOCOL = Protocol(samples=20, block_us=0, warmup_ms=15, processes=4, rounds=5)
"""Networks that a table is put to the test with; an even number of processes, whose halves give the repeatability."""

PACED_VALIDATION_SAMPLES = 15
"""Of a process that validates at a rhythm: twice a calibration's, since each network counts by itself."""

SENTINEL_ID = "sentinel"
STEADY_PCT: Mapping[SentinelName, float] = {CONVOLUTION.name: 10.0, NETWORK.name: 8.0}
"""How far above its best state a sentinel may be. The convolution's noise stays within 9 %, states lie 12 % and more
apart. Where the network is within 8 %, others spread by 4 to 5 % instead of 9 (LOG, 2026-11-27)."""
UNSTEADY = (
    "the sentinel kept changing: this machine's processors were busy or moved meanwhile; stop other programs, run again"
)
ATTEMPTS = 6
PATIENCE_S = 60.0
FEWEST_TAKEN_AGAIN = 50
"""As many samples are taken again as were asked for, or as these, at most: a restless machine's build ends, too."""
TAKEN_AGAIN: Mapping[str, Any] = {"note": "the machine was in another state: taking samples again", "units": 0}
"""What the progress of a step is told of a sample that is no further unit."""

_SINGLE_THREADED = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Sample:
    """What one process found for one item; `sentinel_us` is what the sentinel named took before and after it."""

    id: str
    process: int
    samples_us: tuple[float, ...]
    affinity: tuple[str, ...]
    memory_bytes: int | None
    timed_s: float = 0.0
    sentinel_us: tuple[float, ...] = ()
    sentinel: SentinelName = CONVOLUTION.name

    @property
    def state_us(self) -> float:
        """The worse of its sentinels: two samples of one state of the machine agree in it."""
        return max(self.sentinel_us, default=0.0)


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
    known: Sequence[Sample] = (),
    reference_us: float | None = None,
    attempts: int = ATTEMPTS,
    one_model_a_process: bool = False,
    sentinel: SentinelModel = CONVOLUTION,
) -> Generator[Sample, None, None]:
    """Measure items in `protocol.processes` rounds of fresh processes, yielding samples as they come.

    A virtual machine's processors may be moved apart and together again by its host: two threads then exchange data at
    another speed for seconds to minutes, and whole networks take up to 1.8 times as long. So a sample whose sentinel
    was slower than the best one by more than `STEADY_PCT` is measured again, in a process of its own round, once
    that is back; `collect` takes the steadiest of each round. After the last attempt, or where as many samples were
    taken again as were asked for, what there is has to do, and says so by its sentinel.

    Close it (`contextlib.closing`) where the loop over it may be left early: that ends the measuring process.

    Args:
        items: what to time.
        setting: the execution setting.
        protocol: the measuring protocol.
        seed: decides the orders and the input values.
        known: samples from before; what is among them steadily is not measured again.
        reference_us: what the sentinel takes at its best, from an earlier run; else the best of this one.
        attempts: at a sample, what is known included; 1 takes what comes, and lets what is known be.
        one_model_a_process: a process for each item and round, so that one model's memory is not another's.
        sentinel: what tells the machine's state; samples that are known are of the same.

    Raises:
        UnfitError: more threads than physical processors.
        InputError: onnxruntime refuses a model.
        LatencyKitError: a measuring process was killed or ended before its work was done.
    """
    seen, best = [*known], steadiest(known)
    places = [(item.id, n) for n in range(protocol.processes) for item in items]
    with _sentinel_job(setting, sentinel, protocol, seed) as job:
        for attempt in range(attempts):
            limit_us = steady_limit_us(seen, reference_us, sentinel.name) if attempts > 1 else math.inf
            taken = Counter((sample.id, sample.process) for sample in seen)
            again = [p for p in places if 0 < taken[p] < attempts and best[p].state_us > limit_us]
            again.sort(key=lambda place: -best[place].state_us)
            left = max(len(places), FEWEST_TAKEN_AGAIN) - (len(seen) - len(best))
            wanted = {place for place in places if not taken[place]}.union(again[: max(0, left)])
            if not wanted:
                return
            rounds = [[item for item in items if (item.id, n) in wanted] for n in range(protocol.processes)]
            if attempt:
                _wait_for(limit_us, job)
            for process, todo in enumerate(rounds):
                order = _shuffled(todo, random.Random(f"{seed}/{process}/{attempt}"))
                for group in [[item] for item in order] if one_model_a_process else [order] if order else []:
                    for sample in _run(replace(job, items=tuple(group)), process, sentinel.name):
                        seen.append(sample)
                        _keep_steadier(best, sample)
                        yield sample


def _shuffled(items: Iterable[Item], rng: random.Random) -> list[Item]:
    """Blocks in random order, and within each its items."""
    named: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        named.setdefault((item.block, "" if item.block else item.id), []).append(item)
    blocks = list(named.values())
    rng.shuffle(blocks)
    for block in blocks:
        rng.shuffle(block)
    return list(itertools.chain.from_iterable(blocks))


@contextlib.contextmanager
def _sentinel_job(setting: Setting, sentinel: SentinelModel, protocol: Protocol, seed: int = 0) -> Iterator[Job]:
    """A job that times the sentinel alone, its file in a folder that lasts as long as the context."""
    cpus = check_threads(setting.threads)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "sentinel.onnx"
        path.write_bytes(sentinel.optimised())
        item = Item(SENTINEL_ID, str(path), as_is=True)
        yield Job(setting, protocol, cpus, (), item, sentinel.protocol, seed)


def sentinel_us(setting: Setting, reference_us: float) -> float:
    """What the convolution takes now, after a wait where that is much more than its reference."""
    with _sentinel_job(setting, CONVOLUTION, CONVOLUTION.protocol) as job:
        return _wait_for(reference_us * (1 + STEADY_PCT[CONVOLUTION.name] / 100), job)


def _wait_for(limit_us: float, job: Job) -> float:
    """Wait until the sentinel is fast again, or for as long as patience lasts; what it took last."""
    job = replace(job, items=(job.sentinel,), protocol=job.sentinel_protocol)
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        state_us = max(sample.state_us for sample in _run(job, 0))
        if state_us <= limit_us or time.monotonic() > deadline_s:
            return state_us
        time.sleep(1)


def steady_limit_us(
    samples: Iterable[Sample], reference_us: float | None = None, sentinel: SentinelName = CONVOLUTION.name
) -> float:
    """The slowest sentinel of a steady sample; infinite where no sentinel is known."""
    best_us = best_state_us(figure for sample in samples for figure in sample.sentinel_us)
    return min(best_us, reference_us or math.inf) * (1 + STEADY_PCT[sentinel] / 100)


def steadiest(samples: Iterable[Sample]) -> dict[tuple[str, int], Sample]:
    """For each item and process the sample with the fastest sentinels."""
    best: dict[tuple[str, int], Sample] = {}
    for sample in samples:
        _keep_steadier(best, sample)
    return best


def _keep_steadier(best: dict[tuple[str, int], Sample], sample: Sample) -> None:
    place = sample.id, sample.process
    if place not in best or sample.state_us <= best[place].state_us:
        best[place] = sample


def gather(samples: Generator[Sample, None, None], advance: Callable[..., object]) -> list[Sample]:
    """All samples; `advance` is told an item's name for each of its processes, and of what is taken again."""
    found: list[Sample] = []
    seen: set[tuple[str, int]] = set()
    with contextlib.closing(samples):
        for sample in samples:
            found.append(sample)
            again = (sample.id, sample.process) in seen
            seen.add((sample.id, sample.process))
            advance(sample.id, **(TAKEN_AGAIN if again else {}))
    return found


def collect(samples: Iterable[Sample]) -> dict[str, Measurement]:
    """Measurements by item id from the steadiest sample of each process; samples of one item are ordered by process."""
    by_id: dict[str, list[Sample]] = {}
    for sample in sorted(steadiest(samples).values(), key=lambda s: s.process):
        by_id.setdefault(sample.id, []).append(sample)
    return {name: Measurement(tuple(s.samples_us for s in group)) for name, group in by_id.items()}


def _run(job: Job, process: int, sentinel: SentinelName = CONVOLUTION.name) -> Generator[Sample, None, None]:
    """One measuring process; its lines as samples."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:  # a pipe could fill up
        child = subprocess.Popen(
            _worker_command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            env={**os.environ, **_SINGLE_THREADED},
        )
        try:
            for sample in _samples_of(child, job, process):
                yield replace(sample, sentinel=sentinel)
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


def _worker_command() -> list[str]:
    """A measuring process that finds packages where this one does, be it in folders that only a kit's runner knows."""
    places = [place for place in sys.path if place]
    return [
        sys.executable,
        "-P",
        "-c",
        f"import sys; sys.path[:] = {places}; from latencykit.worker import main; main()",
    ]


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
            tuple(found["sentinel_us"]),
        )
