"""The networks that tables are put to the test with: what a set promises, and that it ends."""

from collections import Counter

import numpy as np
import pytest

from latencykit import selection
from latencykit.architecture import network_graph
from latencykit.baselines import Baseline
from latencykit.errors import UsageError
from latencykit.graph import Graph
from latencykit.minimisers import minimisers
from latencykit.sample import sample_architectures
from latencykit.selection import HEADS, PLACES, mixed, sampled_set, tails, unet_family
from latencykit.space import Architecture
from tests.latencykit.made_up import ONE_NODE, TINY, made_up_costs

COSTS = made_up_costs(TINY)


# Tails


@pytest.fixture
def small_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "TAIL_POOL", 200)


@pytest.mark.usefixtures("small_pool")
def test_tails_are_the_fastest_and_slowest_twentieth():
    found = tails(TINY, COSTS, 20, 7)
    ranked = sorted(COSTS.total_ms(a) for a in sample_architectures(TINY, 200, 7))
    totals = sorted(COSTS.total_ms(architecture) for architecture in found)
    assert totals == ranked[:10] + ranked[-10:]


@pytest.mark.usefixtures("small_pool")
def test_fewer_of_the_tails_are_drawn_from_both_ends():
    found = tails(TINY, COSTS, 12, 7)
    whole = tails(TINY, COSTS, 20, 7)
    assert found == whole[:12]
    middle = float(np.median([COSTS.total_ms(a) for a in sample_architectures(TINY, 200, 7)]))
    assert Counter(COSTS.total_ms(a) > middle for a in found).most_common()[-1][1] >= 3
    assert tails(TINY, COSTS, 12, 8) != found


@pytest.mark.usefixtures("small_pool")
def test_more_than_the_tails_have_are_refused():
    with pytest.raises(UsageError, match="21 networks of the tails were asked for; there are 20"):
        tails(TINY, COSTS, 21, 7)


def test_the_pool_is_of_two_thousand():
    assert (selection.TAIL_POOL, selection.TAIL_SHARE) == (2000, 0.05)


# Mixed


def test_mixed_networks_differ_in_everything_and_can_be_made():
    found = mixed(40, 5)
    macros = [architecture.macro for architecture in found]
    assert len(set(macros)) > 35
    for name, least in (
        ("segmentation_stride", 3), ("quality_stride", 3), ("segmentation_widths", 8), ("quality_widths", 5),
        ("output_stride", 2), ("cell_nodes", 2),
    ):  # fmt: skip
        assert len({getattr(macro, name) for macro in macros}) >= least, name
    assert {macro.head for macro in macros} == set(HEADS)
    assert {macro.activation_place for macro in macros} == set(PLACES)
    for architecture in found[:8]:
        assert isinstance(network_graph(architecture), Graph)
        assert network_graph(architecture).macs > 0


def test_mixed_networks_depend_on_the_seed_alone_and_a_longer_set_begins_with_a_shorter_one():
    assert mixed(6, 5) == mixed(12, 5)[:6]
    assert mixed(6, 5) != mixed(6, 6)


# Hand-made


def test_the_u_net_family_is_of_different_pairs_that_can_all_be_made():
    found = unet_family(72, 5)
    assert len(set(found)) == 72
    assert {pair.depth for pair in found} == {3, 4}
    assert {pair.stride for pair in found} == {1, 2, 4}
    assert len({network_graph(pair).macs for pair in found[:10]}) > 8
    assert unet_family(20, 5) == found[:20]
    assert unet_family(20, 6) != found[:20]


def test_more_pairs_than_there_are_are_refused():
    with pytest.raises(UsageError, match="73 pairs of the U-Net family were asked for; there are 72"):
        unet_family(73, 5)


# Any


@pytest.mark.parametrize("name", ["uniform", "mixed", "unet"])
def test_a_set_holds_as_many_as_were_asked_for(name: str):
    kind = Baseline if name == "unet" else Architecture
    for count in (1, 9):
        found = sampled_set(name, ONE_NODE, count, 3)
        assert [type(network) for network in found] == [kind] * count
    assert sampled_set("uniform", ONE_NODE, 4, 3) == sample_architectures(ONE_NODE, 4, 3)


@pytest.mark.parametrize(("count", "seed"), [(0, 1), (-1, 1), (4, -1)])
def test_counts_and_seeds_that_make_no_set_are_refused(count: int, seed: int):
    for name in ("uniform", "mixed", "unet"):
        with pytest.raises(UsageError, match="at least"):
            sampled_set(name, TINY, count, seed)
    with pytest.raises(UsageError, match="at least 1 network and a seed of at least 0"):
        tails(TINY, COSTS, count, seed)
    with pytest.raises(UsageError, match="at least 1 and a seed of at least 0"):
        minimisers(TINY, COSTS.edges_ms, count, seed)


@pytest.mark.parametrize("name", ["tails", "minimisers", "all", "some"])
def test_sets_that_need_a_table_are_none_without(name: str):
    with pytest.raises(UsageError, match="take uniform, mixed or unet"):
        sampled_set(name, TINY, 4, 1)
