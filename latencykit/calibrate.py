"""What a table of a space is made from, and what is computed once it has been measured. No clock is involved."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from latencykit.architecture import Network
from latencykit.baselines import Baseline
from latencykit.calibration import FEWEST_NETWORKS, CostModel, drift_of, fit_model
from latencykit.coverage import COVERAGE_SEED, lower_all, plain_networks, space_primitives
from latencykit.edges import FIT_NETWORKS, LoweredSamples, edge_rows, fit_edges, held_out, lower_samples
from latencykit.kernels import CALL_OVERHEAD, Kernel
from latencykit.keys import Edge, Primitive
from latencykit.macro import Macro
from latencykit.minimisers import minimisers, work
from latencykit.predict import network_features
from latencykit.runtime import Setting
from latencykit.sample import sample_architectures, sparse_architectures
from latencykit.table import LoweredNetwork, Row, Table, network_id

CALIBRATION_SEED = COVERAGE_SEED + 2
SAMPLED_NETWORKS = 40
"""Calibration networks of a macro configuration, half of them uniform and half of them sparse."""
LIGHTEST_NETWORKS = 6
"""And so many that have the least work to do: a search for low latency ends with such networks."""
HAND_MADE_WIDTH, HAND_MADE_QUALITY_WIDTH = 10, 12
HAND_MADE_DEPTH = 3
"""And a hand-made pair, built otherwise than networks of the space, and one that nobody compares with."""


@dataclass(frozen=True)
class SpaceNeeds:
    """What a table of a space is made from, lowered on the CPU that it is for.

    Attributes:
        keys: every primitive of the space, and every kernel that the networks below run.
        calibration: whole networks that are timed.
        samples: by macro configuration, the networks that edge costs are fitted to; they are never timed.
    """

    keys: tuple[Primitive | Kernel, ...]
    calibration: tuple[LoweredNetwork, ...]
    samples: Mapping[Macro, LoweredSamples]

    @property
    def macros(self) -> tuple[Macro, ...]:
        """The space's macro configurations."""
        return tuple(self.samples)


def networks_to_lower(fit_networks: int = FIT_NETWORKS, sampled: int = SAMPLED_NETWORKS) -> int:
    """Roughly how many networks `space_needs` lowers for each macro configuration, for progress."""
    return fit_networks + held_out(fit_networks) + sampled + LIGHTEST_NETWORKS + 1


def space_needs(
    macros: Sequence[Macro],
    fit_networks: int = FIT_NETWORKS,
    sampled: int = SAMPLED_NETWORKS,
    advance: Callable[[], object] = lambda: None,
) -> SpaceNeeds:
    """Lower the networks that a table of these macro configurations is made from.

    Args:
        macros: the space.
        fit_networks: for the edge costs of each, beside those for their residual.
        sampled: calibration networks of each, half uniform and half sparse, beside one network of each primitive
            throughout, the lightest ones and a hand-made pair: the ends of the space and what lies beyond count, too.
        advance: called after each network.
    """
    keys: list[Primitive | Kernel] = [CALL_OVERHEAD]  # every prediction needs it
    calibration: dict[str, LoweredNetwork] = {}
    samples: dict[Macro, LoweredSamples] = {}
    for macro in macros:
        keys += space_primitives(macro)
        samples[macro] = lower_samples(macro, fit_networks, advance)
        timed = calibration_networks(macro, sampled)
        lowered = lower_all(timed, advance)
        for network, kernels in zip(timed, lowered, strict=True):
            name = network_id(network)
            calibration[name] = LoweredNetwork(name, network, kernels)
        keys += [kernel for counts in (*lowered, *samples[macro].kernels) for kernel in counts]
    return SpaceNeeds(tuple(dict.fromkeys(keys)), tuple(calibration.values()), samples)


