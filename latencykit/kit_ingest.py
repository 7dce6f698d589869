"""Takes in what a kit brought back: nothing in it is believed that can be looked at or computed again.

The host need not be able to run the target's kernels. Rows, timings and lowered networks are what was measured; their
shapes, the networks that they are of and the optimised graphs must fit together, and every figure that follows from
them is computed here. Figures that somebody made up so that all of this fits cannot be told from measured ones.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from latencykit.archive import read_archive
from latencykit.bench import UNSTEADY
from latencykit.calibrate import calibration_architectures, fit_table
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
from latencykit.kit_runner import kernels_listed
from latencykit.macro import Macro
from latencykit.outside import outside_outlines
from latencykit.predict import network_features, predict_kernels
from latencykit.report import validation_summary
from latencykit.runtime import Setting
from latencykit.schema import decode, naming, parse_json, to_json
from latencykit.space import Architecture
from latencykit.spec import Identity, Zero
from latencykit.sweep import PACE_HZ
from latencykit.table import LoweredNetwork, Row, Table, defined_row, make_row, network_id
from latencykit.table_file import load_table, table_checksum
from latencykit.validate import Predictor, Validation, summarise

MAX_TOTAL_BYTES = 512 << 20
MAX_FILES = 10_000
TOLERANCE = 1e-3
"""Relative difference of a fit that was made there and one made here: another processor rounds otherwise."""
TOLERANCE_US = 0.05

Outlines = Callable[[Mapping[str, bytes], str], Mapping[str, Counter[Kernel]]]


@dataclass(frozen=True)
class ModelTiming:
    """One of the user's own models: file name, milliseconds measured, summed and predicted."""

    id: str
    file: str
    setting: Setting
    measured_ms: float
    raw_ms: float
    predicted_ms: float
    interval_ms: tuple[float, float]


@dataclass(frozen=True)
class Ingested:
    """What a result came to.

    Attributes:
        table: of the target, its validations stored.
        plan: what was asked.
        validations: by macro configuration and setting.
        models: the user's own.
        affinity: by setting, which processors each thread was seen on; empty where the target does not tell.
    """

    table: Table
    plan: KitPlan
    validations: tuple[tuple[Macro, Validation], ...]
    models: tuple[ModelTiming, ...]
    affinity: Mapping[Setting, tuple[tuple[str, ...], ...]]

    @property
    def warnings(self) -> list[str]:
        """Reasons to mistrust the figures."""
        found = ["a trial (--quick): its figures are worth nothing"] if self.plan.trial else []
        if self.table.doctor.get("fit") is not True:
            found.append("the doctor called the machine unfit; its reasons are in the table")
        for setting, places in self.affinity.items():
            if not places or not all(places):
                found.append(f"{setting}: the machine did not tell where threads ran; affinity is not verified")
        if unsteady := sum(validation.unsteady for _, validation in self.validations):
            found.append(f"{unsteady} timings of networks: {UNSTEADY}")
        return found


def ingest(path: Path, outlines: Outlines = outside_outlines) -> Ingested:
    """The table that a kit's result comes to, checked.

    Args:
        path: the result.
        outlines: opens the optimised graphs; in a limited process unless a fuzzer does that itself.

    Raises:
        InputError: naming the file and what in it is damaged, missing, made up or does not fit the rest.
    """
    files = read_archive(path, MAX_TOTAL_BYTES, MAX_FILES)
    with _about(path):
        require_manifest(files)
        if missing := sorted({PLAN, TABLE, SAMPLES, VALIDATION} - files.keys()):
            raise InputError(f"it holds no {missing[0]}.")
        plan = _plan(files[PLAN])
        measured = _table(files[TABLE])
        unseen = plan.unseen_networks()
        samples = _samples(files[SAMPLES], plan, measured)
        _require_networks(measured, plan, unseen)
        _require_rows(measured, plan, samples)
        _require_timings(measured, plan)
        timings = _timings(files[VALIDATION], measured, plan, unseen)
        graphs = {name: content for name, content in files.items() if name not in (PLAN, TABLE, SAMPLES, VALIDATION)}
        _require_graphs(graphs, measured, plan, outlines)
        with _computing():
            table = fit_table(_unfitted(measured), samples)
            _require_alike(measured, table)
        validations = [(macro, _validated(table, macro, unseen, part)) for part in timings for macro in plan.macros]
        models = [model for part in timings for model in _model_timings(table, plan, part)]
        stored = [entry for part in timings for entry in _stored(plan, part, validations, models)]
        table = replace(table, validations=tuple(stored), parents=(table_checksum(measured),))
        affinity = {part.setting: part.affinity for part in timings}
        return Ingested(table, plan, tuple(validations), tuple(models), affinity)


