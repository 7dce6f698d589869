"""What a run asks of `latencykit`: a table that covers its rows, the search's costs, the latency of exported models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from latencykit.bench import measure_models
from latencykit.cost import SearchCosts, cost
from latencykit.coverage import USUAL_NETWORKS, space_kernels, space_primitives
from latencykit.doctor import doctor
from latencykit.errors import InputError
from latencykit.figures import save_figure, validation_figure
from latencykit.files import write_json
from latencykit.host import read_cpu
from latencykit.macro import Macro
from latencykit.measurement import Measurement
from latencykit.progress import progress
from latencykit.report import validation_json
from latencykit.runtime import Setting, runtime_version
from latencykit.schema import decode, read_json, to_json
from latencykit.sweep import build, plan_build
from latencykit.table import Key, Table
from latencykit.validate import VALIDATION_PROTOCOL, validate

VALIDATION_SEED = 7
FIT_NETWORKS = 160
"""Half a minute on a modest CPU; the residual, which is stored with the costs, says whether it suffices."""
MAX_COSTS_BYTES = 1_000_000
MAX_VALIDATION_BYTES = 100_000_000
MAX_LATENCIES_BYTES = 100_000_000


def ensure_table(path: Path, macros: Sequence[Macro], threads: Sequence[int]) -> Table:
    """The table at `path`, completed on this machine where it lacks rows that the searched rows need.

    Raises:
        NotComparableError: rows are missing and the table is of another machine.
        UnfitError: more threads than physical processors.
    """
    keys: list[Key] = []
    with progress("find the kernels", USUAL_NETWORKS * len(macros)) as advance:
        for macro in macros:
            keys += [*space_primitives(macro), *space_kernels(macro, advance)]
    settings = [Setting(count) for count in threads]
    plan = plan_build(path, settings, keys)
    if plan.table is not None and not plan.missing:
        return plan.table
    with progress("measure the latency table", plan.sample_sets()) as advance:
        return build(path, plan, doctor(), advance=advance).table


def validate_table(table: Table, macro: Macro, threads: int, networks: int, out: Path) -> None:
    """Write `validation.json` and `validation.png` of a table, unless they are there for this very question.

    Raises:
        NotComparableError: the table is of another machine, and would be compared with this one's timing.
    """
    target, picture = out / "validation.json", out / "validation.png"
    asked = {"table_sha": table.checksum, "threads": threads, "n": networks}
    if target.exists() and picture.exists():
        before = read_json(target, MAX_VALIDATION_BYTES)
        if isinstance(before, dict) and asked.items() <= before.items():
            return
    table.require_same_machine(read_cpu(), {"onnxruntime": runtime_version()})
    with progress("validate the table", networks * VALIDATION_PROTOCOL.processes) as advance:
        found = validate(table, table.setting(threads), macro, networks, VALIDATION_SEED, advance=advance)
    save_figure(validation_figure(found), picture)
    write_json(target, {"table_sha": table.checksum, "seed": VALIDATION_SEED, **validation_json(found)})


def search_costs(table: Table, threads: int, macro: Macro, folder: Path) -> SearchCosts:
    """The search's costs under a macro configuration, fitted once for a table and kept in `folder`."""
    identity = json.dumps([table.checksum, threads, to_json(macro), FIT_NETWORKS], sort_keys=True)
    path = folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"
    if path.exists():
        return _read_costs(path)
    with progress("fit the search's costs", FIT_NETWORKS + FIT_NETWORKS // 5) as advance:
        costs = cost(table, table.setting(threads), macro, networks=FIT_NETWORKS, advance=advance)
    edges = {cell_type: array.tolist() for cell_type, array in costs.edges_ms.items()}
    write_json(path, {**to_json(replace(costs, edges_ms={})), "edges_ms": edges})
    return costs


def _read_costs(path: Path) -> SearchCosts:
    data = read_json(path, MAX_COSTS_BYTES)
    if not isinstance(data, dict) or not isinstance(data.get("edges_ms"), dict):
        raise InputError(f"{path} holds no costs; delete it, the next run writes it again.")
    edges = {cell_type: np.array(rows, np.float64) for cell_type, rows in data["edges_ms"].items()}
    return replace(decode(SearchCosts, {**data, "edges_ms": {}}, str(path)), edges_ms=edges)


def measure_rows(
    models: Mapping[Path, Path], setting: Setting, pace_hz: float | None, processes: int, store: Path
) -> dict[Path, Measurement]:
    """Time exported models end to end, interleaved in one run; models of one architecture are timed once.

    What `store` holds of this very machine is not timed again, unless one of the models is missing there: rows are only
    compared within a run.

    Args:
        models: from the ONNX file to its `architecture.json`: latency depends on the architecture, not the weights.
        setting: of the runtime.
        pace_hz: calls a second; None is back to back.
        processes: fresh processes a model.
        store: JSON file of what was timed.
    """
    names = {model: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for model, file in models.items()}
    cpu = read_cpu()
    group = f"{cpu.model}, onnxruntime {runtime_version()}, {setting}, {pace_hz or 0:g} Hz"
    kept = _stored(store)
    if not kept.get(group, {}).keys() >= set(names.values()):
        unique = {name: model for model, name in reversed(names.items())}
        title = f"time the models, {setting}, {f'{pace_hz:g} Hz' if pace_hz else 'back to back'}"
        with progress(title, len(unique) * processes) as advance:
            found = measure_models(list(unique.values()), setting, pace_hz, processes, advance)
        kept[group] = {name: one.measurement for name, one in zip(unique, found, strict=True)}
        write_json(store, to_json(kept))
    return {model: kept[group][name] for model, name in names.items()}


def _stored(path: Path) -> dict[str, dict[str, Measurement]]:
    if not path.exists():
        return {}
    return decode(dict[str, dict[str, Measurement]], read_json(path, MAX_LATENCIES_BYTES), str(path))
