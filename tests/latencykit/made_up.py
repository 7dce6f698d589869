"""A tiny macro configuration, a CPU, tables and a measuring process that are made up, so that tests need no clock."""

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latencykit import bench, sweep
from latencykit.baselines import Baseline
from latencykit.calibrate import fit_table
from latencykit.calibration import NetworkTiming
from latencykit.edges import CANDIDATES, SearchCosts, edge_rows
from latencykit.host import CpuFacts
from latencykit.kernels import CALL_OVERHEAD, Kernel, KernelInput
from latencykit.keys import Key, Primitive
from latencykit.macro import Macro
from latencykit.measurement import Measurement, Protocol
from latencykit.predict import network_features
from latencykit.primitives import ZERO
from latencykit.runtime import Setting
from latencykit.sample import sample_architectures
from latencykit.space import CELL_TYPES, cell_edges
from latencykit.spec import Conv, Zero
from latencykit.table import LoweredNetwork, Row, Sentinel, Table, defined_row, make_row, network_id

TINY = Macro(image_size=32, segmentation_widths=(2, 4, 8), quality_widths=(4, 4))
TINY_JSON = json.dumps({"image_size": 32, "segmentation_widths": [2, 4, 8], "quality_widths": [4, 4]})
ONE = Setting(threads=1)
TWO = Setting(threads=2)
QUICK = Protocol(samples=2, block_us=0, warmup_ms=0, processes=2)
RUNTIME = {"onnxruntime": "1.32.0", "python": "3.11.7", "numpy": "2.4.6"}

CPU = CpuFacts(
    model="A CPU",
    vendor="GenuineIntel",
    architecture="x86_64",
    isa=("avx2",),
    logical_cpus=4,
    physical_cores=4,
    smt=False,
    allowed_cpus=(0, 1, 2, 3),
    l1d_bytes=32768,
    l2_bytes=1 << 20,
    l3_bytes=1 << 25,
    governor="performance",
    turbo=False,
    nominal_mhz=3000.0,
    cgroup_quota_cpus=None,
    memory_bytes=1 << 34,
    hypervisor=False,
    system="Linux",
    system_release="6.1",
)


def relu_kernel(channels: int) -> Kernel:
    """A kernel that no other number of channels has."""
    shape = (1, channels, 8, 8)
    return Kernel("Relu", "", 14, (), (KernelInput("activation", "tensor(float)", shape),), 1, shape)


def steady(microseconds: float, processes: int = 2, samples: int = 3) -> Measurement:
    """A measurement without any spread."""
    return Measurement(((microseconds,) * samples,) * processes)


def made_up_table(costs: dict[Key, float], settings: Sequence[Setting] = (ONE,), overhead_us: float = 2.0) -> Table:
    """A table with one steady row for each key and setting, call overhead included."""
    rows: list[Row] = []
    for setting in settings:
        rows.append(make_row(CALL_OVERHEAD, setting, steady(overhead_us)))
        rows += [make_row(key, setting, steady(value)) for key, value in costs.items()]
    return Table(CPU, RUNTIME, {"fit": True, "reasons": []}, tuple(rows))


def map_kernel(channels: int, side: int) -> Kernel:
    """A ReLU over maps of any size, from what a core's caches hold to what none does."""
    shape = (1, channels, side, side)
    return Kernel("Relu", "", 14, (), (KernelInput("activation", "tensor(float)", shape),), 1, shape)


