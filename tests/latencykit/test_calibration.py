"""Cost models: what they see, what they recover from networks whose truth is known, and what their intervals hold."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from latencykit.calibration import (
    CACHE_MULTIPLES,
    COVERAGE_PCT,
    FEWEST_NETWORKS,
    HUBER_DEVIATIONS,
    HUBER_ROUNDS,
    LEAST_OF_SUM,
    NETWORKS_A_SPREAD,
    RIDGES,
    USUAL_L2_BYTES,
    CostModel,
    NetworkTiming,
    drift_of,
    features,
    fit_model,
)
from latencykit.errors import InputError
from latencykit.kernels import Kernel
from tests.latencykit.made_up import (
    MAPS,
    ONE,
    PLANTED,
    conv_kernel,
    drawn_networks,
    map_costs,
    map_kernel,
    planted_us,
)

MIB = 1 << 20
COSTS = map_costs()


def seen(network: dict[Kernel, int]) -> dict[str, float]:
    return features(((kernel, count, COSTS[kernel]) for kernel, count in network.items()), MIB)


def drawn(count: int, seed: int, kernels: tuple[Kernel, ...] = MAPS) -> list[dict[str, float]]:
    return [seen(network) for network in drawn_networks(count, seed, kernels)]


def noisy(networks: list[dict[str, float]], seed: int, noise: float = 0.02) -> list[float]:
    rng = np.random.default_rng(seed)
    return [planted_us(network) * float(np.exp(noise * rng.standard_normal())) for network in networks]


def fitted(count: int = 40, seed: int = 1, noise: float = 0.02) -> CostModel:
    networks = drawn(count, seed)
    return fit_model(ONE, None, networks, noisy(networks, seed, noise))


def square(value: float) -> tuple[tuple[float, ...], ...]:
    """A covariance of this value throughout."""
    return ((value,) * len(PLANTED),) * len(PLANTED)


# What a model sees


def test_a_network_is_seen_as_sums_over_its_kernels():
    small, large = map_kernel(4, 32), map_kernel(16, 256)  # 32 KiB and 8 MiB of tensors
    found = features([(small, 3, 5.0), (large, 2, 100.0)], MIB)
    assert {name: found[name] for name in ("call", "kernels", "sum_us")} == {"call": 1, "kernels": 5, "sum_us": 215}
    assert found["beyond_0_l2"] == pytest.approx(3 / 32 + 2 * 8)
    assert found["beyond_0.5_l2"] == pytest.approx(2 * 7.5)
    assert found["beyond_2_l2"] == pytest.approx(2 * 6)
    assert found["beyond_8_l2"] == found["weights_l2"] == found["grouped_us"] == 0
    assert len(found) == 5 + len(CACHE_MULTIPLES)


def test_weights_and_convolutions_in_groups_are_seen_beside_the_sum():
    dense, depthwise = conv_kernel(256, 32), conv_kernel(16, 64, groups=16)
    found = features([(dense, 2, 90.0), (depthwise, 3, 20.0)], MIB)
    assert (found["sum_us"], found["grouped_us"]) == (240, 60)
    assert found["weights_l2"] == pytest.approx((2 * 256 * 256 * 9 + 3 * 16 * 9) * 4 / MIB)


def test_networks_add_up():
    """Eq. 4 needs it: the features of two networks in one are those of both, with one call."""
    first, second = drawn_networks(2, 3)
    both = seen({kernel: first.get(kernel, 0) + second.get(kernel, 0) for kernel in MAPS})
    one, other = seen(first), seen(second)
    assert both.pop("call") == one.pop("call") == other.pop("call") == 1
    assert both == pytest.approx({name: one[name] + other[name] for name in one})


def test_bytes_count_in_caches_of_this_cpu_and_in_usual_ones_where_it_does_not_tell():
    costs = [(map_kernel(16, 256), 1, 100.0)]
    assert features(costs, 4 * MIB)["beyond_0_l2"] == 2
    assert features(costs, None) == features(costs, USUAL_L2_BYTES)


def test_no_kernels_are_seen_as_a_call():
    assert set(features([], MIB).values()) == {0.0, 1.0}
    assert features([], MIB)["call"] == 1


# What a model recovers


def test_planted_coefficients_are_recovered():
    model = fitted(noise=0.0)
    never_seen = {"beyond_8_l2"}  # no kernel of these networks is as large
    for name in PLANTED.keys() - never_seen:
        assert model.coefficients[name] == pytest.approx(PLANTED[name], rel=0.01), name
    assert model.coefficients["beyond_8_l2"] == 0
    assert model.residual_pct < 0.01
    assert (model.setting, model.pace_hz, model.networks) == (ONE, None, 40)


def test_with_noise_others_are_predicted_as_well_as_the_noise_allows():
    model = fitted(60, noise=0.02)
    others = drawn(300, 99)
    errors = [model.latency_us(network) / planted_us(network) - 1 for network in others]
    assert abs(float(np.mean(errors))) < 0.01
    assert float(np.abs(errors).mean()) < 0.01  # of the truth, which is without noise
    assert model.residual_pct == pytest.approx(100 * 0.02 * np.sqrt(2 / np.pi), rel=0.4)


def test_features_that_no_network_has_keep_their_prior():
    """The plain sum, without more: a cost for what was never seen would be made of nothing."""
    small = tuple(kernel for kernel in MAPS if kernel.tensor_bytes <= MIB // 2)
    networks = drawn(20, 4, small)
    assert all(network["beyond_0.5_l2"] == 0 for network in networks)
    model = fit_model(ONE, None, networks, noisy(networks, 4))
    assert [model.coefficients[f"beyond_{t:g}_l2"] for t in CACHE_MULTIPLES[1:]] == [0, 0, 0]


def test_networks_that_take_their_plain_sum_leave_the_prior_as_it_is():
    networks = drawn(20, 6)
    model = fit_model(ONE, None, networks, [network["call"] + network["sum_us"] for network in networks])
    prior = {name: float(name in ("call", "sum_us")) for name in networks[0]}
    assert dict(model.coefficients) == pytest.approx(prior, abs=1e-9)
    assert model.residual_pct == pytest.approx(0, abs=1e-9)


def left_out(design: NDArray[np.float64], prior: NDArray[np.float64], strength: float) -> NDArray[np.float64]:
    """Each network's relative error when predicted from all others, by fitting these anew.

    Networks whose error stands out count less in the next round, by Huber's rule.
    """
    scale = np.sqrt((design**2).mean(axis=0))
    pull = np.diag(np.sqrt(strength * len(design)) * np.where(scale > 0, scale, 1.0))
    trust = np.ones(len(design))
    for _ in range(HUBER_ROUNDS):
        errors = np.empty(len(design))
        for index, network in enumerate(design):
            others, root = np.delete(design, index, axis=0), np.sqrt(np.delete(trust, index))
            rows = np.vstack([root[:, None] * others, pull])
            target = np.concatenate([root * (1 - others @ prior), np.zeros(len(pull))])
            errors[index] = network @ (prior + np.linalg.lstsq(rows, target, rcond=None)[0]) - 1
        limit = HUBER_DEVIATIONS * 1.4826 * np.median(np.abs(errors))
        trust = np.minimum(1, limit / np.abs(errors))
    return errors


@pytest.mark.parametrize(("count", "seed"), [(8, 1), (15, 2), (40, 3)])
def test_the_residual_is_that_of_refits_without_each_network_in_turn(count: int, seed: int):
    networks = drawn(count, seed)
    measured = noisy(networks, seed, 0.03)
    model = fit_model(ONE, None, networks, measured)
    names = list(model.coefficients)
    design = np.array([[network[name] for name in names] for network in networks]) / np.array(measured)[:, None]
    prior = np.array([float(name in ("call", "sum_us")) for name in names])
    residuals = [100 * np.abs(left_out(design, prior, strength)).mean() for strength in RIDGES]
    assert model.residual_pct == pytest.approx(min(residuals), rel=1e-4)


def test_a_timing_that_is_far_off_hardly_moves_the_model():
    networks = drawn(40, 1)
    measured, others = noisy(networks, 1), drawn(100, 99)
    spoilt = [2 * value if index in (3, 17) else value for index, value in enumerate(measured)]
    model, robust = fit_model(ONE, None, networks, measured), fit_model(ONE, None, networks, spoilt)
    moved = [abs(robust.latency_us(network) / model.latency_us(network) - 1) for network in others]
    assert max(moved) < 0.03
    assert robust.residual_pct > model.residual_pct + 2  # and its error is told, not hidden


def test_too_few_networks_make_no_model():
    networks = drawn(FEWEST_NETWORKS, 1)
    assert fit_model(ONE, 30.0, networks, noisy(networks, 1)).pace_hz == 30.0
    with pytest.raises(InputError, match="needs 8 networks, 7 were timed"):
        fit_model(ONE, None, networks[:-1], noisy(networks[:-1], 1))


def test_the_machine_s_drift_widens_every_interval():
    networks = drawn(70, 4)
    steady, drifting = (fit_model(ONE, None, networks, noisy(networks, 4), drift) for drift in (0.0, 1.5))
    assert (steady.drift_pct, drifting) == (0, replace(steady, drift_pct=1.5))
    for network in networks:
        latency_us, (low, high) = steady.latency_us(network), steady.interval_us(network)
        half_us = math.hypot((high - low) / 2, 0.015 * latency_us)
        assert drifting.interval_us(network) == pytest.approx((latency_us - half_us, latency_us + half_us))


def test_drift_is_what_all_networks_of_a_process_have_in_common():
    """One network's own outlier is none; networks of another number of processes are looked at by themselves."""

    def timings(*speeds: float, count: int = FEWEST_NETWORKS) -> list[NetworkTiming]:
        return [
            NetworkTiming(ONE, None, f"n{i}", tuple((100.0 + 50 * i) * speed for speed in speeds)) for i in range(count)
        ]

    five = timings(1.0, 1.02, 0.97, 1.0, 1.0)
    assert drift_of(five) == pytest.approx(3)
    assert drift_of([*five, NetworkTiming(ONE, None, "outlier", (500.0, 500.0, 500.0, 900.0, 500.0))]) == pytest.approx(
        3
    )
    assert drift_of([*five, *timings(1.0, 1.2, count=3)]) == pytest.approx(3)  # too few to tell
    assert drift_of([*five, *timings(1.0, 1.2)]) == pytest.approx(100 * 0.1 / 1.1)
    assert drift_of(timings(5.0)) == 0


