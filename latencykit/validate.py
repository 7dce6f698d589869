"""Is the estimate true? Random networks, a table's sums at each level against end-to-end timing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from latencykit.bench import Sample, measure_items
from latencykit.cost import FIT_SEED, cost, predict_isolated, predict_kernels
from latencykit.coverage import COVERAGE_SEED
from latencykit.errors import UsageError
from latencykit.kernels import kernels_of
from latencykit.lowering import graph_to_onnx
from latencykit.macro import Macro
from latencykit.measurement import Measurement, Protocol
from latencykit.runtime import Setting
from latencykit.sample import sample_architectures
from latencykit.space import Architecture, instantiate
from latencykit.table import Level, Table
from latencykit.worker import Item

VALIDATION_PROTOCOL = Protocol(samples=20, block_us=0, warmup_ms=30, processes=4)
"""An even number of processes: their halves give the repeatability."""
TAIL_POOL = 2000
TAIL_SHARE = 0.05
WORST = 5

SetName = Literal["uniform", "tails", "all"]
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
    """One network: milliseconds measured (in all processes and in each half of them) and predicted by level."""

    id: str
    macs: int
    measured_ms: float
    half_a_ms: float
    half_b_ms: float
    predicted_ms: Mapping[Level, float]
    interval_ms: tuple[float, float]


@dataclass(frozen=True)
class Validation:
    """The outcome. `constant` and `macs` are leave-one-out predictors that know no kernels: what any table must beat.

    `repeat` compares the two halves of the processes: no prediction can agree better than the measurement with itself.
    """

    setting: Setting
    networks: tuple[ValidatedNetwork, ...]
    levels: Mapping[Level, Agreement]
    constant: Agreement
    macs: Agreement
    repeat: Agreement
    interval_coverage_pct: float

    @property
    def worst(self) -> list[ValidatedNetwork]:
        """The networks with the largest error of the kernel sum."""
        return sorted(self.networks, key=lambda n: -abs(n.predicted_ms["kernel"] / n.measured_ms - 1))[:WORST]


def validate(
    table: Table,
    setting: Setting,
    macro: Macro,
    count: int,
    seed: int,
    chosen_from: SetName = "uniform",
    protocol: Protocol = VALIDATION_PROTOCOL,
    advance: Callable[[str], None] = lambda done: None,
) -> Validation:
    """Sample networks, predict each from the table, time each end to end, compare.

    Args:
        table: the table under test.
        setting: its execution setting.
        macro: the space.
        count: how many networks.
        seed: of the sample.
        chosen_from: `uniform` samples; `tails`, the fastest and slowest twentieth of 2000 by the table; or both.
        protocol: of the end-to-end timing.
        advance: told a network's name whenever a process has timed it.

    Raises:
        MissingRowError: a kernel is not in the table.
        UsageError: fewer than two networks, or the covering sample's seed.
    """
    if count < 2:
        raise UsageError(f"validate: {count} networks; at least 2 are needed to compare anything.")
    if seed in (COVERAGE_SEED, FIT_SEED):
        raise UsageError(f"validate: seed {seed} drew the networks that the table was made with; take another.")
    if protocol.processes % 2:
        raise UsageError(f"validate: {protocol.processes} processes; an even number is needed for two halves.")
    architectures = _choose(table, setting, macro, count, seed, chosen_from)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        graphs = [instantiate(architecture) for architecture in architectures]
        names = [f"{index:03d}" for index in range(len(graphs))]
        predicted = []
        for name, graph in zip(names, graphs, strict=True):
            model = graph_to_onnx(graph).SerializeToString()
            (folder / f"{name}.onnx").write_bytes(model)
            kernel_sum = predict_kernels(table, setting, kernels_of(model, setting, folder))
            predicted.append((predict_isolated(table, setting, graph).latency_us, kernel_sum))
        samples: list[Sample] = []
        items = [Item(name, str(folder / f"{name}.onnx")) for name in names]
        with closing(measure_items(items, setting, protocol, seed=seed)) as measured:
            for sample in measured:
                samples.append(sample)
                advance(sample.id)
    networks = []
    for name, graph, (isolated_us, kernel_sum) in zip(names, graphs, predicted, strict=True):
        mine = [sample.samples_us for sample in sorted(samples, key=lambda s: s.process) if sample.id == name]
        networks.append(
            ValidatedNetwork(
                name,
                graph.macs,
                Measurement(tuple(mine)).median_us / 1000,
                Measurement(tuple(mine[::2])).median_us / 1000,
                Measurement(tuple(mine[1::2])).median_us / 1000,
                {"isolated": isolated_us / 1000, "kernel": kernel_sum.latency_us / 1000},
                (kernel_sum.interval_us[0] / 1000, kernel_sum.interval_us[1] / 1000),
            )
        )
    return summarise(setting, networks)


def summarise(setting: Setting, networks: Sequence[ValidatedNetwork]) -> Validation:
    """The figures of a validation from its networks."""
    measured = np.array([n.measured_ms for n in networks])
    macs = np.array([n.macs for n in networks], dtype=np.float64)
    inside = [n.interval_ms[0] <= n.measured_ms <= n.interval_ms[1] for n in networks]
    levels: tuple[Level, ...] = ("isolated", "kernel")
    return Validation(
        setting,
        tuple(networks),
        {level: agreement(np.array([n.predicted_ms[level] for n in networks]), measured) for level in levels},
        agreement(_leave_one_out(np.zeros_like(macs), measured), measured),
        agreement(_leave_one_out(macs, measured), measured),
        agreement(np.array([n.half_a_ms for n in networks]), np.array([n.half_b_ms for n in networks])),
        float(100 * np.mean(inside)),
    )


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


def _choose(
    table: Table, setting: Setting, macro: Macro, count: int, seed: int, chosen_from: SetName
) -> list[Architecture]:
    if chosen_from == "uniform":
        return sample_architectures(macro, count, seed)
    share = count if chosen_from == "tails" else count // 2
    tail = max(1, round(TAIL_POOL * TAIL_SHARE))
    if share > 2 * tail:
        raise UsageError(f"validate: {share} networks of the tails were asked for; there are {2 * tail}.")
    pool = sample_architectures(macro, TAIL_POOL, seed)
    costs = cost(table, setting, macro)
    ranked = sorted(pool, key=costs.total_ms)
    tails = ranked[:tail] + ranked[-tail:]
    picks = np.random.default_rng(seed).permutation(len(tails))
    return [tails[i] for i in picks[:share]] + (
        sample_architectures(macro, count - share, seed) if share < count else []
    )
