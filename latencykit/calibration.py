"""From kernel sums to networks: a cost model fitted to whole networks, over all resolutions and widths.

Inside a network a kernel finds other data in the caches than when it runs alone again and again: what it reads was
written a moment ago, by another core perhaps, and no longer lies in the caches where tensors are large, as its weights
do not after all others' were read; a depthwise convolution, which does little with much, feels that most. So a
network's latency is modelled as

    a + b n + sum over kernels of (c cost + g grouped cost + w weights + sum over t of d_t max(0, bytes - t L2))

with n kernels, each one's own cost, again where it is a convolution in groups, the bytes of its weights and those of
the tensors that it reads and writes, and thresholds t in multiples of the second-level cache. Every term is a sum over
kernels, so the model is additive, as Eq. 4 needs it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from latencykit.bounds import require_at_most, shown
from latencykit.errors import InputError
from latencykit.kernels import Kernel
from latencykit.measurement import LONGEST_US, SHORTEST_US, Measurement, require_pace
from latencykit.runtime import Setting
from latencykit.schema import naming

CACHE_MULTIPLES = (0.0, 0.5, 2.0, 8.0)
USUAL_L2_BYTES = 1 << 20
"""Where the system does not tell."""
COVERAGE_PCT = 90.0
"""Share of networks that an interval is to hold."""
FEWEST_NETWORKS = 8
NETWORKS_A_SPREAD = 30
"""So many tell a ninth tenth from their largest error."""
MOST_NETWORKS = 1_000_000
MOST_FEATURES = 100
LEAST_OF_SUM = 0.5
"""No network is predicted to take less than this share of its kernels' plain sum."""
RIDGES = tuple(10.0**power for power in range(-7, 0))
"""Strengths of the pull towards the plain sum; leave-one-out decides."""

HUBER_DEVIATIONS, HUBER_ROUNDS = 1.5, 8

Features = Mapping[str, float]


@dataclass(frozen=True)
class NetworkTiming:
    """How long one network took end to end, by process.

    Attributes:
        setting, pace_hz: how it was called; None is back to back.
        network: id of the table's network.
        medians_us: of each fresh process, what it says of a call (`Measurement.process_figures_us`).
    """

    setting: Setting
    pace_hz: float | None
    network: str
    medians_us: tuple[float, ...]

    def __post_init__(self) -> None:
        require_pace(f"timing of {self.network}", self.pace_hz)
        with naming(f"timing of {self.network}"):
            Measurement((self.medians_us,))  # as plausible as samples

    @cached_property
    def median_us(self) -> float:
        """The figure to quote."""
        return float(np.median(self.medians_us))


def features(costs: Iterable[tuple[Kernel, int, float]], l2_bytes: int | None) -> dict[str, float]:
    """What the model sees of a network.

    Args:
        costs: each kernel, how often it runs, microseconds of one run without the call's overhead.
        l2_bytes: second-level cache of one core.
    """
    cache_bytes = l2_bytes or USUAL_L2_BYTES
    found = {"call": 1.0, "kernels": 0.0, "sum_us": 0.0, "grouped_us": 0.0, "weights_l2": 0.0}
    found |= {_beyond(multiple): 0.0 for multiple in CACHE_MULTIPLES}
    for kernel, count, cost_us in costs:
        found["kernels"] += count
        found["sum_us"] += count * cost_us
        found["grouped_us"] += count * cost_us * kernel.in_groups
        found["weights_l2"] += count * kernel.weight_bytes / cache_bytes
        for multiple in CACHE_MULTIPLES:
            found[_beyond(multiple)] += count * max(0.0, kernel.tensor_bytes / cache_bytes - multiple)
    return found


def _beyond(multiple: float) -> str:
    return f"beyond_{multiple:g}_l2"


