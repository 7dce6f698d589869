"""Graphs: what is refused, what is counted, and the way through JSON."""

import json
from typing import Any

import pytest

from latencykit.errors import InputError
from latencykit.graph import Graph, Node, chain, graph_from_json, graph_to_json
from latencykit.spec import Add, Concat, Conv, GlobalAveragePool, Identity, MaxPool, Operation, Relu

IMAGE = {"image": (3, 8, 8)}


def node(name: str, operation: Operation, *inputs: str, fragment: str = "") -> Node:
    return Node(name, operation, inputs, "edge", fragment)


def example() -> Graph:
    nodes = (
        node("stem", Conv(4), "image"),
        node("a/op0", Conv(4, groups=4, norm=False, activation="none"), "stem", fragment="a"),
        node("a/op1", Conv(4, 1), "a/op0", fragment="a"),
        node("b/op0", Conv(4), "stem", fragment="b"),
        node("sum", Add("relu"), "a/op1", "b/op0", "stem"),
    )
    return Graph(IMAGE, nodes, {"output": "sum"}, {"space": "none"})


@pytest.mark.parametrize(
    ("inputs", "nodes", "outputs", "message"),
    [
        (IMAGE, (), {"output": "image"}, "output <- image names no node"),
        (IMAGE, (), {}, "it has no output"),
        (IMAGE, (node("a", Relu(), "absent"),), {}, "it has no output"),
        (IMAGE, (node("a", Relu(), "image"),), {"output": "b"}, "output <- b names no node"),
        (IMAGE, (node("a", Relu(), "image"), node("a", Relu(), "image")), {"o": "a"}, "'a' stands twice"),
        (IMAGE, (node("image", Relu(), "image"),), {"o": "image"}, "'image' stands twice"),
        (IMAGE, (node("a", Relu(), "a"),), {"o": "a"}, "'a' reads 'a', which does not come before it"),
        (IMAGE, (node("a", Relu(), "b"), node("b", Relu(), "image")), {"o": "a"}, "'a' reads 'b'"),
        (IMAGE, (node("a", Relu()),), {"o": "a"}, "'a' has 0 inputs; expected 1"),
        (IMAGE, (node("a", Relu(), "image", "image"),), {"o": "a"}, "'a' has 2 inputs; expected 1"),
        (IMAGE, (node("a", Add(), "image"),), {"o": "a"}, "'a' has 1 inputs; expected two or more"),
        (IMAGE, (node("a", Concat()),), {"o": "a"}, "'a' has 0 inputs; expected two or more"),
        (IMAGE, (node("a", Conv(4, groups=2), "image"),), {"o": "a"}, "must be divisible by 2"),
        (
            {"image": (3, 0, 8)},
            (node("a", Relu(), "image"),),
            {"o": "a"},
            "input 'image' has a dimension of 0",
        ),
        (IMAGE, (node("a", Relu(), "image"),), {"x": "a", "y": "a"}, "two outputs name one node"),
        (
            IMAGE,
            (node("a", Relu(), "image"), node("b", Relu(), "a")),
            {"a": "b"},
            "output a <- b bears another node's name",
        ),
    ],
)
def test_a_graph_that_cannot_be_is_refused(
    inputs: dict[str, Any], nodes: tuple[Node, ...], outputs: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Graph(inputs, nodes, outputs)


def test_one_tensor_may_be_summed_with_itself() -> None:
    graph = Graph(IMAGE, (node("a", Add(), "image", "image"),), {"o": "a"})
    assert graph.shapes["a"] == (3, 8, 8)


def test_every_shape_is_known() -> None:
    assert example().shapes == {
        "image": (3, 8, 8),
        **dict.fromkeys(("stem", "a/op0", "a/op1", "b/op0", "sum"), (4, 8, 8)),
    }


def test_costs_are_the_sums_of_the_nodes() -> None:
    graph = example()
    assert graph.macs == 64 * 4 * (3 * 9 + 9 + 4 + 4 * 9)
    assert graph.parameters == (4 * 27 + 4) + 36 + (16 + 4) + (144 + 4)
    elements = 64 * (3 + 4) + 64 * 8 + 64 * 8 + 64 * 8 + 64 * 16 + graph.parameters
    assert graph.moved_bytes == 4 * elements


def test_a_node_is_found_by_its_name() -> None:
    assert example()["sum"].operation == Add("relu")
    with pytest.raises(KeyError):
        example()["absent"]


def test_fragments_join_only_neighbours_of_one_name() -> None:
    assert [names for _, _, names in example().fragments()] == [("stem",), ("a/op0", "a/op1"), ("b/op0",), ("sum",)]


def test_a_fragment_gives_the_shapes_that_enter_it() -> None:
    (operations, shapes, _), *_ = chain((Conv(4), MaxPool()), ((3, 8, 8),)).fragments()
    assert operations == (Conv(4), MaxPool())
    assert shapes == ((3, 8, 8),)


def test_a_chain_feeds_all_inputs_to_its_first_operation() -> None:
    graph = chain((Add(), GlobalAveragePool()), ((2, 4, 4),) * 3)
    assert graph.nodes[0].inputs == ("input0", "input1", "input2")
    assert graph.shapes[graph.outputs["output"]] == (2, 1, 1)


def test_a_graph_survives_json() -> None:
    graph = example()
    back = graph_from_json(json.loads(json.dumps(graph_to_json(graph))), "here")
    assert back == graph
    assert graph_to_json(back) == graph_to_json(graph)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "here: graph schema 1 expected, found 2"),
        ({"more": 1}, "here: unknown field 'more'"),
        ({"inputs": {"image": [3, 8]}}, "here: Expected `array` of length 3"),
        (
            {"nodes": [{"name": "a", "operation": {"op": "Relu"}, "inputs": ["image"], "role": "r", "x": 1}]},
            "field 'x'",
        ),
        ({"nodes": [{"name": "a", "operation": {"op": "Warp"}, "inputs": ["image"], "role": "r"}]}, "here: .*'Warp'"),
        ({"nodes": [], "outputs": {"o": "a"}}, "here: graph output o <- a names no node"),
        ({"metadata": {"a": 1}}, "here: Expected `str`, got `int`"),
    ],
)
def test_json_that_is_no_graph_is_refused_and_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        graph_from_json({**graph_to_json(example()), **change}, "here")


@pytest.mark.parametrize("data", [None, [], "graph", {}])
def test_what_is_no_object_with_a_schema_is_refused(data: Any) -> None:
    with pytest.raises(InputError, match="here: graph schema 1 expected"):
        graph_from_json(data, "here")


def test_a_graph_is_not_changed_by_reading_its_figures() -> None:
    graph = example()
    before = graph_to_json(graph)
    assert (graph.macs, graph.parameters, graph.moved_bytes) == (graph.macs, graph.parameters, graph.moved_bytes)
    assert graph_to_json(graph) == before
    assert Identity() not in {n.operation for n in graph.nodes}
