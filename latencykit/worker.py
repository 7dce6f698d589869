"""The measuring process: `python -m latencykit.worker`, a job on standard input, a JSON line per result.

It imports numpy and onnxruntime and nothing else of weight (tested), calls one session at a time, and ends. A sentinel
is timed before the first item, after the last and every quarter second between, so that each figure comes with the
machine's state around it. Lines:

    {"ready": {"runtime": "1.32.0", "modules": ["numpy", ...]}}
    {"id": "...", "samples_us": [...], "affinity": ["0", "1"], "memory_bytes": 1048576, "timed_s": 0.03,
     "sentinel_us": [67.5]}
    {"id": "...", "error": "onnxruntime refuses ...", "exit_code": 6}
"""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from latencykit.errors import LatencyKitError
from latencykit.measurement import Protocol
from latencykit.runtime import Session, Setting, runtime_version
from latencykit.timing import Sampler, slowed


@dataclass(frozen=True)
class Item:
    """One model to time.

    Attributes:
        id: comes back with the result.
        path: the ONNX file.
        as_is: run the graph as it stands, since it is an optimised one already.
        slowdown_pct: planted by the self-test: each call takes this much longer than with 0, which has the cost of
            planting alone; None, everywhere else, is the bare call.
        block: items of one block are timed one after another, in random order, so that they share the machine's state;
            empty is a block of its own.
    """

    id: str
    path: str
    as_is: bool = False
    slowdown_pct: float | None = None
    block: str = ""


SENTINEL_EVERY_S = 0.25
TOGETHER = 16
"""Items whose sessions are open at a time, so that they can be timed in rounds: about a second's worth."""


@dataclass(frozen=True)
class Job:
    """What one measuring process does, in this order; `sentinel` is timed around the items, by its own protocol."""

    setting: Setting
    protocol: Protocol
    cpus: tuple[int, ...]
    items: tuple[Item, ...]
    sentinel: Item
    sentinel_protocol: Protocol
    seed: int = 0


def job_to_json(job: Job) -> str:
    """A job as one line of JSON."""
    return json.dumps(asdict(job))


def job_from_json(text: str) -> Job:
    """The job of a line that `job_to_json` wrote."""
    data = json.loads(text)
    items = tuple(Item(**item) for item in data["items"])
    setting, cpus, sentinel = Setting(**data["setting"]), tuple(data["cpus"]), Item(**data["sentinel"])
    protocol, of_sentinel = (Protocol(**data[name]) for name in ("protocol", "sentinel_protocol"))
    return Job(setting, protocol, cpus, items, sentinel, of_sentinel, data["seed"])


class Timing:
    """An item while it is timed; its session is open until the last round, or `close`.

    Idle workers of an open session spin: whatever is timed then at several threads, the sentinel, too, is timed without
    its own, and takes as long as at one.
    """

    def __init__(self, item: Item, job: Job) -> None:
        setting = Setting(**{**asdict(job.setting), "optimisation": "none"}) if item.as_is else job.setting
        before_bytes = _reset_peak_memory()
        self._open = contextlib.ExitStack()
        session = self._open.enter_context(Session(Path(item.path), setting, job.cpus))
        try:
            call = session.bound(session.random_inputs(job.seed))
            if item.slowdown_pct is not None:
                call = slowed(call, item.slowdown_pct)
            begin_s = time.perf_counter()
            self._sampler: Sampler | None = Sampler(call, job.protocol)
        except BaseException:
            self.close()
            raise
        self.timed_s = time.perf_counter() - begin_s
        self.samples_us: list[float] = []
        self.states_us: list[float] = []  # the worse sentinel around each round
        peak = _status_bytes("VmHWM")
        memory = None if peak is None or before_bytes is None else max(0, peak - before_bytes)
        self._facts = {"id": item.id, "affinity": session.affinity, "memory_bytes": memory}
        self._parts = [len(part) for part in _parts(job)]

    def take(self) -> None:
        """The next round's samples; after the last round the session ends."""
        assert self._sampler is not None
        begin_s = time.perf_counter()
        if self.samples_us:
            self._sampler.warm_again()
        self.samples_us += self._sampler.take(self._parts.pop(0))
        self.timed_s += time.perf_counter() - begin_s
        if not self._parts:
            self.close()

    def again(self) -> tuple[float, ...]:
        """As many samples as the protocol has, and any number of times; they are not kept and nothing is closed."""
        assert self._sampler is not None
        self._sampler.warm_again()
        return self._sampler.take(sum(self._parts))

    def close(self) -> None:
        """End the session, if it is still open."""
        self._sampler = None  # whose call holds the runtime's session
        self._open.close()

    def result(self) -> dict[str, Any]:
        """The line to print but for the sentinel."""
        return {**self._facts, "samples_us": self.samples_us, "timed_s": self.timed_s}