@dataclass(frozen=True)
class CostModel:
    """A fitted model.

    Attributes:
        setting, pace_hz: what its networks ran under.
        coefficients: microseconds for one of each feature.
        covariance: of the features' relative weights, in the coefficients' order: it widens the interval of networks
            that are unlike those the model knows.
        spread_pct: half width of the interval where the model knows its way: `COVERAGE_PCT` of the networks, each
            predicted from all others, lie within.
        residual_pct: mean absolute error of these predictions.
        networks: how many there were.
        drift_pct: how far the machine's speed moves of itself; it widens the interval, as an independent error does.
        spread_by_latency: the same half width at several latencies (microseconds, percent), ascending, where there were
            networks enough to tell: a small network's error is another than a large one's.
    """

    setting: Setting
    pace_hz: float | None
    coefficients: Mapping[str, float]
    covariance: tuple[tuple[float, ...], ...]
    spread_pct: float
    residual_pct: float
    networks: int
    spread_by_latency: tuple[tuple[float, float], ...] = ()
    drift_pct: float = 0.0

    def __post_init__(self) -> None:
        where = f"cost model of {self.setting}"
        require_pace(where, self.pace_hz)
        if {len(self.coefficients)} != {len(self.covariance), *map(len, self.covariance)}:
            raise InputError(f"{where}: coefficients and covariance do not fit together.")
        require_at_most(f"{where}: the number of coefficients", len(self.coefficients), MOST_FEATURES)
        for what, figures, most in (
            ("a coefficient", [*self.coefficients.values()], LONGEST_US),
            ("a covariance", [*itertools.chain.from_iterable(self.covariance)], LONGEST_US**2),
        ):
            if not all(abs(figure) <= most for figure in figures):
                raise InputError(f"{where}: {what} is no plausible number: {figures}.")
        errors = (self.spread_pct, self.residual_pct, self.drift_pct)
        if not all(0 <= error <= LONGEST_US for error in errors):
            raise InputError(f"{where}: an error of {' or '.join(map(str, errors))} %; expected 0 or more.")
        places = [place for place, _ in self.spread_by_latency]
        if (
            len(places) > MOST_FEATURES
            or sorted(set(places)) != places
            or not all(
                0 < place <= LONGEST_US and 0 <= spread <= LONGEST_US for place, spread in self.spread_by_latency
            )
        ):
            raise InputError(f"{where}: spreads by latency that are not ascending, or no plausible numbers.")
        if not 0 < self.networks <= MOST_NETWORKS:
            raise InputError(f"{where}: fitted to {shown(self.networks)} networks; expected 1 to {MOST_NETWORKS}.")

    def latency_us(self, features: Features) -> float:
        """The latency of a network with these features.

        Far from the networks that the model knows it could fall to nothing; no kernel is that much faster in a network.
        """
        fitted = sum(value * features.get(name, 0.0) for name, value in self.coefficients.items())
        return max(fitted, LEAST_OF_SUM * features.get("sum_us", 0.0), SHORTEST_US)

    def interval_us(self, features: Features) -> tuple[float, float]:
        """What holds `COVERAGE_PCT` of such networks."""
        latency_us = self.latency_us(features)
        relative = np.array([features.get(name, 0.0) for name in self.coefficients]) / latency_us
        unlike = max(0.0, float(relative @ np.array(self.covariance) @ relative))
        spread_pct = self.spread_pct
        if self.spread_by_latency:
            places, spreads = zip(*self.spread_by_latency, strict=True)
            spread_pct = float(np.interp(math.log(latency_us), np.log(places), spreads))
        half = math.hypot(spread_pct * math.sqrt(1 + unlike), self.drift_pct) / 100  # independent of each other
        return latency_us * max(0.0, 1 - half), latency_us * (1 + half)


