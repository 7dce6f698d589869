"""Is the estimate true? A table's predictions at each level against end-to-end timing of networks it never saw."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from latencykit.architecture import Network, network_graph
from latencykit.bench import VALIDATION_PROTOCOL, gather, measure_items, steadiest, steady_limit_us
from latencykit.calibrate import CALIBRATION_SEED
from latencykit.coverage import COVERAGE_SEED
from latencykit.edges import FIT_SEED, SearchCosts, cost
from latencykit.errors import MissingRowError, UsageError
from latencykit.graph import Graph
from latencykit.kernels import Kernel, kernels_of
from latencykit.keys import Level
from latencykit.lowering import graph_to_onnx
from latencykit.macro import Macro
from latencykit.measurement import Measurement, Protocol
from latencykit.predict import Prediction, predict_isolated, predict_kernels
from latencykit.runtime import Setting
from latencykit.selection import SetName, minimisers, sampled_set, tails
from latencykit.space import Architecture
from latencykit.table import Table
from latencykit.worker import Item

WORST = 5
LEVELS: tuple[Level, ...] = ("isolated", "kernel", "edge")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """How well predictions fit measurements. The rank correlations are None where they are undefined."""

    bias_pct: float
    mape_pct: float
    within_5_pct: float
    within_10_pct: float
    kendall_tau: float | None
    spearman: float | None


def agreement(predicted: Floats, measured: Floats) -> Agreement:
    """Bias, mean absolute percentage error, hit rates and rank correlations of two equally long series."""
    relative = predicted / measured - 1
    return Agreement(
        bias_pct=float(100 * relative.mean()),
        mape_pct=float(100 * np.abs(relative).mean()),
        within_5_pct=float(100 * (np.abs(relative) <= 0.05).mean()),
        within_10_pct=float(100 * (np.abs(relative) <= 0.10).mean()),
        kendall_tau=_rank(stats.kendalltau, predicted, measured),
        spearman=_rank(stats.spearmanr, predicted, measured),
    )


def _rank(correlation: Callable[..., object], predicted: Floats, measured: Floats) -> float | None:
    if len(predicted) < 2 or np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return None
    return float(correlation(predicted, measured).statistic)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class ValidatedNetwork:
    """One network: milliseconds measured (in all processes and in each half of them) and predicted by level.

    Attributes:
        raw_ms: plain sums; calibrated_ms: what the table's models make of them. The edge level has no raw figure, since
            it is fitted to calibrated ones.
        interval_ms: of the calibrated kernel level.
    """

    id: str
    chosen_from: SetName
    macs: int
    measured_ms: float
    half_a_ms: float
    half_b_ms: float
    raw_ms: Mapping[Level, float]
    calibrated_ms: Mapping[Level, float]
    interval_ms: tuple[float, float]

    @property
    def predicted_ms(self) -> float:
        """The best figure that the table has: the calibrated kernel sum, or the raw one."""
        return self.calibrated_ms.get("kernel", self.raw_ms["kernel"])


@dataclass(frozen=True)
class Validation:
    """The outcome over some networks.

    `constant` and `macs` are leave-one-out predictors that know no kernels: what any table must beat. `repeat` compares
    the two halves of the processes: no prediction can agree better than the measurement with itself.

    Attributes:
        tau_ratio: rank correlation of the prediction with half B over that of half A with half B.
        edge_against_kernel_pct: mean absolute error of the edge costs against the kernel level; None without them.
        unsteady: samples that had to do although the machine was in another state.
    """

    setting: Setting
    pace_hz: float | None
    networks: tuple[ValidatedNetwork, ...]
    raw: Mapping[Level, Agreement]
    calibrated: Mapping[Level, Agreement]
    constant: Agreement
    macs: Agreement
    repeat: Agreement
    tau_ratio: float | None
    interval_coverage_pct: float
    edge_against_kernel_pct: float | None
    unsteady: int = 0

    @property
    def worst(self) -> list[ValidatedNetwork]:
        """The networks with the largest error of the kernel level."""
        return sorted(self.networks, key=lambda n: -abs(n.predicted_ms / n.measured_ms - 1))[:WORST]

    def by_set(self) -> dict[SetName, Validation]:
        """The same figures for each set of at least two networks."""
        names = dict.fromkeys(network.chosen_from for network in self.networks)
        groups = {name: [n for n in self.networks if n.chosen_from == name] for name in names}
        return {n: summarise(self.setting, self.pace_hz, group) for n, group in groups.items() if len(group) > 1}


@dataclass(frozen=True)
class Chosen:
    """A network to validate with, and the set that it comes from."""

    chosen_from: SetName
    network: Network


def choose_networks(
    table: Table,
    setting: Setting,
    macro: Macro,
    count: int,
    seed: int,
    chosen_from: SetName | Literal["all"] = "uniform",
    pace_hz: float | None = None,
) -> list[Chosen]:
    """The networks of a validation; `all` is `count` uniform ones, a quarter as many of the tails, a tenth minimisers.

    Raises:
        UsageError: fewer than two networks, or a seed that the table was made with.
    """
    if count < 2:
        raise UsageError(f"validate: {count} networks; at least 2 are needed to compare anything.")
    if seed in (COVERAGE_SEED, FIT_SEED, CALIBRATION_SEED):
        raise UsageError(f"validate: seed {seed} drew the networks that the table was made with; take another.")
    if chosen_from in ("uniform", "mixed", "unet"):
        return [Chosen(chosen_from, network) for network in sampled_set(chosen_from, macro, count, seed)]
    costs = cost(table, setting, macro, pace_hz=pace_hz)
    if chosen_from == "tails":
        return [Chosen("tails", network) for network in tails(macro, costs, count, seed)]
    if chosen_from == "minimisers":
        return [Chosen("minimisers", network) for network in minimisers(macro, costs, count, seed)]
    uniform = [Chosen("uniform", network) for network in sampled_set("uniform", macro, count, seed)]
    ends = [Chosen("tails", network) for network in tails(macro, costs, max(2, count // 4), seed)]
    fast = [Chosen("minimisers", network) for network in minimisers(macro, costs, max(2, count // 10), seed)]
    return uniform + ends + fast


def validate(
    table: Table,
    setting: Setting,
    chosen: Sequence[Chosen],
    *,
    seed: int = 0,
    pace_hz: float | None = None,
    protocol: Protocol = VALIDATION_PROTOCOL,
    advance: Callable[[str], object] = lambda done: None,
) -> Validation:
    """Predict each network from the table, time each end to end, compare.

    Args:
        table: the table under test.
        setting: its execution setting.
        chosen: the networks (`choose_networks`).
        seed: of the order.
        pace_hz: calls a second; None is back to back.
        protocol: of the end-to-end timing.
        advance: told a network's name whenever a process has timed it.

    Raises:
        MissingRowError: a kernel is not in the table.
        UsageError: an odd number of processes.
    """
    if protocol.processes % 2:
        raise UsageError(f"validate: {protocol.processes} processes; an even number is needed for two halves.")
    protocol = replace(protocol, pace_hz=pace_hz)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        names = [f"{index:03d}" for index in range(len(chosen))]
        predict = Predictor(table, setting, pace_hz)
        predicted = []
        for name, one in zip(names, chosen, strict=True):
            model = graph_to_onnx(network_graph(one.network)).SerializeToString()
            (folder / f"{name}.onnx").write_bytes(model)
            predicted.append(predict(one.network, kernels_of(model, setting, folder)))
        items = [Item(name, str(folder / f"{name}.onnx")) for name in names]
        reference_us = table.reference_us(setting)
        samples = gather(measure_items(items, setting, protocol, seed=seed, reference_us=reference_us), advance)
    best, limit_us = steadiest(samples), steady_limit_us(samples, reference_us)
    networks = []
    for name, one, found in zip(names, chosen, predicted, strict=True):
        mine = Measurement(tuple(best[name, process].samples_us for process in range(protocol.processes)))
        networks.append(found.against(name, one.chosen_from, mine.process_medians_us))
    unsteady = sum(sample.state_us > limit_us for sample in best.values())
    return replace(summarise(setting, pace_hz, networks), unsteady=unsteady)


@dataclass(frozen=True)
class Predicted:
    """What a table says of one network; the figures as in `ValidatedNetwork`."""

    macs: int
    raw_ms: Mapping[Level, float]
    calibrated_ms: Mapping[Level, float]
    interval_ms: tuple[float, float]

    def against(self, name: str, chosen_from: SetName, medians_us: Sequence[float]) -> ValidatedNetwork:
        """The network with what its processes took."""
        halves = (medians_us, medians_us[::2], medians_us[1::2])
        whole, half_a, half_b = (float(np.median(part)) / 1000 for part in halves)
        figures = (whole, half_a, half_b, self.raw_ms, self.calibrated_ms, self.interval_ms)
        return ValidatedNetwork(name, chosen_from, self.macs, *figures)


class Predictor:
    """A table's predictions of networks at every level; keeps what does not change between networks."""

    def __init__(self, table: Table, setting: Setting, pace_hz: float | None) -> None:
        self._table, self._setting, self._pace_hz = table, setting, pace_hz
        self._isolated_scale = _isolated_scale(table, setting, pace_hz)
        self._costs: dict[Macro, SearchCosts | None] = {}

    def __call__(self, network: Network, kernels: Sequence[Kernel] | Mapping[Kernel, int]) -> Predicted:
        """Predict a network that runs these kernels on the table's CPU; errors as `predict_kernels`."""
        graph = network_graph(network)
        kernel = predict_kernels(self._table, self._setting, kernels, pace_hz=self._pace_hz)
        raw_ms: dict[Level, float] = {"kernel": kernel.raw_us / 1000}
        calibrated_ms: dict[Level, float] = {"kernel": kernel.latency_us / 1000} if kernel.calibrated else {}
        if (isolated := _isolated(self._table, self._setting, graph)) is not None:
            raw_ms["isolated"] = isolated.raw_us / 1000
            if self._isolated_scale is not None:
                calibrated_ms["isolated"] = self._isolated_scale * isolated.raw_us / 1000
        if isinstance(network, Architecture) and (costs := self._edge_costs(network.macro)) is not None:
            calibrated_ms["edge"] = costs.total_ms(network)
        low, high = kernel.interval_us
        return Predicted(graph.macs, raw_ms, calibrated_ms, (low / 1000, high / 1000))

    def _edge_costs(self, macro: Macro) -> SearchCosts | None:
        if macro not in self._costs:
            known = self._table.has_edges(self._setting, macro, self._pace_hz)
            self._costs[macro] = cost(self._table, self._setting, macro, pace_hz=self._pace_hz) if known else None
        return self._costs[macro]


