import numpy as np
import pytest

from latencykit.macro import Macro
from latencykit.space import CELL_TYPES, cell_edges
from nas.derive import derive

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