# What an interval holds


def test_intervals_hold_nine_of_ten_networks():
    shares = []
    for seed in range(25):
        model, others = fitted(36, seed), drawn(200, 1000 + seed)
        measured = noisy(others, 2000 + seed)
        inside = [low <= m <= high for m, (low, high) in zip(measured, map(model.interval_us, others), strict=True)]
        shares.append(100 * float(np.mean(inside)))
    assert COVERAGE_PCT == 90
    assert 87 < np.mean(shares) < 95
    assert np.quantile(shares, 0.1) > 75


def test_noisier_networks_have_wider_intervals():
    widths = [fitted(noise=noise).spread_pct for noise in (0.005, 0.02, 0.08)]
    assert widths[0] < widths[1] / 2 < widths[1] < widths[2] / 2


def test_an_interval_is_wider_for_networks_that_the_model_does_not_know():
    model = fitted(30)

    def half_width(network: dict[str, float]) -> float:
        low, high = model.interval_us(network)
        latency = model.latency_us(network)
        assert low < latency < high
        assert latency - low == pytest.approx(high - latency)
        return (high - low) / latency / 2

    alike = [half_width(network) for network in drawn(50, 77)]
    tiny = half_width(seen({map_kernel(4, 32): 1}))  # the call is all of it
    assert min(alike) * 100 >= model.spread_pct
    assert max(alike) < 2 * min(alike)
    assert tiny > 1.5 * max(alike)