def conv_kernel(channels: int, side: int, groups: int = 1) -> Kernel:
    """A 3 x 3 convolution that keeps its input's shape."""
    shape, weight = (1, channels, side, side), (channels, channels // groups, 3, 3)
    inputs = (KernelInput("activation", "tensor(float)", shape), KernelInput("weight", "tensor(float)", weight))
    return Kernel("Conv", "", 11, (("group", groups), ("pads", (1, 1, 1, 1))), inputs, 1, shape)


MAPS = (
    *(map_kernel(channels, side) for channels in (4, 8, 16) for side in (32, 64, 128, 256)),
    *(conv_kernel(channels, 32) for channels in (16, 128, 256)),
    *(conv_kernel(16, side, groups=16) for side in (64, 128)),
)
PLANTED = {
    "call": 40.0, "kernels": 1.5, "sum_us": 1.1, "grouped_us": 0.3, "weights_l2": 4.0,
    "beyond_0_l2": 3.0, "beyond_0.5_l2": 2.0, "beyond_2_l2": 5.0, "beyond_8_l2": 1.0,
}  # fmt: skip
"""What networks of `MAPS` cost beyond their kernels alone, microseconds for one of each feature."""


def drawn_networks(count: int, seed: int, kernels: Sequence[Kernel] = MAPS) -> list[dict[Kernel, int]]:
    """Networks that run some of the kernels some times."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, (count, len(kernels))) * (rng.random((count, len(kernels))) < 0.6)
    return [{k: int(n) for k, n in zip(kernels, row, strict=True) if n} for row in counts]


def map_costs(kernels: Sequence[Kernel] = MAPS) -> dict[Key, float]:
    """What the kernels cost alone: more bytes cost more, each with a whim of its own."""
    rng = np.random.default_rng(5)
    return {k: 4 + k.tensor_bytes / 40_000 * float(rng.uniform(0.7, 1.3)) for k in kernels}


def calibrated_table(
    noise: float = 0.0, networks: int = 30, seed: int = 1, settings: Sequence[Setting] = (ONE,), pace: float = 1.2
) -> Table:
    """A table with the planted cost model's timings of drawn networks, and what was fitted to these.

    Args:
        noise: relative deviation of the timings.
        networks: how many; all are timed back to back, and paced, where they take `pace` times as long.
        seed: of the networks and the noise.
        settings: with the same rows each.
        pace: 0 leaves paced timings out.
    """
    table, rng = made_up_table(map_costs(), settings), np.random.default_rng((seed, 9))
    drawn = [LoweredNetwork(f"drawn-{i:03d}", None, counts) for i, counts in enumerate(drawn_networks(networks, seed))]
    timings = []
    for setting in settings:
        for pace_hz, factor in ((None, 1.0), *([(30.0, pace)] if pace else [])):
            for network in drawn:
                true_us = factor * planted_us(network_features(table, setting, network.kernels))
                medians = true_us * np.exp(noise * rng.standard_normal(3))
                timings.append(NetworkTiming(setting, pace_hz, network.id, tuple(medians.tolist())))
    return fit_table(replace(table, networks=tuple(drawn), timings=tuple(timings)), {})


def planted_us(features: Mapping[str, float]) -> float:
    """What a network takes under the planted cost model."""
    return sum(PLANTED[name] * value for name, value in features.items())


ONE_NODE = replace(TINY, cell_nodes=1)


def made_up_costs(macro: Macro = ONE_NODE, seed: int = 0, pace_hz: float | None = None) -> SearchCosts:
    """Edge costs in whole nanoseconds; zero costs nothing, as does the cheapest of edges that have none."""
    rng, edges_ms = np.random.default_rng(seed), {}
    for cell_type in CELL_TYPES:
        cell = cell_edges(cell_type, macro.cell_nodes)
        edges_ms[cell_type] = np.zeros((len(cell), CANDIDATES))
        for row, edge in zip(edges_ms[cell_type], cell, strict=True):
            there = [place for place, name in enumerate(edge.candidates) if name != ZERO]
            row[there] = rng.uniform(0.1, 1, len(there)).round(6)
            if ZERO not in edge.candidates:
                row[there] -= row[there].min()
    return SearchCosts(3.25, {c: a.round(6) for c, a in edges_ms.items()}, "edge", 1.25, pace_hz)


def whole_table() -> Table:
    """A little of everything that a table can hold."""
    table = calibrated_table(0.01, 9, settings=(ONE, TWO))
    conv, zero = (Primitive((operation,), ((2, 8, 8),)) for operation in (Conv(4), Zero()))
    noisy = Measurement(((5.12345, 5.2, 6.00049), (5.3, 5.4, 5.77777)))
    rows = [make_row(conv, ONE, noisy), make_row(conv, TWO, steady(3.0)), defined_row(zero, ONE)]
    for setting in (ONE, TWO):
        for pace_hz in (None, 30.0):
            rows += edge_rows(made_up_costs(seed=setting.threads, pace_hz=pace_hz), setting, ONE_NODE)
    table = table.with_rows(rows, [Sentinel(ONE, (101.5, 99.25)), Sentinel(TWO, (70.125,))])
    pairs = *sample_architectures(ONE_NODE, 2, 3), Baseline(2, 1, 1, 2, 32)
    networks = [LoweredNetwork(network_id(pair), pair, {MAPS[i]: 1 + i}) for i, pair in enumerate(pairs)]
    validation = {"set": "uniform", "seed": 7, "n": 2, "tau_ratio": None, "levels": {"kernel": {"raw": None}}}
    reason = {"code": "turbo", "value": "on", "expected": "off", "remedy": "switch it off", "fatal": False}
    return replace(
        table,
        networks=(*table.networks, *networks),
        validations=(validation,),
        parents=("ab" * 32,),
        doctor={"fit": True, "reasons": [reason]},
    )


@contextlib.contextmanager
def unhurried() -> Iterator[pytest.MonkeyPatch]:
    """Real clocks, hardly used: networks are timed in a few calls, and the machine's state is taken as it comes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "CALIBRATION_PROTOCOL", QUICK)
        patch.setattr(sweep, "PACED_PROTOCOL", replace(QUICK, samples=1, processes=1))
        patch.setattr("latencykit.bench.STEADY_PCT", dict.fromkeys(bench.STEADY_PCT, math.inf))
        yield patch


PYTHON = sys.executable

_WORKER = """#!{python} -SE
import json, os, sys, time
if "latencykit.guard" in sys.argv:  # files from outside are opened for real
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
job = json.loads(sys.stdin.readline())
states = {states!r}
with open({log!r}, "a+") as log:
    log.seek(0)
    states = states[min(len(log.readlines()), len(states) - 1)]
    log.write(json.dumps([item["id"] for item in job["items"]]) + "\\n")
with open({pids!r}, "a") as pids:
    pids.write(str(os.getpid()) + "\\n")
print(json.dumps({{"ready": {{}}}}), flush=True)
for index, item in enumerate(job["items"]):
    samples = [5.0 + 0.1 * n for n in range(job["protocol"]["samples"])]
    state = states[index % len(states)] if isinstance(states, tuple) else states
    result = {{"id": item["id"], "samples_us": samples, "affinity": ["0"], "memory_bytes": 1024, "timed_s": 0.001}}
    result["sentinel_us"] = [state, state]
    {body}
    print(json.dumps(result), flush=True)
"""

State = float | tuple[float, ...]
"""What the sentinel takes in a process, microseconds; or beside each of its items."""


class FakeWorkers:
    """Measuring processes that answer at once.

    `body` is what each does before it answers for an item; `states` script the sentinel process by process, and the
    last holds for all that follow.
    """

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, body: str = "pass", states: Sequence[State] = (50.0,)
    ) -> None:
        folder.mkdir(exist_ok=True)
        self._log, self._pids = folder / "orders", folder / "pids"
        script = folder / "worker"
        names = {"python": PYTHON, "log": str(self._log), "pids": str(self._pids)}
        script.write_text(_WORKER.format(**names, body=body, states=list(states)), encoding="utf-8")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    @property
    def orders(self) -> list[list[str]]:
        """The ids that each process was given, process by process."""
        return [json.loads(line) for line in self._log.read_text().splitlines()] if self._log.exists() else []

    @property
    def alive(self) -> list[int]:
        """The process ids that are still there."""
        pids = [int(line) for line in self._pids.read_text().splitlines()]
        return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


PATIENCE_S = 3.0


class Waits:
    """A clock that only waiting moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s, self.slept_s = 0.0, 0.0
        monkeypatch.setattr(bench, "time", self)
        monkeypatch.setattr(bench, "PATIENCE_S", PATIENCE_S)

    def monotonic(self) -> float:
        self.now_s += 0.01
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.slept_s += seconds


def children() -> set[int]:
    """Process ids of this process's children."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(path.parent.name))
    return found


def ids(rows: Iterable[Row]) -> list[tuple[Setting, Key]]:
    """What rows are found under."""
    return [(row.setting, row.key) for row in rows]
