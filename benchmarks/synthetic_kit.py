"""A kit's result whose networks are lowered for real and whose clock is made up: for tests and for fuzzing."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from latencykit.calibrate import fit_table
from latencykit.calibration import NetworkTiming
from latencykit.host import CpuFacts, read_cpu
from latencykit.kernels import Kernel
from latencykit.keys import Key, Primitive, key_id
from latencykit.kit_plan import KIT_FORMAT, KitPlan
from latencykit.kit_work import lower, result_files
from latencykit.macro import Macro
from latencykit.measurement import Measurement
from latencykit.predict import predict_kernels
from latencykit.runtime import Setting, runtime_version
from latencykit.schema import to_json
from latencykit.table import LoweredNetwork, Row, Sentinel, Table, defined_row, make_row, model_id

ONE = Setting(threads=1)
PROCESSES = 2


def noise(*words: object) -> float:
    """A factor close to 1 that depends on the words alone."""
    digest = hashlib.sha256(repr(words).encode()).digest()
    return 1 + 0.02 * (int.from_bytes(digest[:4], "big") / 2**32 - 0.5)


def timed_row(key: Key, setting: Setting) -> Row:
    """A row as if it had been measured."""
    if isinstance(key, Primitive) and key.is_free:
        return defined_row(key, setting)
    assert isinstance(key, Kernel | Primitive)
    seen = make_row(key, setting, Measurement(((1.0,),)))
    cost_us = 2 + (1e-4 * seen.macs + 1e-5 * seen.bytes) / math.sqrt(setting.threads)
    return make_row(key, setting, Measurement(tuple(_samples(cost_us, key_id(key), p) for p in range(PROCESSES))))


def _samples(cost_us: float, name: str, process: int) -> tuple[float, ...]:
    return tuple(cost_us * noise(name, process, index) for index in range(3))


def medians(table: Table, setting: Setting, network: LoweredNetwork, rhythm: float | None) -> tuple[float, ...]:
    """What a network's processes took, as if."""
    raw_us = predict_kernels(table, setting, network.kernels).raw_us
    return tuple(5 + 1.2 * raw_us * noise(network.id, rhythm, process) for process in range(PROCESSES))


def synthetic_result(
    macro: Macro, models: Sequence[bytes] = (), settings: Sequence[Setting] = (ONE,), cpu: CpuFacts | None = None
) -> dict[str, bytes]:
    """The files of a result."""
    brought: Mapping[str, bytes] = {model_id(model): model for model in models}
    names = {name: f"mine{index}.onnx" for index, name in enumerate(brought)}
    plan = KitPlan(KIT_FORMAT, "0.1.0", (macro,), 5, 12, 3, models=names)
    work = lower(plan, brought)
    todo = work.todo(Path("there is no such file"), settings, paced=True)
    rows = tuple(timed_row(key, setting) for setting, key in todo.wanted)
    runtime = {"onnxruntime": runtime_version()}
    sentinels = tuple(Sentinel(setting, (60.0, 61.5)) for setting in settings)
    table = Table(cpu or read_cpu(), runtime, {"fit": True, "reasons": []}, rows, sentinels, todo.networks)
    held = {network.id: network for network in todo.networks}
    timings = tuple(
        NetworkTiming(setting, rhythm, name, medians(table, setting, held[name], rhythm))
        for setting, rhythm, name in todo.untimed
    )
    table = fit_table(replace(table, timings=timings), work.needs.samples)
    later = [
        {
            "setting": to_json(setting),
            "affinity": [["0"]],
            "unsteady": {work.validation[0].id: 1},
            "medians_us": {n.id: medians(table, setting, n, None) for n in (*work.validation, *work.brought)},
        }
        for setting in settings
    ]
    return result_files(plan, table, work.needs.samples, later, work.graphs())