def test_small_networks_have_intervals_of_their_own_where_there_are_many():
    """Noise that falls with latency: one width for all would be too narrow below and too wide above."""

    def measured(networks: list[dict[str, float]], seed: int) -> list[float]:
        rng = np.random.default_rng(seed)
        true = np.array([planted_us(network) for network in networks])
        return (true * np.exp(0.08 * (true.min() / true) * rng.standard_normal(len(true)))).tolist()

    networks = [seen(network) for share in (1, 12) for network in drawn_networks(60, share, MAPS[::share])]
    model = fit_model(ONE, None, networks, measured(networks, 1))
    spreads = [spread for _, spread in model.spread_by_latency]
    assert len(spreads) == 120 // NETWORKS_A_SPREAD
    assert spreads[0] > 3 * spreads[-1]
    assert spreads[0] > model.spread_pct > spreads[-1]
    others = sorted(
        [seen(n) for share in (1, 12) for n in drawn_networks(200, 50 + share, MAPS[::share])], key=planted_us
    )
    figures = measured(others, 2)
    inside = [low <= m <= high for m, (low, high) in zip(figures, map(model.interval_us, others), strict=True)]
    assert all(np.mean(part) > 0.8 for part in (inside[:130], inside[-130:]))
    one_width = replace(model, spread_by_latency=())
    fewer = [low <= m <= high for m, (low, high) in zip(figures, map(one_width.interval_us, others), strict=True)]
    assert np.mean(fewer[:130]) < np.mean(inside[:130]) - 0.05