def _isolated(table: Table, setting: Setting, graph: Graph) -> Prediction | None:
    """The classical sum; None where a primitive has no row, as for networks outside of the table's space."""
    try:
        return predict_isolated(table, setting, graph)
    except MissingRowError:
        return None


def _isolated_scale(table: Table, setting: Setting, pace_hz: float | None) -> float | None:
    """One factor from classical sums to the calibration networks' timings: all that such a table can be given."""
    ratios = []
    for timing in table.timings:
        lowered = table.network(timing.network)
        if (timing.setting, timing.pace_hz) == (setting, pace_hz) and lowered and lowered.network:
            isolated = _isolated(table, setting, network_graph(lowered.network))
            ratios += [timing.median_us / isolated.raw_us] if isolated else []
    return float(np.median(ratios)) if ratios else None


def summarise(setting: Setting, pace_hz: float | None, networks: Sequence[ValidatedNetwork]) -> Validation:
    """The figures of a validation from its networks; a level counts where all of them have it."""
    measured = np.array([n.measured_ms for n in networks])
    macs = np.array([n.macs for n in networks], dtype=np.float64)
    half_a, half_b = (np.array([getattr(n, half) for n in networks]) for half in ("half_a_ms", "half_b_ms"))
    predicted = np.array([n.predicted_ms for n in networks])
    inside = [n.interval_ms[0] <= n.measured_ms <= n.interval_ms[1] for n in networks]
    repeat = agreement(half_a, half_b)
    tau = _rank(stats.kendalltau, predicted, half_b)
    edges = [n.calibrated_ms.get("edge") for n in networks]
    against = [e / n.predicted_ms - 1 for e, n in zip(edges, networks, strict=True) if e is not None]
    return Validation(
        setting,
        pace_hz,
        tuple(networks),
        _levels([n.raw_ms for n in networks], measured),
        _levels([n.calibrated_ms for n in networks], measured),
        _without_ranks(agreement(_leave_one_out(np.zeros_like(macs), measured), measured)),
        agreement(_leave_one_out(macs, measured), measured),
        repeat,
        tau / repeat.kendall_tau if tau is not None and repeat.kendall_tau else None,
        float(100 * np.mean(inside)),
        float(100 * np.abs(against).mean()) if against else None,
    )


def _without_ranks(fit: Agreement) -> Agreement:
    """Of a constant: the mean of the others falls where a network's own figure rises, and that order says nothing."""
    return replace(fit, kendall_tau=None, spearman=None)


def _levels(figures: Sequence[Mapping[Level, float]], measured: Floats) -> dict[Level, Agreement]:
    there = [level for level in LEVELS if all(level in figure for figure in figures)]
    return {level: agreement(np.array([figure[level] for figure in figures]), measured) for level in there}


def _leave_one_out(feature: Floats, measured: Floats) -> Floats:
    """A straight line through all other networks, at this one; a constant where the feature is."""
    predicted = np.empty_like(measured)
    for index in range(len(measured)):
        others = np.arange(len(measured)) != index
        if np.ptp(feature[others]) == 0:
            predicted[index] = measured[others].mean()
        else:
            predicted[index] = np.poly1d(np.polyfit(feature[others], measured[others], 1))(feature[index])
    return predicted
