"""The networks that tables are put to the test with: what a set promises, and that it ends."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from latencykit import selection
from latencykit.architecture import network_graph
from latencykit.baselines import Baseline
from latencykit.errors import UsageError
from latencykit.graph import Graph
from latencykit.primitives import ZERO
from latencykit.sample import sample_architectures
from latencykit.selection import HEADS, PLACES, minimisers, mixed, sampled_set, tails, unet_family
from latencykit.space import CELL_TYPES, Architecture, CellType, cell_edges
from tests.latencykit.made_up import ONE_NODE, TINY, made_up_costs

COSTS = made_up_costs(TINY)


def cells(cell_type: CellType, nodes: int) -> list[tuple[str, ...]]:
    """Every choice of a cell that leaves no node without an input."""
    edges = cell_edges(cell_type, nodes)

    def whole(chosen: tuple[str, ...]) -> bool:
        return {e.node for c, e in zip(chosen, edges, strict=True) if c != ZERO} == set(range(nodes))

    return [chosen for chosen in itertools.product(*(edge.candidates for edge in edges)) if whole(chosen)]


# Networks that minimise LAT


@pytest.mark.parametrize("seed", range(6))
def test_the_first_minimiser_is_the_cheapest_of_all_architectures(seed: int):
    costs = made_up_costs(ONE_NODE, seed)
    every = [
        Architecture(ONE_NODE, dict(zip(CELL_TYPES, chosen, strict=True)))
        for chosen in itertools.product(*(cells(cell_type, 1) for cell_type in CELL_TYPES))
    ]
    assert len(every) == 25 * 15 * 5 * 4
    (first,) = minimisers(ONE_NODE, costs, 1, seed)
    assert costs.total_ms(first) == min(map(costs.total_ms, every))


@pytest.mark.parametrize("seed", range(4))
def test_nodes_that_feed_each_other_have_the_cheapest_cells_too(seed: int):
    """Cells are independent of each other in an additive cost."""
    macro = replace(TINY, cell_nodes=2)
    costs = made_up_costs(macro, seed)
    (first,) = minimisers(macro, costs, 1, seed)
    for cell_type in CELL_TYPES:
        others = [replace(first, choices={**first.choices, cell_type: chosen}) for chosen in cells(cell_type, 2)]
        assert len(others) > 50
        assert costs.total_ms(first) == pytest.approx(min(map(costs.total_ms, others)))


def test_no_sampled_network_is_cheaper_than_the_first():
    first = minimisers(TINY, COSTS, 8, 3)[0]
    assert COSTS.total_ms(first) <= min(COSTS.total_ms(a) for a in sample_architectures(TINY, 500, 1))


def test_the_others_are_near_the_minimum_and_all_different():
    found = minimisers(TINY, COSTS, 25, 3)
    assert len({str(architecture.choices) for architecture in found}) == 25
    totals = [COSTS.total_ms(architecture) for architecture in found]
    sampled = sorted(COSTS.total_ms(a) for a in sample_architectures(TINY, 400, 1))
    assert totals[0] == min(totals)
    assert np.median(totals) < sampled[4]  # beyond the fastest hundredth of the space
    assert all(architecture.macro == TINY for architecture in found)


def test_a_node_keeps_its_cheapest_edge_where_deleting_all_would_be_cheaper():
    costs = replace(COSTS, edges_ms={c: np.abs(array) + 1 for c, array in COSTS.edges_ms.items()})
    for cell_type in CELL_TYPES:
        for row, edge in zip(costs.edges_ms[cell_type], cell_edges(cell_type, 3), strict=True):
            if ZERO in edge.candidates:
                row[edge.candidates.index(ZERO)] = 0
    for architecture in minimisers(TINY, costs, 5, 0):
        for node in range(3):
            edges = cell_edges("non_scaling", 3)
            chosen = [c for c, e in zip(architecture.choices["non_scaling"], edges, strict=True) if e.node == node]
            assert sum(c != ZERO for c in chosen) == 1


def test_costs_that_are_all_the_same_have_few_minimisers_and_that_ends():
    equal = replace(COSTS, edges_ms={c: np.zeros_like(array) for c, array in COSTS.edges_ms.items()})
    with pytest.raises(UsageError, match="2 networks that minimise LAT were asked for; 1 were found"):
        minimisers(TINY, equal, 2, 0)


def test_minimisers_depend_on_costs_seed_and_count_alone():
    assert minimisers(TINY, COSTS, 6, 3) == minimisers(TINY, COSTS, 6, 3)
    assert minimisers(TINY, COSTS, 6, 3)[0] == minimisers(TINY, COSTS, 4, 9)[0]
    assert minimisers(TINY, COSTS, 6, 3)[1:] != minimisers(TINY, COSTS, 6, 4)[1:]


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
    for chosen in (tails, minimisers):
        with pytest.raises(UsageError, match="at least 1 network and a seed of at least 0"):
            chosen(TINY, COSTS, count, seed)


@pytest.mark.parametrize("name", ["tails", "minimisers", "all", "some"])
def test_sets_that_need_a_table_are_none_without(name: str):
    with pytest.raises(UsageError, match="take uniform, mixed or unet"):
        sampled_set(name, TINY, 4, 1)
