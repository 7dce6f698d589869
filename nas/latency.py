"""What a run asks of `latencykit`: a table that covers its rows, the search's costs, the latency of exported models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from latencykit.architecture import architecture_to_json, read_architecture
from latencykit.bench import MeasuredModel, measure_models
from latencykit.cost import SearchCosts, cost
from latencykit.coverage import space_kernels, space_primitives
from latencykit.doctor import doctor
from latencykit.errors import InputError
from latencykit.figures import save_figure, validation_figure
from latencykit.files import write_json
from latencykit.macro import Macro
from latencykit.progress import progress
from latencykit.report import validation_json
from latencykit.runtime import Setting
from latencykit.schema import decode, read_json, to_json
from latencykit.sweep import build, plan_build
from latencykit.table import Key, Table
from latencykit.validate import VALIDATION_PROTOCOL, validate

VALIDATION_SEED = 7
FIT_NETWORKS = 160
MAX_COSTS_BYTES = 1_000_000


def ensure_table(path: Path, macros: Sequence[Macro], threads: Sequence[int]) -> Table:
    """The table at `path`, completed on this machine where it lacks rows that the searched rows need.

    Raises:
        NotComparableError: rows are missing and the table is of another machine.
        UnfitError: more threads than physical processors.
    """
    keys: list[Key] = []
    with progress("find the kernels", len(macros)) as advance:
        for macro in macros:
            keys += [*space_primitives(macro), *space_kernels(macro)]
            advance()
    settings = [Setting(count) for count in threads]
    plan = plan_build(path, settings, keys)
    if plan.table is not None and not plan.missing:
        return plan.table
    with progress("measure the latency table", plan.sample_sets()) as advance:
        return build(path, plan, doctor(), advance=advance).table


def validate_table(table: Table, macro: Macro, threads: int, networks: int, out: Path) -> None:
    """Write `validation.json` and `validation.png` of a table, unless they are there for this very table."""
    target = out / "validation.json"
    if target.exists() and read_json(target, 100_000_000).get("table_sha") == table.checksum:
        return
    with progress("validate the table", networks * VALIDATION_PROTOCOL.processes) as advance:
        found = validate(table, table.setting(threads), macro, networks, VALIDATION_SEED, advance=advance)
    save_figure(validation_figure(found), out / "validation.png")
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
    models: Mapping[Path, Path], threads: int, pace_hz: float | None, processes: int
) -> dict[Path, MeasuredModel]:
    """Time exported models end to end, interleaved; models of one architecture are timed once.

    Args:
        models: from the ONNX file to its `architecture.json`: latency depends on the architecture, not the weights.
        threads: of the runtime.
        pace_hz: calls a second; None is back to back.
        processes: fresh processes a model.
    """
    shapes = {model: json.dumps(architecture_to_json(read_architecture(file))) for model, file in models.items()}
    representatives = {shape: model for model, shape in reversed(shapes.items())}
    unique = list(representatives.values())
    title = f"time the models, {threads} threads, {f'{pace_hz:g} Hz' if pace_hz else 'back to back'}"
    with progress(title, len(unique) * processes) as advance:
        found = dict(zip(unique, measure_models(unique, Setting(threads), pace_hz, processes, advance), strict=True))
    return {model: found[representatives[shape]] for model, shape in shapes.items()}
