import contextlib
import itertools
from functools import cache

import numpy as np
import pytest

from latencykit.edges import SearchCosts
from latencykit.errors import InputError
from latencykit.macro import Macro
from latencykit.space import CELL_TYPES, Architecture, cell_edges
from nas.derive import BAND, derive, derive_within

MACRO = Macro()


def tables(**strongest):
    """Tables in which the first candidate wins everywhere but where `cell_type={edge: {candidate: value}}` says."""
    result = {}
    for cell_type in CELL_TYPES:
        edges = cell_edges(cell_type, 3)
        result[cell_type] = np.zeros((len(edges), 5))
        result[cell_type][:, 0] = 1
        for edge, values in strongest.get(cell_type, {}).items():
            for name, value in values.items():
                result[cell_type][edge, edges[edge].candidates.index(name)] = value
    return result


def test_argmax_takes_each_edges_strongest_candidate():
    choices = derive(tables(up={0: {"identity": 2}}, contracting={0: {"max_pool": 2}}), MACRO).choices
    assert choices["up"][:2] == ("identity", "up_conv")
    assert choices["contracting"][0] == "max_pool"
    assert choices["non_scaling"] == ("conv",) * 6


def test_zero_deletes_an_edge():
    assert derive(tables(up={0: {"zero": 2}}), MACRO).choices["up"][:2] == ("zero", "up_conv")


def test_a_node_left_without_input_keeps_its_best_edge():
    zeros = {1: {"zero": 5, "identity": 2}, 2: {"zero": 5, "dilated_conv": 3}}
    assert derive(tables(non_scaling=zeros), MACRO).choices["non_scaling"][:3] == ("conv", "zero", "dilated_conv")


def test_two_strongest_keeps_two_edges_a_node_and_never_zero():
    edges = cell_edges("down", 3)
    strong = {4: {"conv": 4, "zero": 9}, 3: {"down_conv": 3}}
    choices = derive(tables(down=strong), MACRO, "two-strongest").choices
    for cell_type in CELL_TYPES:
        for node in range(3):
            arriving = [i for i, edge in enumerate(cell_edges(cell_type, 3)) if edge.node == node]
            kept = [i for i in arriving if choices[cell_type][i] != "zero"]
            assert len(kept) == min(2, len(arriving))
    assert edges[4].node == edges[3].node == 1
    assert choices["down"][2:5] == ("zero", "down_conv", "conv")


@pytest.mark.parametrize("rule", ["argmax", "two-strongest"])
def test_slots_beyond_the_candidates_say_nothing(rule):
    values = tables()
    values["up"][1, 3:] = 100  # an up edge has three candidates
    assert derive(values, MACRO, rule).choices["up"][1] == "up_conv"


SMALL = Macro(cell_nodes=1)


def random_costs(seed):
    """Each candidate but `zero` takes up to a millisecond on each edge; 3 for the rest."""
    rng = np.random.default_rng(seed)
    edges_ms = {c: np.zeros((len(cell_edges(c, 1)), 5)) for c in CELL_TYPES}
    for cell_type, array in edges_ms.items():
        for row, edge in zip(array, cell_edges(cell_type, 1), strict=True):
            row[: len(edge.candidates)] = [(name != "zero") * rng.uniform() for name in edge.candidates]
    return SearchCosts(3.0, edges_ms, "edge", 0.0)


@cache
def every_architecture():
    """All of the space of one node a cell."""
    found, edges = [], {c: cell_edges(c, 1) for c in CELL_TYPES}
    for names in itertools.product(*(edge.candidates for c in CELL_TYPES for edge in edges[c])):
        rest = iter(names)
        with contextlib.suppress(InputError):  # a node without an input
            found.append(Architecture(SMALL, {c: tuple(next(rest) for _ in edges[c]) for c in CELL_TYPES}))
    return found


def likelihood(drawn, architecture):
    return sum(
        np.log(row[edge.candidates.index(name)])
        for c, chosen in architecture.choices.items()
        for row, edge, name in zip(drawn[c], cell_edges(c, 1), chosen, strict=True)
    )


@pytest.mark.parametrize("target_ms", [4.5, 5.0, 6.0])
def test_a_target_gets_the_most_probable_architecture_just_below_it(target_ms):
    rng, costs = np.random.default_rng(int(10 * target_ms)), random_costs(1)
    drawn = {c: rng.dirichlet(np.ones(5), len(cell_edges(c, 1))) for c in CELL_TYPES}
    near = [one for one in every_architecture() if (1 - BAND) * target_ms <= costs.total_ms(one) <= target_ms]
    assert len(near) > 20
    assert derive_within(drawn, SMALL, costs, target_ms) == max(near, key=lambda one: likelihood(drawn, one))


def test_a_target_that_nothing_meets_gets_the_fastest_architecture():
    costs = random_costs(2)
    found = costs.total_ms(derive_within(tables(), SMALL, costs, 1.0))
    assert found == pytest.approx(min(map(costs.total_ms, every_architecture())))


def test_a_target_above_all_gets_what_argmax_takes():
    assert derive_within(tables(), SMALL, random_costs(3), 1000.0) == derive(tables(), SMALL)