def calibration_networks(macro: Macro, sampled: int = SAMPLED_NETWORKS) -> list[Network]:
    """The networks that are timed to calibrate a macro configuration with."""
    uniform = sample_architectures(macro, sampled - sampled // 2, CALIBRATION_SEED)
    sparse = sparse_architectures(macro, sampled // 2, CALIBRATION_SEED)
    others = [*plain_networks(macro), *uniform, *sparse]
    lightest = minimisers(macro, work(macro), LIGHTEST_NETWORKS, CALIBRATION_SEED, others)
    return [*others, *lightest, *_hand_made(macro)]


def _hand_made(macro: Macro) -> list[Baseline]:
    """A hand-made pair at a macro configuration's image size and input stride; none where no U-Net fits."""
    stride, size = macro.segmentation_stride, macro.image_size
    depth = next((depth for depth in range(HAND_MADE_DEPTH, 0, -1) if size % (stride * 2**depth) == 0), None)
    return [Baseline(HAND_MADE_WIDTH, depth, stride, HAND_MADE_QUALITY_WIDTH, size)] if depth else []


def fits(settings: int, macros: int) -> int:
    """How many fits `fit_table` makes, each at two rhythms, for progress."""
    return 2 * settings * (1 + macros)


def fit_table(
    table: Table, samples: Mapping[Macro, LoweredSamples], advance: Callable[[], object] = lambda: None
) -> Table:
    """The table with cost models for all its timings, and edge costs for the given macro configurations.

    Edge costs of other configurations stay as they are, unless their model changed: then they are dropped. A setting
    without rows for all kernels of a configuration gets no edge costs of it. `advance` is called after each fit.
    """
    before, table = table.models, replace(table, models=tuple(_models(table, advance)))
    known = {(model.setting, model.pace_hz): model for model in before}
    changed = {
        rhythm
        for model in table.models
        if (rhythm := (model.setting, model.pace_hz)) not in known or not _same_costs(model, known[rhythm])
    }
    rows: list[Row] = []
    for setting in table.settings:
        for macro, lowered in samples.items():
            kernels = {kernel for counts in lowered.kernels for kernel in counts}
            if all(table.has(setting, kernel) for kernel in (CALL_OVERHEAD, *kernels)):
                for pace_hz in [None, *(m.pace_hz for m in table.models if m.setting == setting and m.pace_hz)]:
                    rows += edge_rows(fit_edges(table, setting, lowered, pace_hz), setting, macro)
                    advance()

    def stays(row: Row) -> bool:
        key = row.key
        return not isinstance(key, Edge) or key.macro in samples or (row.setting, key.pace_hz) not in changed

    return replace(table, rows=tuple(filter(stays, table.rows))).with_rows(rows)


def _models(table: Table, advance: Callable[[], object]) -> list[CostModel]:
    rhythms: dict[tuple[Setting, float | None], None] = {(t.setting, t.pace_hz): None for t in table.timings}
    found = []
    for setting, pace_hz in rhythms:
        timings = [t for t in table.timings if (t.setting, t.pace_hz) == (setting, pace_hz)]
        if len(timings) < FEWEST_NETWORKS:
            continue
        seen = [network_features(table, setting, table.network_of(timing).kernels) for timing in timings]
        model = fit_model(setting, pace_hz, seen, [t.median_us for t in timings], drift_of(timings))
        before = table.model(setting, pace_hz)
        found.append(before if before is not None and _alike(model, before) else model)
        advance()
    return found


def _alike(a: CostModel, b: CostModel) -> bool:
    """Whether two models differ by rounding at most, as those of one table fitted on two machines do."""
    if (a.networks, len(a.spread_by_latency)) != (b.networks, len(b.spread_by_latency)) or not _same_costs(a, b):
        return False
    one, other = (
        [m.spread_pct, m.residual_pct, m.drift_pct, *itertools.chain.from_iterable(m.spread_by_latency)] for m in (a, b)
    )
    return np.allclose(one, other, rtol=1e-6, atol=1e-9)


def _same_costs(a: CostModel, b: CostModel) -> bool:
    """Whether two models make the same of a network, however wide their intervals are."""
    if a.coefficients.keys() != b.coefficients.keys():
        return False
    one, other = ([m.coefficients[name] for name in a.coefficients] for m in (a, b))
    return np.allclose(one, other, rtol=1e-6, atol=1e-9)
