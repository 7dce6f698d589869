"""A kit's result as it lies in its archive: whole, of the plan's networks and of nothing else.

Networks are drawn again here, from the plan's seeds; rows are made again from their keys and samples; optimised graphs
are opened in a limited process and compared with the kernels that the table says their networks run.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from latencykit.architecture import Network
from latencykit.archive import read_archive
from latencykit.calibrate import calibration_networks
from latencykit.calibration import NetworkTiming
from latencykit.coverage import space_primitives
from latencykit.edges import LoweredSamples, fit_architectures
from latencykit.errors import InputError
from latencykit.evidence import outline
from latencykit.kernels import CALL_OVERHEAD, Kernel
from latencykit.keys import Edge, Key, Primitive
from latencykit.kit_plan import (
    GRAPHS,
    MANIFEST,
    PLAN,
    SAMPLES,
    TABLE,
    VALIDATION,
    KitPlan,
    require_format,
    require_manifest,
)
from latencykit.kit_work import kernels_listed
from latencykit.macro import Macro
from latencykit.runtime import Setting
from latencykit.schema import decode, naming, parse_json
from latencykit.space import Architecture
from latencykit.sweep import PACE_HZ
from latencykit.table import LoweredNetwork, Row, Table, defined_row, make_row, network_id
from latencykit.table_file import load_table

MAX_TOTAL_BYTES = 512 << 20
MAX_FILES = 10_000

Outlines = Callable[[Mapping[str, bytes], str], Mapping[str, Counter[Kernel]]]
"""Opens optimised graphs (`outside.outside_outlines`)."""


@dataclass(frozen=True)
class Timings:
    """What unseen networks and the user's models took at one setting: medians of each process, by network.

    Attributes:
        affinity: processors that threads were seen on, one entry for each way that was seen.
        unsteady: of how many processes a network's figure had to do although the machine was in another state.
    """

    setting: Setting
    affinity: tuple[tuple[str, ...], ...]
    unsteady: dict[str, int]
    medians_us: dict[str, tuple[float, ...]]

    @property
    def processes(self) -> int:
        """Processes that each network was timed in."""
        return len(next(iter(self.medians_us.values())))


@dataclass(frozen=True)
class Result:
    """What a kit brought back.

    Attributes:
        plan: what was asked.
        table: as it was fitted there.
        samples: by macro configuration, the networks that edge costs are fitted to.
        unseen: the networks of the validation.
        timings: in the order of the table's settings.
    """

    plan: KitPlan
    table: Table
    samples: Mapping[Macro, LoweredSamples]
    unseen: tuple[Architecture, ...]
    timings: tuple[Timings, ...]


def read_result(path: Path, outlines: Outlines) -> Result:
    """Read a result and check all that needs no fitting.

    Raises:
        InputError: what is damaged, missing, or does not fit the rest; the archive's own faults name the file.
    """
    files = read_archive(path, MAX_TOTAL_BYTES, MAX_FILES)
    require_manifest(files)
    if missing := sorted({PLAN, TABLE, SAMPLES, VALIDATION} - files.keys()):
        raise InputError(
            f"it holds no {missing[0]}; expected the result.zip that a kit's run.py wrote, not the kit itself."
        )
    plan, table = _plan(files[PLAN]), _table(files[TABLE])
    unseen = plan.unseen_networks()
    samples = _samples(files[SAMPLES], plan, table)
    _require_networks(table, plan, unseen)
    _require_rows(table, plan, samples)
    _require_timings(table, plan)
    timings = _timings(files[VALIDATION], table, plan, unseen)
    graphs = {name: content for name, content in files.items() if name not in (PLAN, TABLE, SAMPLES, VALIDATION)}
    _require_graphs(graphs, table, plan, outlines)
    return Result(plan, table, samples, tuple(unseen), tuple(timings))


def _plan(content: bytes) -> KitPlan:
    data = parse_json(content, PLAN)
    with naming(PLAN):
        require_format(data.get("format") if isinstance(data, dict) else None)
    return decode(KitPlan, data, PLAN)


def _table(content: bytes) -> Table:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / TABLE
        path.write_bytes(content)
        try:
            table = load_table(path)
        except InputError as error:
            raise InputError(str(error).replace(str(path), TABLE)) from error
    if table.validations or table.parents:
        raise InputError(f"{TABLE}: it has validations or parents; a kit's table is measured anew.")
    return replace(table, path=None)


def _samples(content: bytes, plan: KitPlan, table: Table) -> dict[Macro, LoweredSamples]:
    """The networks that edge costs are fitted to, drawn again here, with the kernels that they run there."""
    lowered = decode(
        tuple[tuple[tuple[str, tuple[tuple[int, int], ...]], ...], ...], parse_json(content, SAMPLES), SAMPLES
    )
    if len(lowered) != len(plan.macros):
        raise InputError(f"{SAMPLES}: {len(lowered)} macro configurations; the plan has {len(plan.macros)}.")
    kernels = kernels_listed(table)
    found = {}
    for macro, networks in zip(plan.macros, lowered, strict=True):
        drawn = fit_architectures(macro, plan.fit_networks)
        if [network_id(architecture) for architecture in drawn] != [name for name, _ in networks]:
            raise InputError(
                f"{SAMPLES}: its networks are not those that the plan's seed draws here; {_versions(plan)}"
            )
        counts = []
        for architecture, (name, pairs) in zip(drawn, networks, strict=True):
            if not all(0 <= index < len(kernels) for index, _ in pairs) or len(dict(pairs)) < len(pairs):
                raise InputError(f"{SAMPLES}: {name} runs a kernel that the table does not list, or one twice.")
            network = LoweredNetwork(name, architecture, {kernels[index]: count for index, count in pairs})
            counts.append(network.kernels)
        found[macro] = LoweredSamples(tuple(drawn), tuple(counts), plan.fit_networks)
    return found


def _versions(plan: KitPlan) -> str:
    """What may be in the way beside tampering: seeds may draw other networks in another version."""
    return f"where the kit is of another latencykit ({plan.latencykit}) than this one, make it again."


def _calibration(plan: KitPlan) -> list[list[Network]]:
    """The networks to calibrate with, by macro configuration."""
    return [calibration_networks(macro, plan.sampled_networks) for macro in plan.macros]


def _require_networks(table: Table, plan: KitPlan, unseen: Sequence[Architecture]) -> None:
    """Raise unless the table's networks are the plan's."""
    drawn = [network_id(one) for group in (*_calibration(plan), unseen) for one in group]
    held = {network.id: network for network in table.networks}
    if held.keys() != {*drawn, *plan.models}:
        odd = min(held.keys() ^ {*drawn, *plan.models})
        raise InputError(f"{TABLE}: its networks are not those of the plan: {odd}; {_versions(plan)}")
    for network in held.values():
        if (network.network is None) != (network.id in plan.models) or (
            network.network is not None and network_id(network.network) != network.id
        ):
            raise InputError(f"{TABLE}: {network.id} is of another network.")


def _require_rows(table: Table, plan: KitPlan, samples: Mapping[Macro, LoweredSamples]) -> None:
    """Raise unless there are just the rows that the plan's networks need, each as its key says."""
    lowered = [network.kernels for network in table.networks]
    lowered += [kernels for group in samples.values() for kernels in group.kernels]
    wanted: set[Key] = {CALL_OVERHEAD, *(kernel for kernels in lowered for kernel in kernels)}
    for macro in plan.macros:
        wanted |= set(space_primitives(macro))
    for setting in table.settings:
        rows = {row.key: row for row in table.rows if row.setting == setting and not isinstance(row.key, Edge)}
        if odd := rows.keys() ^ wanted:
            raise InputError(f"{TABLE}: at {setting}, its rows are not those of the plan: {min(odd, key=str)}.")
        for row in rows.values():
            if row != _row_again(row):
                raise InputError(f"{TABLE}: the row {row.key} at {setting} is not what its key and samples give.")
    if not table.settings:
        raise InputError(f"{TABLE}: it has no rows.")