@contextmanager
def _about(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


@contextmanager
def _computing() -> Iterator[None]:
    """Figures that nothing follows from, such as those that overflow, are bad input."""
    try:
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            yield
    except (ArithmeticError, np.linalg.LinAlgError) as error:
        raise InputError(f"nothing can be fitted to its figures: {error}") from error


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
            raise InputError(f"{SAMPLES}: its networks are not those that the plan's seed draws here.")
        counts = []
        for architecture, (name, pairs) in zip(drawn, networks, strict=True):
            if not all(0 <= index < len(kernels) for index, _ in pairs) or len(dict(pairs)) < len(pairs):
                raise InputError(f"{SAMPLES}: {name} runs a kernel that the table does not list, or one twice.")
            network = LoweredNetwork(name, architecture, {kernels[index]: count for index, count in pairs})
            counts.append(network.kernels)
        found[macro] = LoweredSamples(tuple(drawn), tuple(counts))
    return found


def _calibration(plan: KitPlan) -> list[list[Architecture]]:
    """The networks to calibrate with, by macro configuration."""
    return [calibration_architectures(macro, plan.sampled_networks) for macro in plan.macros]


def _require_networks(table: Table, plan: KitPlan, unseen: Sequence[Architecture]) -> None:
    """Raise unless the table's networks are the plan's."""
    drawn = [network_id(one) for group in (*_calibration(plan), unseen) for one in group]
    held = {network.id: network for network in table.networks}
    if held.keys() != {*drawn, *plan.models}:
        odd = min(held.keys() ^ {*drawn, *plan.models})
        raise InputError(f"{TABLE}: its networks are not those of the plan: {odd}.")
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
        defined = isinstance(row.key, Primitive) and all(isinstance(o, Identity | Zero) for o in row.key.operations)
        return defined_row(row.key, row.setting) if isinstance(row.key, Primitive) and defined else None
    return make_row(row.key, row.setting, row.measurement)


def _require_timings(table: Table, plan: KitPlan) -> None:
    """Raise unless each calibration network was timed once at each setting, and every second one paced too."""
    names = [network_id(one) for group in _calibration(plan) for one in group]
    unique = list(dict.fromkeys(names))
    rhythms = {None: unique, **({} if plan.trial else {PACE_HZ: unique[::2]})}
    expected = Counter(
        (setting, pace, name) for setting in table.settings for pace in rhythms for name in rhythms[pace]
    )
    if Counter((t.setting, t.pace_hz, t.network) for t in table.timings) != expected:
        raise InputError(f"{TABLE}: its timings are not those of the plan's calibration networks, each once.")


@dataclass(frozen=True)
class _Timings:
    setting: Setting
    affinity: tuple[tuple[str, ...], ...]
    unsteady: dict[str, int]
    medians_us: dict[str, tuple[float, ...]]

    @property
    def processes(self) -> int:
        return len(next(iter(self.medians_us.values())))


def _timings(content: bytes, table: Table, plan: KitPlan, unseen: Sequence[Architecture]) -> list[_Timings]:
    """What unseen networks and the user's models took, in the order of the table's settings."""
    parts = decode(list[Any], parse_json(content, VALIDATION), VALIDATION)
    found = [decode(_Timings, part, VALIDATION) for part in parts]
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


def _unfitted(table: Table) -> Table:
    return replace(table, models=(), rows=tuple(row for row in table.rows if not isinstance(row.key, Edge)))


def _require_alike(there: Table, here: Table) -> None:
    """Raise unless what was fitted there is what is fitted here."""
    theirs, ours = ({(m.setting, m.pace_hz): m for m in table.models} for table in (there, here))
    if theirs.keys() != ours.keys() or len(theirs) < len(there.models):
        raise InputError(f"{TABLE}: its cost models are not those of its timings.")
    for timing in here.timings:
        rhythm, network = (timing.setting, timing.pace_hz), here.network(timing.network)
        if rhythm in ours and network is not None:
            seen = network_features(here, timing.setting, network.kernels)
            _require_near("a cost model's prediction", theirs[rhythm].latency_us(seen), ours[rhythm].latency_us(seen))
            for end, own in zip(theirs[rhythm].interval_us(seen), ours[rhythm].interval_us(seen), strict=True):
                _require_near("a cost model's interval", end, own)
    for rhythm, model in ours.items():
        _require_near("a cost model's residual", theirs[rhythm].residual_pct, model.residual_pct)
        if theirs[rhythm].networks != model.networks:
            raise InputError(f"{TABLE}: a cost model says it is of {theirs[rhythm].networks} networks.")
    edges, own_edges = ({(r.setting, r.key): r for r in t.rows if isinstance(r.key, Edge)} for t in (there, here))
    if edges.keys() != own_edges.keys():
        raise InputError(f"{TABLE}: its edge costs are not those of the plan.")
    for place, row in own_edges.items():
        _require_near(f"the cost of {row.key}", edges[place].value_us, row.value_us)
        if edges[place].origin != row.origin:
            raise InputError(f"{TABLE}: the cost of {row.key} is {edges[place].origin}; expected {row.origin}.")


def _require_near(what: str, there: float, here: float) -> None:
    if not abs(there - here) <= TOLERANCE_US + TOLERANCE * abs(here):
        raise InputError(f"{TABLE}: {what} is {there:g} there; what was measured gives {here:g}.")


def _validated(table: Table, macro: Macro, unseen: Sequence[Architecture], found: _Timings) -> Validation:
    """The unseen networks of a macro configuration against their predictions."""
    networks, unsteady = [], 0
    with _computing():
        predictor = Predictor(table, found.setting, None)
        for architecture in (one for one in unseen if one.macro == macro):
            name = network_id(architecture)
            predicted = predictor(architecture, _kernels(table, name))
            networks.append(predicted.against(name, "uniform", found.medians_us[name]))
            unsteady += found.unsteady.get(name, 0)
    return replace(summarise(found.setting, None, networks), unsteady=unsteady)


def _model_timings(table: Table, plan: KitPlan, found: _Timings) -> list[ModelTiming]:
    models = []
    with _computing():
        for name, file in plan.models.items():
            predicted = predict_kernels(table, found.setting, _kernels(table, name))
            low, high = predicted.interval_us
            figures = (float(np.median(found.medians_us[name])), predicted.raw_us, predicted.latency_us)
            models.append(
                ModelTiming(name, file, found.setting, *(f / 1000 for f in figures), (low / 1000, high / 1000))
            )
    return models


def _stored(
    plan: KitPlan, found: _Timings, validations: Sequence[tuple[Macro, Validation]], models: Sequence[ModelTiming]
) -> list[dict[str, Any]]:
    """What a table keeps of its validation at one setting."""
    facts: dict[str, Any] = {"seed": plan.validation_seed, "processes": found.processes, "kit": plan.format}
    facts |= {"affinity": [list(place) for place in found.affinity]} | ({"trial": True} if plan.trial else {})
    entries = []
    for macro, validation in validations:
        if validation.setting == found.setting:
            strides = {"stride": macro.segmentation_stride, "quality_stride": macro.quality_stride}
            entries.append({"set": "uniform", **strides, **facts, **validation_summary(validation)})
    if plan.models:
        mine = [to_json(model) for model in models if model.setting == found.setting]
        entries.append({"set": "models", "threads": found.setting.threads, "pace_hz": 0, **facts, "models": mine})
    return entries


def _kernels(table: Table, name: str) -> Mapping[Kernel, int]:
    network = table.network(name)
    if network is None:
        raise InputError(f"{TABLE}: {name} is not among its networks.")
    return network.kernels
