"""The figures of a validation: how well predictions of networks fit what they took."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from latencykit.keys import Level
from latencykit.runtime import Setting
from latencykit.selection import SetName

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
        slowdown_pct: how much longer calibration networks took than in the build; None where none were timed along.
        at_build_speed: the same figures with the timings divided by the slowdown of networks of their latency.
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
    slowdown_pct: float | None = None
    at_build_speed: Validation | None = None

    @property
    def kernel(self) -> Agreement:
        """Of the kernel level, the best that the table has: calibrated, or raw."""
        return self.calibrated.get("kernel", self.raw["kernel"])

    @property
    def worst(self) -> list[ValidatedNetwork]:
        """The networks with the largest error of the kernel level."""
        return sorted(self.networks, key=lambda n: -abs(n.predicted_ms / n.measured_ms - 1))[:WORST]

    def by_set(self) -> dict[SetName, Validation]:
        """The same figures for each set of at least two networks."""
        names = dict.fromkeys(network.chosen_from for network in self.networks)
        groups = {name: [n for n in self.networks if n.chosen_from == name] for name in names}
        return {n: summarise(self.setting, self.pace_hz, group) for n, group in groups.items() if len(group) > 1}


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
