"""Variants of the cost model: what one does not see, and what it is calibrated with."""

import pytest

from benchmarks.cost_models import CALIBRATION, PAIR, VARIANTS, Seen, Variant
from latencykit.calibration import features
from tests.latencykit.made_up import MAPS, drawn_networks, map_costs, planted_us

COSTS = map_costs()


def seen(count: int, seed: int, factor: float = 1.0) -> Seen:
    """Networks that take what is planted, times a factor."""
    networks = [
        features(((kernel, number, COSTS[kernel]) for kernel, number in network.items()), None)
        for network in drawn_networks(count, seed, MAPS)
    ]
    return [(network, factor * planted_us(network)) for network in networks]


@pytest.fixture(scope="module")
def source() -> dict[str, Seen]:
    return {CALIBRATION: seen(40, 1), f"{PAIR}4": seen(3, 2, 3.0), f"{PAIR}10": seen(3, 4), "mixed": seen(10, 3)}


@pytest.mark.parametrize("unseen", ["weights_l2", "grouped_us"])
def test_a_variant_that_does_not_see_what_costs_something_is_worse(source: dict[str, Seen], unseen: str):
    whole, blind = (Variant(blind_to, (10,)).mape_pct(source) for blind_to in ((), (unseen,)))
    assert whole.keys() == {CALIBRATION, "mixed"}
    for name in whole:
        assert whole[name] < 0.1
        assert blind[name] > 2 * whole[name]


def test_a_variant_is_fitted_to_the_pairs_that_it_names(source: dict[str, Seen]):
    fitted = {widths: Variant(widths=widths).fit(source).networks for widths in ((4, 10, 16), (10,), ())}
    assert fitted == {(4, 10, 16): 46, (10,): 43, (): 40}


def test_what_variants_do_not_see_are_features_that_there_are():
    assert {name for variant in VARIANTS.values() for name in variant.blind_to} < features([], None).keys()
