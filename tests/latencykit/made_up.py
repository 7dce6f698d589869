"""A tiny macro configuration, a CPU, tables and a measuring process that are made up, so that tests need no clock."""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from latencykit.host import CpuFacts
from latencykit.kernels import CALL_OVERHEAD, Kernel, KernelInput
from latencykit.keys import Key
from latencykit.macro import Macro
from latencykit.measurement import Measurement, Protocol
from latencykit.runtime import Setting
from latencykit.table import Row, Table, make_row

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


PYTHON = sys.executable

_WORKER = """#!{python} -SE
import json, os, sys, time
if "latencykit.guard" in sys.argv:  # files from outside are opened for real
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
job = json.loads(sys.stdin.readline())
with open({log!r}, "a") as log:
    log.write(json.dumps([item["id"] for item in job["items"]]) + "\\n")
with open({pids!r}, "a") as pids:
    pids.write(str(os.getpid()) + "\\n")
print(json.dumps({{"ready": {{}}}}), flush=True)
for index, item in enumerate(job["items"]):
    samples = [5.0 + 0.1 * n for n in range(job["protocol"]["samples"])]
    result = {{"id": item["id"], "samples_us": samples, "affinity": ["0"], "memory_bytes": 1024, "timed_s": 0.001}}
    {body}
    print(json.dumps(result), flush=True)
"""


class FakeWorkers:
    """Measuring processes that answer at once; `body` is what each does before it answers for an item."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, body: str = "pass") -> None:
        self._log, self._pids = folder / "orders", folder / "pids"
        script = folder / "worker"
        text = _WORKER.format(python=PYTHON, log=str(self._log), pids=str(self._pids), body=body)
        script.write_text(text, encoding="utf-8")
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


def ids(rows: Iterable[Row]) -> list[tuple[Setting, Key]]:
    """What rows are found under."""
    return [(row.setting, row.key) for row in rows]