def fit_model(
    setting: Setting,
    pace_hz: float | None,
    networks: Sequence[Features],
    measured_us: Sequence[float],
    drift_pct: float = 0.0,
) -> CostModel:
    """Ridge regression of relative errors towards the plain sum, its strength chosen by leave-one-out.

    The interval is a split conformal one of these errors, each divided by how unlike the others its network is.
    `drift_pct` (`drift_of`) widens it: at another time the machine is as fast as it was for another process.

    Raises:
        InputError: fewer than `FEWEST_NETWORKS` networks.
    """
    if len(networks) < FEWEST_NETWORKS:
        raise InputError(f"a cost model needs {FEWEST_NETWORKS} networks, {len(networks)} were timed.")
    names = tuple(networks[0])
    target = np.asarray(measured_us, np.float64)
    design = np.array([[network[name] for name in names] for network in networks]) / target[:, None]
    prior = np.array([float(name in ("sum_us", "call")) for name in names])
    fits = [_ridge(design, prior, strength) for strength in RIDGES]
    weights, covariance, errors = min(fits, key=lambda fit: float(np.abs(fit[2]).mean()))
    unlike = np.einsum("ij,jk,ik->i", design, covariance, design)
    typical = np.abs(errors) / np.sqrt(1 + unlike)
    return CostModel(
        setting,
        pace_hz,
        dict(zip(names, map(float, weights), strict=True)),
        tuple(tuple(map(float, row)) for row in covariance),
        100 * _conformal(typical),
        float(100 * np.abs(errors).mean()),
        len(networks),
        _spread_by_latency(typical, target),
        drift_pct,
    )


def drift_of(timings: Sequence[NetworkTiming]) -> float:
    """How far all networks together were off in the processes that differ most from the others, percent.

    Of the networks of each number of processes by themselves, where they are enough to tell; 0 where none are.
    """
    found = [0.0]
    for processes in {len(timing.medians_us) for timing in timings}:
        medians = np.array([timing.medians_us for timing in timings if len(timing.medians_us) == processes])
        if len(medians) >= FEWEST_NETWORKS:
            speeds = np.median(medians / np.median(medians, axis=1, keepdims=True), axis=0)
            found.append(float(100 * np.abs(speeds - 1).max()))
    return max(found)


def _spread_by_latency(
    typical: NDArray[np.float64], measured_us: NDArray[np.float64]
) -> tuple[tuple[float, float], ...]:
    """Half widths of groups of networks of like latency; none where there is one group only."""
    groups = len(typical) // NETWORKS_A_SPREAD
    if groups < 2:
        return ()
    found: dict[float, float] = {}  # groups of one latency are one
    for part in np.array_split(np.argsort(measured_us), groups):
        place = float(np.median(measured_us[part]))
        found[place] = max(found.get(place, 0.0), 100 * _conformal(typical[part]))
    return tuple(found.items())


def _ridge(
    design: NDArray[np.float64], prior: NDArray[np.float64], strength: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Weights, their covariance in units of the noise, and each network's error when predicted from all others.

    Networks that stand far out count less (Huber), since a timing is off now and then.
    """
    seen = np.sqrt((design**2).mean(axis=0))
    scale = np.where(seen > 0, seen, 1.0)  # a feature that no network has keeps its prior
    scaled, residual = design / scale, 1 - design @ prior
    trust = np.ones(len(design))
    for _ in range(HUBER_ROUNDS):
        weighted = scaled * trust[:, None]
        inverse = np.linalg.inv(weighted.T @ scaled + strength * len(design) * np.eye(len(scale)))
        change = inverse @ weighted.T @ residual
        leverage = trust * np.einsum("ij,jk,ik->i", scaled, inverse, scaled)
        errors = (scaled @ change - residual) / (1 - leverage)
        limit = HUBER_DEVIATIONS * 1.4826 * np.median(np.abs(errors)) + 1e-12
        trust = np.minimum(1.0, limit / np.maximum(np.abs(errors), 1e-12))
    return prior + change / scale, inverse / np.outer(scale, scale), errors


def _conformal(errors: NDArray[np.float64]) -> float:
    """The error that a further network exceeds with the complementary probability (split conformal prediction)."""
    rank = math.ceil((len(errors) + 1) * COVERAGE_PCT / 100)
    return float(np.sort(errors)[min(rank, len(errors)) - 1])
