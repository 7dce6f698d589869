"""From a kit's result to a table: every figure that follows from what was measured is computed here.

Cost models and edge costs that were fitted there must agree with those fitted here; the validation is made of raw
medians. Figures that somebody made up so that all of this fits cannot be told from measured ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from latencykit.agreement import Validation, summarise
from latencykit.bench import UNSTEADY
from latencykit.calibrate import fit_table
from latencykit.errors import InputError
from latencykit.kernels import Kernel
from latencykit.keys import Edge
from latencykit.kit_plan import TABLE, KitPlan
from latencykit.kit_result import Outlines, Result, Timings, read_result
from latencykit.levels import Predictor
from latencykit.macro import Macro
from latencykit.outside import outside_outlines
from latencykit.predict import network_features, predict_kernels
from latencykit.report import validation_summary
from latencykit.runtime import Setting
from latencykit.schema import to_json
from latencykit.space import Architecture
from latencykit.table import Table, network_id
from latencykit.table_file import table_checksum

TOLERANCE = 1e-3
"""Relative difference of a fit that was made there and one made here: another processor rounds otherwise."""
TOLERANCE_US = 0.05


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
        found = self.table.doubts
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
    try:
        return _ingested(read_result(path, outlines))
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error


def _ingested(result: Result) -> Ingested:
    plan, measured = result.plan, result.table
    with _computing():
        table = fit_table(_unfitted(measured), result.samples)
        _require_alike(measured, table)
    places = [(part, macro) for part in result.timings for macro in plan.macros]
    validations = [(macro, _validated(table, macro, result.unseen, part)) for part, macro in places]
    models = [model for part in result.timings for model in _model_timings(table, plan, part)]
    stored = [entry for part in result.timings for entry in _stored(plan, part, validations, models)]
    table = replace(table, validations=tuple(stored), parents=(table_checksum(measured),))
    affinity = {part.setting: part.affinity for part in result.timings}
    return Ingested(table, plan, tuple(validations), tuple(models), affinity)


@contextmanager
def _computing() -> Iterator[None]:
    """Figures that nothing follows from, such as those that overflow, are bad input."""
    try:
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            yield
    except (ArithmeticError, np.linalg.LinAlgError) as error:
        raise InputError(f"nothing can be fitted to its figures: {error}") from error


def _unfitted(table: Table) -> Table:
    return replace(table, models=(), rows=tuple(row for row in table.rows if not isinstance(row.key, Edge)))


def _require_alike(there: Table, here: Table) -> None:
    """Raise unless what was fitted there is what is fitted here."""
    theirs, ours = ({(m.setting, m.pace_hz): m for m in table.models} for table in (there, here))
    if theirs.keys() != ours.keys() or len(theirs) < len(there.models):
        raise InputError(f"{TABLE}: its cost models are not those of its timings.")
    for timing in here.timings:
        rhythm = timing.setting, timing.pace_hz
        if rhythm in ours:
            seen = network_features(here, timing.setting, here.network_of(timing).kernels)
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


def _validated(table: Table, macro: Macro, unseen: Sequence[Architecture], found: Timings) -> Validation:
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


def _model_timings(table: Table, plan: KitPlan, found: Timings) -> list[ModelTiming]:
    models = []
    with _computing():
        for name, file in plan.models.items():
            predicted = predict_kernels(table, found.setting, _kernels(table, name))
            low, high = predicted.interval_us
            measured_ms = float(np.median(found.medians_us[name])) / 1000
            figures = (measured_ms, predicted.raw_us / 1000, predicted.latency_us / 1000, (low / 1000, high / 1000))
            models.append(ModelTiming(name, file, found.setting, *figures))
    return models


def _stored(
    plan: KitPlan, found: Timings, validations: Sequence[tuple[Macro, Validation]], models: Sequence[ModelTiming]
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