def _parts(job: Job) -> list[range]:
    """The samples of each round: alike in number, none empty."""
    samples, rounds = job.protocol.samples, job.protocol.rounds if job.setting.threads == 1 else 1
    rounds = min(rounds, samples)
    return [range(*pair) for pair in itertools.pairwise(samples * part // rounds for part in range(rounds + 1))]


def run_item(item: Item, job: Job) -> dict[str, Any]:
    """Time one model in this process, its rounds on end."""
    timing = Timing(item, job)
    try:
        for _ in _parts(job):
            timing.take()
    finally:
        timing.close()
    return timing.result()


def _reset_peak_memory() -> int | None:
    """Set the peak back to what is in use now and return that, bytes; None where the system does not tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    return _status_bytes("VmRSS")


def _status_bytes(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def main() -> None:
    """Read a job, print its results."""
    job = job_from_json(sys.stdin.readline())
    modules = sorted({name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names))
    _print({"ready": {"runtime": runtime_version(), "modules": modules}})
    item = job.sentinel
    try:
        with _sentinel(job) as look_us:
            parts = _parts(job)
            around = _Around(look_us, len(parts))
            together = TOGETHER if len(parts) > 1 else 1
            for start in range(0, len(job.items), together):
                with contextlib.ExitStack() as sessions:
                    timings: list[Timing] = []
                    for item in job.items[start : start + together]:
                        timings.append(Timing(item, job))
                        sessions.callback(timings[-1].close)
                        timings[-1].take()
                        around.timed(timings[-1])
                    for _ in parts[1:]:
                        for timing in timings:
                            timing.take()
                            around.timed(timing)
            around.end()
    except LatencyKitError as error:
        _print({"id": item.id, "error": str(error), "exit_code": error.exit_code})


@contextlib.contextmanager
def _sentinel(job: Job) -> Iterator[Callable[[], float]]:
    """What times the sentinel, microseconds.

    At 1 thread its session stays open, since a new one finds its memory elsewhere; with more its idle workers would
    spin beside what is timed.
    """
    job = replace(job, protocol=job.sentinel_protocol)
    if job.setting.threads > 1:
        yield lambda: statistics.median(run_item(job.sentinel, job)["samples_us"])
        return
    with contextlib.closing(Timing(job.sentinel, job)) as timing:
        yield lambda: statistics.median(timing.again())


class _Around:
    """The sentinel before the first item, after the last and every quarter second between; prints what is done."""

    def __init__(self, look_us: Callable[[], float], rounds: int) -> None:
        self._look_us, self._rounds = look_us, rounds
        self._before_us, self._probed_s = look_us(), time.monotonic()
        self._waiting: list[Timing] = []

    def timed(self, timing: Timing) -> None:
        """A round of an item is done."""
        self._waiting.append(timing)
        if time.monotonic() - self._probed_s > SENTINEL_EVERY_S:
            self.end()

    def end(self) -> None:
        """Time the sentinel, and print the items whose rounds are all over.

        An item's state is the median over its rounds: the first decile of its samples is of the better ones.
        """
        if not self._waiting:
            return
        after_us, self._probed_s = self._look_us(), time.monotonic()
        for timing in self._waiting:
            timing.states_us.append(max(self._before_us, after_us))
            if len(timing.states_us) == self._rounds:
                _print({**timing.result(), "sentinel_us": [statistics.median_low(timing.states_us)]})
        self._before_us, self._waiting = after_us, []


def _print(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
