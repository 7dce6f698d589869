"""The measuring process: `python -m latencykit.worker`, a job on standard input, a JSON line per result.

It imports numpy and onnxruntime and nothing else of weight (tested), measures one session at a time, and ends. A
sentinel is timed before the first item, after the last and every quarter second between, so that each figure comes with
the machine's state on either side of it. Lines:

    {"ready": {"runtime": "1.32.0", "modules": ["numpy", ...]}}
    {"id": "...", "samples_us": [...], "affinity": ["0", "1"], "memory_bytes": 1048576, "timed_s": 0.03,
     "sentinel_us": [67.2, 67.5]}
    {"id": "...", "error": "onnxruntime refuses ...", "exit_code": 6}
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from latencykit.errors import LatencyKitError
from latencykit.measurement import Protocol
from latencykit.runtime import Session, Setting, runtime_version
from latencykit.timing import sample_us, slowed


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


SENTINEL_PROTOCOL = Protocol(samples=15, block_us=0, warmup_ms=2, processes=1)
SENTINEL_EVERY_S = 0.25


@dataclass(frozen=True)
class Job:
    """What one measuring process does, in this order; `sentinel` is timed around the items."""

    setting: Setting
    protocol: Protocol
    cpus: tuple[int, ...]
    items: tuple[Item, ...]
    sentinel: Item
    seed: int = 0


def job_to_json(job: Job) -> str:
    """A job as one line of JSON."""
    return json.dumps(asdict(job))


def job_from_json(text: str) -> Job:
    """The job of a line that `job_to_json` wrote."""
    data = json.loads(text)
    items = tuple(Item(**item) for item in data["items"])
    setting, protocol = Setting(**data["setting"]), Protocol(**data["protocol"])
    return Job(setting, protocol, tuple(data["cpus"]), items, Item(**data["sentinel"]), data["seed"])


def run_item(item: Item, job: Job) -> dict[str, Any]:
    """Time one model in this process."""
    setting = Setting(**{**asdict(job.setting), "optimisation": "none"}) if item.as_is else job.setting
    before_bytes = _reset_peak_memory()
    with Session(Path(item.path), setting, job.cpus) as session:
        call = session.bound(session.random_inputs(job.seed))
        if item.slowdown_pct is not None:
            call = slowed(call, item.slowdown_pct)
        begin_s = time.perf_counter()
        samples = sample_us(call, job.protocol)
        timed_s = time.perf_counter() - begin_s
        peak = _status_bytes("VmHWM")
        memory = None if peak is None or before_bytes is None else max(0, peak - before_bytes)
        return {
            "id": item.id,
            "samples_us": samples,
            "affinity": session.affinity,
            "memory_bytes": memory,
            "timed_s": timed_s,
        }


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
    item, waiting = job.sentinel, []
    try:
        before_us, probed_s = _sentinel_us(job), time.monotonic()
        for index, item in enumerate(job.items, start=1):
            waiting.append(run_item(item, job))
            if index == len(job.items) or time.monotonic() - probed_s > SENTINEL_EVERY_S:
                after_us, probed_s = _sentinel_us(job), time.monotonic()
                for found in waiting:
                    _print({**found, "sentinel_us": [before_us, after_us]})
                before_us, waiting = after_us, []
    except LatencyKitError as error:
        _print({"id": item.id, "error": str(error), "exit_code": error.exit_code})


def _sentinel_us(job: Job) -> float:
    samples: tuple[float, ...] = run_item(job.sentinel, replace(job, protocol=SENTINEL_PROTOCOL))["samples_us"]
    return statistics.median(samples)


def _print(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
