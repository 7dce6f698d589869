"""What a run's rows take: exported models timed end to end, all in one run, each beside its floor."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from latencykit.architecture import network_floor, read_architecture
from latencykit.end_to_end import measure_models
from latencykit.files import write_json
from latencykit.host import CpuFacts
from latencykit.instructions import used_cpu
from latencykit.lowering import graph_to_onnx, network_onnx
from latencykit.measurement import Measurement
from latencykit.progress import progress
from latencykit.runtime import Setting, runtime_version
from latencykit.schema import decode, read_json, to_json
from latencykit.table import MACHINE_FACTS, model_id, network_id
from nas.config import RunConfig
from nas.workspace import Workspace

MEASURING_PROCESSES = 3
MAX_LATENCIES_BYTES = 100_000_000


@dataclass(frozen=True)
class RowTiming:
    """A model timed end to end, and in the same run its floor: input and head without the two networks."""

    pair: Measurement
    floor: Measurement


Timings = dict[tuple[Path, int, float], RowTiming]
"""By model, threads and calls a second, 0 being back to back."""


def time_rows(config: RunConfig, workspace: Workspace) -> Timings:
    """Latencies by (model, threads, pace): back to back and paced, at every thread count, all rows interleaved."""
    folders = [workspace.seed(row.name, seed) for row, seed in config.tasks()]
    models = {folder.model: folder.train / "architecture.json" for folder in folders}
    found: Timings = {}
    for threads in config.threads:
        for pace_hz in (None, config.pace_hz):
            measured = measure_rows(models, Setting(threads), pace_hz, MEASURING_PROCESSES, workspace.latencies)
            found |= {(model, threads, pace_hz or 0.0): one for model, one in measured.items()}
    return found


def measure_rows(
    models: Mapping[Path, Path], setting: Setting, pace_hz: float | None, processes: int, store: Path
) -> dict[Path, RowTiming]:
    """Time exported models end to end, interleaved in one run; models of one architecture are timed once.

    A model that is not here, since only its architecture was published, is timed with random weights. What `store`
    holds of this very machine is not timed again, unless one of the models is missing there: rows are only compared
    within a run.

    Args:
        models: from the ONNX file to its `architecture.json`: latency depends on the architecture, not the weights.
        setting: of the runtime.
        pace_hz: calls a second; None is back to back.
        processes: fresh processes a model.
        store: JSON file of what was timed.
    """
    names = {model: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for model, file in models.items()}
    floors = {
        model: bytes(graph_to_onnx(network_floor(read_architecture(file))).SerializeToString())
        for model, file in models.items()
    }
    floor_names = {model: f"floor of {model_id(content)}" for model, content in floors.items()}
    cpu = used_cpu()
    group = f"{_machine(cpu)}, onnxruntime {runtime_version()}, {setting}, {pace_hz or 0:g} Hz"
    kept = _stored(store)
    if not kept.get(group, {}).keys() >= {*names.values(), *floor_names.values()}:
        with TemporaryDirectory() as scratch:
            unique = {
                name: model if model.exists() else _like(models[model], Path(scratch))
                for model, name in reversed(names.items())
            }
            for model, name in floor_names.items():
                unique[name] = Path(scratch) / f"{name}.onnx"
                unique[name].write_bytes(floors[model])
            title = f"time the models, {setting}, {f'{pace_hz:g} Hz' if pace_hz else 'back to back'}"
            with progress(title, len(unique) * processes) as advance:
                found = measure_models([*unique.values()], setting, pace_hz, processes, advance)
        kept[group] = {name: one.measurement for name, one in zip(unique, found, strict=True)}
        write_json(store, to_json(kept))
    return {model: RowTiming(kept[group][name], kept[group][floor_names[model]]) for model, name in names.items()}


def _machine(cpu: CpuFacts) -> str:
    """A CPU by its brand, which several share, and a checksum of what makes two machines different ones."""
    facts = json.dumps([getattr(cpu, name) for name in MACHINE_FACTS])
    return f"{cpu.model} {hashlib.sha256(facts.encode()).hexdigest()[:8]}"


def _like(architecture: Path, folder: Path) -> Path:
    """An ONNX file of an architecture, with random weights."""
    network = read_architecture(architecture)
    path = folder / f"{network_id(network)}.onnx"
    path.write_bytes(network_onnx(network))
    return path


def _stored(path: Path) -> dict[str, dict[str, Measurement]]:
    if not path.exists():
        return {}
    return decode(dict[str, dict[str, Measurement]], read_json(path, MAX_LATENCIES_BYTES), str(path))


def latency_table(config: RunConfig, workspace: Workspace, latencies: Timings) -> str:
    """Each row's latency under every condition as Markdown, the floor that no search changes apart."""
    conditions = list(dict.fromkeys((threads, pace_hz) for _, threads, pace_hz in latencies))
    heads = [f"{threads} thr, {f'{pace_hz:g} Hz' if pace_hz else 'on end'}" for threads, pace_hz in conditions]
    lines = ["| row | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
    for row in config.rows:
        cells = []
        for condition in conditions:
            timings = [latencies[workspace.seed(row.name, seed).model, *condition] for seed in config.seeds_of(row)]
            whole, floor = (
                statistics.fmean(getattr(timing, part).median_us for timing in timings) / 1000
                for part in ("pair", "floor")
            )
            cells.append(f"{whole:.3f} = {floor:.3f} + {whole - floor:.3f}")
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    note = (
        "Median ms of a frame, means over seeds: the whole pair = its floor (the image's way in, the maps' way out, "
        "timed as a model of its own in the same run) + the two networks."
    )
    return "\n".join((*lines, "", note)) + "\n"