def _row_again(row: Row) -> Row | None:
    if isinstance(row.key, Edge) or row.measurement is None:
        defined = isinstance(row.key, Primitive) and row.key.is_free
        return defined_row(row.key, row.setting) if isinstance(row.key, Primitive) and defined else None
    return make_row(row.key, row.setting, row.measurement)


def _require_timings(table: Table, plan: KitPlan) -> None:
    """Raise unless each calibration network was timed once at each setting, and every second one paced too."""
    names = [network_id(one) for group in _calibration(plan) for one in group]
    unique = list(dict.fromkeys(names))
    rhythms: dict[float | None, list[str]] = {None: unique} | ({} if plan.trial else {PACE_HZ: unique[::2]})
    expected = Counter((s, pace, name) for s in table.settings for pace, timed in rhythms.items() for name in timed)
    if Counter((t.setting, t.pace_hz, t.network) for t in table.timings) != expected:
        raise InputError(f"{TABLE}: its timings are not those of the plan's calibration networks, each once.")


def _timings(content: bytes, table: Table, plan: KitPlan, unseen: Sequence[Architecture]) -> list[Timings]:
    """What unseen networks and the user's models took, in the order of the table's settings."""
    parts = decode(list[Any], parse_json(content, VALIDATION), VALIDATION)
    found = [decode(Timings, part, VALIDATION) for part in parts]
    if len(found) != len(table.settings) or {part.setting for part in found} != set(table.settings):
        raise InputError(f"{VALIDATION}: its settings are not the table's.")
    names = {*map(network_id, unseen), *plan.models}
    for part in found:
        if odd := part.medians_us.keys() ^ names:
            raise InputError(f"{VALIDATION}: its networks are not those that the plan's seed draws here: {min(odd)}.")
        lengths = set(map(len, part.medians_us.values()))
        if len(lengths) != 1 or part.processes < 2 or part.processes % 2:
            raise InputError(f"{VALIDATION}: networks timed in {sorted(lengths)} processes; one even number expected.")
        for name, medians_us in part.medians_us.items():
            NetworkTiming(part.setting, None, name, medians_us)  # raises where one is no plausible time
        if part.unsteady.keys() - names or not all(0 < n <= part.processes for n in part.unsteady.values()):
            raise InputError(f"{VALIDATION}: it calls timings unsteady that it does not hold.")
    return sorted(found, key=lambda part: table.settings.index(part.setting))


def _require_graphs(graphs: Mapping[str, bytes], table: Table, plan: KitPlan, outlines: Outlines) -> None:
    """Raise unless the optimised graphs hold just the nodes that the table says their networks run."""
    names = {network_id(one) for group in _calibration(plan) for one in group} | set(plan.models)
    expected = {f"{GRAPHS}/{name}.onnx": table.network(name) for name in names}
    if odd := (graphs.keys() - {MANIFEST}) ^ expected.keys():
        raise InputError(f"its files are not those of the plan: {min(odd)!r}.")
    seen = outlines({name: graphs[name] for name in sorted(expected)}, "its graphs")
    for name, network in expected.items():
        told: Counter[Kernel] = Counter()
        for kernel, count in network.kernels.items() if network else ():
            told[outline(kernel)] += count
        if told != seen[name]:
            odd_kernel = next(iter((told - seen[name]) + (seen[name] - told)))
            raise InputError(f"{name} is not the graph that the table says: {odd_kernel.op} differs.")