def test_a_width_between_two_latencies_lies_between_theirs():
    model = replace(fitted(), spread_by_latency=((1000.0, 8.0), (4000.0, 2.0)), covariance=square(0.0))

    def half_pct(latency_us: float) -> float:
        low, high = model.interval_us({"sum_us": latency_us / model.coefficients["sum_us"]})
        return 100 * (high - low) / 2 / latency_us

    assert half_pct(2000.0) == pytest.approx(5.0)  # half way on a logarithmic scale
    assert [half_pct(latency) for latency in (10.0, 1000.0, 4000.0, 1e6)] == pytest.approx([8, 8, 2, 2])


def test_few_networks_have_one_width():
    assert fitted(2 * NETWORKS_A_SPREAD - 1).spread_by_latency == ()
    assert len(fitted(2 * NETWORKS_A_SPREAD).spread_by_latency) == 2


def test_networks_that_all_take_as_long_have_one_width_too():
    networks = drawn(60, 1)
    assert len(fit_model(ONE, None, networks, [5000.0] * 60).spread_by_latency) == 1


def test_an_interval_never_reaches_below_nothing():
    model = replace(fitted(), spread_pct=250.0)
    low, high = model.interval_us(drawn(1, 3)[0])
    assert low == 0 < high


def test_no_prediction_falls_below_a_share_of_its_kernels_sum():
    model = replace(fitted(), coefficients={**PLANTED, "call": -1e6})
    network = drawn(1, 3)[0]
    assert model.latency_us(network) == LEAST_OF_SUM * network["sum_us"]
    assert model.latency_us(features([], MIB)) > 0
    assert all(np.isfinite(model.interval_us(features([], MIB))))


# What a model and a timing may be


@pytest.mark.parametrize(
    "change",
    [
        {"coefficients": {**PLANTED, "call": float("nan")}},
        {"coefficients": {**PLANTED, "call": 1e13}},
        {"coefficients": {}},
        {"coefficients": {"sum_us": 1.0}},
        {"covariance": ()},
        {"covariance": ((1.0,) * 7,) * 6},
        {"covariance": ((1.0,) * 6,) * 7},
        {"covariance": ((float("inf"),) * 7,) * 7},
        {"spread_by_latency": ((2.0, 1.0), (1.0, 1.0))},
        {"spread_by_latency": ((1.0, float("nan")),)},
        {"spread_pct": -1.0},
        {"spread_pct": float("nan")},
        {"residual_pct": float("inf")},
        {"networks": 0},
        {"networks": 10**400},
        {"pace_hz": 0.0},
        {"pace_hz": float("nan")},
    ],
    ids=lambda change: str(change)[:60],
)
def test_a_model_of_implausible_figures_is_refused(change: dict[str, Any]):
    with pytest.raises(InputError, match="cost model of 1 thread"):
        replace(fitted(), **change)


@pytest.mark.parametrize("medians", [(), (0.0,), (-1.0,), (5.0, float("nan")), (float("inf"),), (5e-324,), (1e300,)])
def test_a_timing_of_implausible_figures_is_refused(medians: tuple[float, ...]):
    with pytest.raises(InputError, match="timing of some-network"):
        NetworkTiming(ONE, None, "some-network", medians)


def test_a_timing_s_figure_is_the_median_over_processes():
    assert NetworkTiming(ONE, 30.0, "n", (5.0, 9.0, 6.0)).median_us == 6
    with pytest.raises(InputError, match="-1 calls a second"):
        NetworkTiming(ONE, -1, "n", (5.0,))


def test_a_feature_that_networks_hardly_have_makes_no_model_implausible():
    """Tiny networks on a slow machine: the covariance of its weight is the square of a large number."""
    networks = [{**network, "beyond_0.5_l2": 1e-5 * (index % 3)} for index, network in enumerate(drawn(40, 1))]
    slow = [100 * us for us in noisy(drawn(40, 1), 1)]
    model = fit_model(ONE, None, networks, slow)
    assert max(map(max, model.covariance)) > 1e12
    low, high = model.interval_us(networks[0])
    assert low < slow[0] < high


@pytest.mark.parametrize("value", [1e25, -1e25, float("nan")])
def test_a_covariance_beyond_that_is_refused(value: float):
    with pytest.raises(InputError, match="a covariance is no plausible number"):
        replace(fitted(), covariance=square(value))
