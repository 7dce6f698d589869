"""Variants of the cost model: what one does not see, and what it knows besides."""

from typing import Any

import numpy as np
import pytest

from benchmarks.cost_models import VARIANTS, Seen, Variant, _mape_pct
from latencykit.calibration import features
from tests.latencykit.made_up import MAPS, PLANTED, drawn_networks, map_costs, planted_us

COSTS = map_costs()


def seen(count: int, seed: int, factor: float = 1.0) -> Seen:
    """Networks that take what is planted, times a factor."""
    networks = [
        features(((kernel, number, COSTS[kernel]) for kernel, number in network.items()), None)
        for network in drawn_networks(count, seed, MAPS)
    ]
    return [(network, factor * planted_us(network)) for network in networks]


@pytest.fixture(scope="module")
def source() -> dict[str, Any]:
    """Hand-made pairs that take a tenth more than the space's networks."""
    return {"calibration": seen(40, 1), "unet": seen(24, 2, 1.1), "mixed": seen(10, 3)}


def test_a_variant_that_does_not_see_what_costs_something_is_worse(source: dict[str, Any]):
    """By the leave-one-out error, too, which is what decides."""
    whole, blind = (_mape_pct(source, VARIANTS[name]) for name in ("as it is", "without weights"))
    for name in ("calibration", "mixed"):
        assert whole[name] < 0.1
        assert blind[name] > 2 * whole[name]


def test_pairs_that_are_calibrated_with_are_not_among_those_predicted(source: dict[str, Any]):
    assert _mape_pct(source, Variant())["unet"] == pytest.approx(100 - 100 / 1.1, abs=0.1)
    alike = source | {"unet": [source["unet"][0]] * 12 + source["unet"][:12]}
    assert _mape_pct(alike, Variant(pairs=12))["unet"] < 9


def test_every_variant_leaves_out_features_that_there_are():
    assert {name for variant in VARIANTS.values() for name in variant.blind_to} <= PLANTED.keys()
    assert np.isfinite(Variant(("weights_l2",)).fit(seen(40, 1)).residual_pct)
