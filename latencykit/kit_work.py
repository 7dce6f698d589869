"""What a kit measures, as its target's runtime has it, and the files of its result."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from latencykit.bench import collect, steadiest, steady_limit_us
from latencykit.calibrate import SpaceNeeds, networks_to_lower, space_needs
from latencykit.coverage import lower_all
from latencykit.edges import LoweredSamples
from latencykit.errors import InputError
from latencykit.evidence import evidence
from latencykit.journal import Batch, Journal, measure_batches
from latencykit.kernels import Kernel, kernels_of
from latencykit.kit_plan import GRAPHS, MANIFEST, PLAN, SAMPLES, TABLE, VALIDATION, KitPlan, manifest_of, plan_to_bytes
from latencykit.lines import lines
from latencykit.macro import Macro
from latencykit.runtime import Setting, optimise
from latencykit.schema import to_json
from latencykit.sentinel import NETWORK
from latencykit.sweep import Plan, network_model, plan_build
from latencykit.table import LoweredNetwork, Table, network_id
from latencykit.table_file import save_table

_ALONE = Setting(threads=1, pinned=False)


@dataclass(frozen=True)
class Work:
    """What a kit measures, as this machine's runtime has it.

    Attributes:
        needs: of the table.
        validation: unseen networks; brought: the user's own models.
        models: bytes of these, by id.
    """

    needs: SpaceNeeds
    validation: tuple[LoweredNetwork, ...]
    brought: tuple[LoweredNetwork, ...]
    models: Mapping[str, bytes]

    def todo(self, out: Path, settings: Sequence[Setting], paced: bool) -> Plan:
        """All rows and timings; `out` is not there."""
        added = (*self.validation, *self.brought)
        keys = [*self.needs.keys, *(kernel for network in added for kernel in network.kernels)]
        plan = plan_build(out, settings, keys, self.needs.calibration, added)
        untimed = tuple(one for one in plan.untimed if paced or one[1] is None)
        return Plan(None, plan.wanted, plan.missing, plan.networks, untimed)

    def model(self, network: LoweredNetwork) -> bytes:
        """The ONNX of a network."""
        return self.models[network.id] if network.network is None else network_model(network)

    def graphs(self) -> dict[str, bytes]:
        """Evidence of the kernels of calibration networks and the user's models, by id."""
        found = {}
        networks = (*self.needs.calibration, *self.brought)
        with lines("collect graphs", len(networks)) as advance, tempfile.TemporaryDirectory() as scratch:
            target = Path(scratch) / "optimised.onnx"
            for network in networks:
                optimise(self.model(network), _ALONE, target)
                found[network.id] = evidence(target.read_bytes())
                advance()
        return found


def lower(plan: KitPlan, models: Mapping[str, bytes]) -> Work:
    """Draw a plan's networks and have this machine's runtime optimise them; raises `InputError` naming a model."""
    count = networks_to_lower(plan.fit_networks, plan.sampled_networks) + plan.validation_networks
    with lines("lower networks", len(plan.macros) * count + len(models)) as advance:
        needs = space_needs(plan.macros, plan.fit_networks, plan.sampled_networks, advance)
        unseen = plan.unseen_networks()
        lowered = lower_all(unseen, advance)
        brought = []
        with tempfile.TemporaryDirectory() as scratch:
            for name, model in models.items():
                try:
                    brought.append(LoweredNetwork(name, None, Counter(kernels_of(model, _ALONE, Path(scratch)))))
                except InputError as error:
                    raise InputError(f"models/{plan.models[name]}: {error}") from error
                advance()
    validation = (LoweredNetwork(network_id(a), a, kernels) for a, kernels in zip(unseen, lowered, strict=True))
    return Work(needs, tuple(validation), tuple(brought), models)


def time_networks(
    work: Work, settings: Sequence[Setting], table: Table, journal: Journal, attempts: int | None = None
) -> None:
    """Time the unseen networks and the user's models back to back, after all that the table is made from."""
    networks = {network.id: network for network in (*work.validation, *work.brought)}
    models = {name: (partial(work.model, network), False) for name, network in networks.items()}
    with lines("time unseen networks", len(settings) * len(models) * journal.protocol.processes) as advance:
        for setting in settings:
            batch = Batch(journal.protocol, models, NETWORK, table.reference_us(setting, NETWORK.name))
            measure_batches([batch], setting, journal, advance, attempts)


def timings_json(work: Work, settings: Sequence[Setting], table: Table, journal: Journal) -> list[dict[str, Any]]:
    """What the unseen networks and the user's models took, by setting: raw medians of each process."""
    found = []
    for setting in settings:
        best = steadiest(journal.samples(setting))
        limit_us = steady_limit_us(best.values(), table.reference_us(setting, NETWORK.name), NETWORK.name)
        measured = collect(journal.samples(setting))
        unsteady = Counter(sample.id for sample in best.values() if sample.state_us > limit_us)
        medians_us = {n.id: measured[n.id].process_figures_us(None) for n in (*work.validation, *work.brought)}
        affinity = sorted({sample.affinity for sample in best.values()})
        part = {"affinity": affinity, "unsteady": unsteady, "medians_us": medians_us}
        found.append({"setting": to_json(setting), **part})
    return found


def result_files(
    plan: KitPlan,
    table: Table,
    samples: Mapping[Macro, LoweredSamples],
    timings: Sequence[Mapping[str, Any]],
    graphs: Mapping[str, bytes],
) -> dict[str, bytes]:
    """The files of a result, its manifest included."""
    place = {kernel: index for index, kernel in enumerate(kernels_listed(table))}
    lowered = [
        [
            [network_id(architecture), [[place[kernel], count] for kernel, count in kernels.items()]]
            for architecture, kernels in zip(samples[macro].architectures, samples[macro].kernels, strict=True)
        ]
        for macro in plan.macros
    ]
    with tempfile.TemporaryDirectory() as scratch:
        save_table(table, Path(scratch) / TABLE)
        written = (Path(scratch) / TABLE).read_bytes()
    files = {
        PLAN: plan_to_bytes(plan),
        TABLE: written,
        SAMPLES: _json(lowered),
        VALIDATION: _json(timings),
        **{f"{GRAPHS}/{name}.onnx": graph for name, graph in graphs.items()},
    }
    return {**files, MANIFEST: manifest_of(files)}


def kernels_listed(table: Table) -> list[Kernel]:
    """Kernels in the order of the table's rows: what numbers in a result stand for."""
    return list(dict.fromkeys(row.key for row in table.rows if isinstance(row.key, Kernel)))


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
