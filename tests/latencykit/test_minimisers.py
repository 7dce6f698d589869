"""Networks that minimise an additive cost, and the work that is known before anything is timed."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from latencykit.architecture import network_graph
from latencykit.errors import UsageError
from latencykit.macro import Macro
from latencykit.minimisers import MACS_A_BYTE, minimisers, work
from latencykit.primitives import ZERO
from latencykit.sample import sample_architectures
from latencykit.space import CELL_TYPES, Architecture, CellType, Choice, cell_edges, template
from tests.latencykit.made_up import ONE_NODE, TINY, made_up_costs

COSTS = made_up_costs(TINY)


def cells(cell_type: CellType, nodes: int) -> list[tuple[str, ...]]:
    """Every choice of a cell that leaves no node without an input."""
    edges = cell_edges(cell_type, nodes)

    def whole(chosen: tuple[str, ...]) -> bool:
        return {e.node for c, e in zip(chosen, edges, strict=True) if c != ZERO} == set(range(nodes))

    return [chosen for chosen in itertools.product(*(edge.candidates for edge in edges)) if whole(chosen)]


@pytest.mark.parametrize("seed", range(6))
def test_the_first_minimiser_is_the_cheapest_of_all_architectures(seed: int):
    costs = made_up_costs(ONE_NODE, seed)
    every = [
        Architecture(ONE_NODE, dict(zip(CELL_TYPES, chosen, strict=True)))
        for chosen in itertools.product(*(cells(cell_type, 1) for cell_type in CELL_TYPES))
    ]
    assert len(every) == 25 * 15 * 5 * 4
    (first,) = minimisers(ONE_NODE, costs.edges_ms, 1, seed)
    assert costs.total_ms(first) == min(map(costs.total_ms, every))


@pytest.mark.parametrize("seed", range(4))
def test_nodes_that_feed_each_other_have_the_cheapest_cells_too(seed: int):
    """Cells are independent of each other in an additive cost."""
    macro = replace(TINY, cell_nodes=2)
    costs = made_up_costs(macro, seed)
    (first,) = minimisers(macro, costs.edges_ms, 1, seed)
    for cell_type in CELL_TYPES:
        others = [replace(first, choices={**first.choices, cell_type: chosen}) for chosen in cells(cell_type, 2)]
        assert len(others) > 50
        assert costs.total_ms(first) == pytest.approx(min(map(costs.total_ms, others)))


def test_no_sampled_network_is_cheaper_than_the_first():
    first = minimisers(TINY, COSTS.edges_ms, 8, 3)[0]
    assert COSTS.total_ms(first) <= min(COSTS.total_ms(a) for a in sample_architectures(TINY, 500, 1))


def test_the_others_are_near_the_minimum_and_all_different():
    found = minimisers(TINY, COSTS.edges_ms, 25, 3)
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
    for architecture in minimisers(TINY, costs.edges_ms, 5, 0):
        for node in range(3):
            edges = cell_edges("non_scaling", 3)
            chosen = [c for c, e in zip(architecture.choices["non_scaling"], edges, strict=True) if e.node == node]
            assert sum(c != ZERO for c in chosen) == 1


def test_costs_that_are_all_the_same_have_few_minimisers_and_that_ends():
    equal = {c: np.zeros_like(array) for c, array in COSTS.edges_ms.items()}
    with pytest.raises(UsageError, match="2 networks that minimise LAT were asked for; 1 were found"):
        minimisers(TINY, equal, 2, 0)


def test_minimisers_depend_on_costs_seed_and_count_alone():
    assert minimisers(TINY, COSTS.edges_ms, 6, 3) == minimisers(TINY, COSTS.edges_ms, 6, 3)
    assert minimisers(TINY, COSTS.edges_ms, 6, 3)[0] == minimisers(TINY, COSTS.edges_ms, 4, 9)[0]
    assert minimisers(TINY, COSTS.edges_ms, 6, 3)[1:] != minimisers(TINY, COSTS.edges_ms, 6, 4)[1:]


# Work


def test_work_is_what_a_candidate_reads_writes_and_multiplies():
    macro = Macro()
    chosen = dict(zip(cell_edges("contracting", 2)[0].candidates, work(macro)["contracting"][0], strict=True))
    assert chosen.keys() == {"down_conv", "down_dilated_conv", "down_separable_conv", "max_pool", "avg_pool"}
    assert chosen["max_pool"] == chosen["avg_pool"]
    assert chosen["down_conv"] == chosen["down_dilated_conv"]
    pooled = [node for node in template(macro).nodes if isinstance(node.operation, Choice)
              and (node.operation.cell_type, node.operation.edge) == ("contracting", 0)]  # fmt: skip
    shapes = [(template(macro).input_shapes(node)[0], template(macro).shapes[node.name]) for node in pooled]
    assert chosen["max_pool"] == 4 * sum(math.prod(before) + 2 * math.prod(after) for before, after in shapes)
    macs = sum(9 * before[0] * math.prod(after) for before, after in shapes)
    parameters = sum(9 * before[0] * after[0] + after[0] for before, after in shapes)
    assert chosen["down_conv"] == chosen["max_pool"] + macs / MACS_A_BYTE + 4 * parameters


def test_zero_has_no_work_and_identity_only_the_sum_s():
    costs = work(TINY)
    for cell_type in CELL_TYPES:
        for edge, row in zip(cell_edges(cell_type, TINY.cell_nodes), costs[cell_type], strict=True):
            known = dict(zip(edge.candidates, row, strict=False))
            assert known.get(ZERO, 0) == 0
            assert not row[len(edge.candidates) :].any()
            if "identity" in known:
                assert 0 < known["identity"] < min(known[c] for c in known if c not in (ZERO, "identity"))


def test_the_lightest_are_lighter_than_the_whole_sampled_space():
    def macs(architecture: Architecture) -> int:
        return network_graph(architecture).macs

    lightest = [macs(architecture) for architecture in minimisers(TINY, work(TINY), 6, 5)]
    assert max(lightest) < min(macs(architecture) for architecture in sample_architectures(TINY, 60, 1))
