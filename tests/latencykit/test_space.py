"""The space: counts and kinds of edges, the skeleton's shapes, what choices do to a graph, and what is refused."""

from collections import Counter
from dataclasses import replace

import pytest

from latencykit.errors import InputError
from latencykit.graph import Graph
from latencykit.macro import Macro
from latencykit.primitives import PRIMITIVES, ZERO
from latencykit.space import (
    CELL_TYPES,
    Architecture,
    CellType,
    Choice,
    Edge,
    cell_edges,
    instantiate,
    source_name,
    template,
)
from latencykit.spec import Add, Conv, ConvTranspose, Identity, Relu, Zero
from tests.latencykit.running import MACROS, SMALL

KINDS = {
    "down": {"down": 6, "normal": 3},
    "up": {"up": 3, "normal": 6},
    "contracting": {"down": 3, "normal": 3},
    "non_scaling": {"normal": 6},
}


def uniform(macro: Macro, **chosen: str) -> Architecture:
    """An architecture with one primitive for each edge kind."""
    names = {"down": "down_conv", "up": "up_conv", "normal": "conv", **chosen}
    return Architecture(
        macro, {c: tuple(names[edge.kind] for edge in cell_edges(c, macro.cell_nodes)) for c in CELL_TYPES}
    )


def changed(architecture: Architecture, cell_type: CellType, **edges: str) -> Architecture:
    """An architecture with some edges (`e3`) of a cell type replaced."""
    chosen = list(architecture.choices[cell_type])
    for name, primitive in edges.items():
        chosen[int(name[1:])] = primitive
    return replace(architecture, choices={**architecture.choices, cell_type: tuple(chosen)})


def names(graph: Graph) -> set[str]:
    return {node.name for node in graph.nodes}


@pytest.mark.parametrize("cell_type", CELL_TYPES)
def test_a_cell_of_three_nodes_has_the_edges_of_decisions_1_and_3(cell_type: CellType) -> None:
    edges = cell_edges(cell_type, 3)
    assert len(edges) == {"down": 9, "up": 9, "contracting": 6, "non_scaling": 6}[cell_type]
    assert Counter(edge.kind for edge in edges) == KINDS[cell_type]


@pytest.mark.parametrize("nodes", [1, 2, 3, 5])
def test_edges_come_node_by_node_from_all_that_is_before(nodes: int) -> None:
    for cell_type, inputs in (("down", 2), ("non_scaling", 1)):
        edges = cell_edges(cell_type, nodes)  # type: ignore[arg-type]
        assert len(edges) == inputs * nodes + nodes * (nodes - 1) // 2
        assert [(e.node, e.source) for e in edges] == [(n, s) for n in range(nodes) for s in range(inputs + n)]


def test_wiring_is_that_of_decision_2() -> None:
    assert [(e.source, e.kind) for e in cell_edges("down", 1)] == [(0, "down"), (1, "down")]
    assert [(e.source, e.kind) for e in cell_edges("up", 1)] == [(0, "normal"), (1, "up")]
    assert cell_edges("contracting", 2)[-1] == Edge(1, 1, "normal")


def test_an_edge_offers_the_candidates_of_its_kind() -> None:
    assert cell_edges("up", 1)[1].candidates == PRIMITIVES["up"]


def test_sources_have_names() -> None:
    assert [source_name("down", n) for n in range(4)] == ["s0", "s1", "node0", "node1"]
    assert [source_name("non_scaling", n) for n in range(3)] == ["s", "node0", "node1"]


def test_the_papers_template_has_a_choice_for_every_edge_of_its_17_cells() -> None:
    choices = [n.operation for n in template(Macro()).nodes if isinstance(n.operation, Choice)]
    assert Counter(c.cell_type for c in choices) == {"down": 36, "up": 45, "contracting": 24, "non_scaling": 24}
    cells = {(c.cell_type, c.cell) for c in choices}
    assert Counter(t for t, _ in cells) == {"down": 4, "up": 5, "contracting": 4, "non_scaling": 4}


def test_the_papers_cells_have_the_widths_and_resolutions_of_decisions_6_and_14() -> None:
    shapes = template(Macro()).shapes
    assert shapes["segmentation/stem0"] == (4, 256, 256)
    assert shapes["segmentation/stem1"] == (8, 128, 128)
    downs = [shapes[f"segmentation/down{n}/output"] for n in range(1, 5)]
    assert downs == [(16, 64, 64), (32, 32, 32), (64, 16, 16), (128, 8, 8)]
    ups = [shapes[f"segmentation/up{n}/output"] for n in range(1, 6)]
    assert ups == [(64, 16, 16), (32, 32, 32), (16, 64, 64), (8, 128, 128), (4, 256, 256)]
    assert shapes["quality/stem"] == (8, 128, 128)
    for kind in ("contracting", "non_scaling"):
        found = [shapes[f"quality/{kind}{n}/output"] for n in range(1, 5)]
        assert found == [(8, 64, 64), (16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_the_papers_skips_come_from_down_3_2_1_and_the_stems() -> None:
    plan = template(Macro())
    skips = [plan[f"segmentation/up{n}/s0"].inputs[0] for n in range(1, 6)]
    stems = ["segmentation/stem1", "segmentation/stem0"]
    assert skips == [*(f"segmentation/down{n}/output" for n in (3, 2, 1)), *stems]


def test_the_larger_input_of_a_down_cell_is_preprocessed_with_stride_2() -> None:
    plan = template(Macro())
    for n in range(1, 5):
        assert plan[f"segmentation/down{n}/s0"].operation == Conv(8 * 2**n, 1, stride=2)
        assert plan[f"segmentation/down{n}/s1"].operation == Conv(8 * 2**n, 1)


def test_only_quality_cells_have_a_residual() -> None:
    graph = instantiate(uniform(SMALL))
    assert "quality/contracting1/residual" in names(graph)
    assert graph["quality/contracting1/output"].inputs[-1] == "quality/contracting1/residual"
    assert graph["quality/non_scaling1/output"].inputs[-1] == "quality/non_scaling1/s0"
    assert not any("residual" in name for name in names(graph) if name.startswith("segmentation"))


def test_a_cells_output_is_the_sum_of_its_nodes() -> None:
    graph = instantiate(uniform(SMALL))
    assert graph["segmentation/down1/output"].inputs == tuple(f"segmentation/down1/node{n}" for n in range(3))


@pytest.mark.parametrize("macro", MACROS.values(), ids=MACROS)
def test_every_macro_configuration_expands_to_plain_graphs(macro: Macro) -> None:
    size = macro.image_size
    for architecture in (uniform(macro), uniform(macro, normal="identity", down="max_pool")):
        graph = instantiate(architecture)
        assert not any(isinstance(node.operation, Choice | Zero | Identity) for node in graph.nodes)
        assert graph.inputs == {"image": (3, size, size)}
        found = {name: graph.shapes[node] for name, node in graph.outputs.items()}
        assert found == {"mask": (1, size, size), "uncertainty": (1, size, size), "dice": (1, 1, 1)}


def test_choices_are_shared_by_all_cells_of_a_type() -> None:
    macro = replace(SMALL, segmentation_widths=(2, 3, 4, 5))
    graph = instantiate(changed(uniform(macro), "down", e0="max_pool"))
    for cell in ("down1", "down2"):
        assert type(graph[f"segmentation/{cell}/edge0/op0"].operation).__name__ == "MaxPool"
        assert graph[f"segmentation/{cell}/edge1/op0"].operation == Conv(
            graph.shapes[f"segmentation/{cell}/s0"][0], stride=2
        )


def test_identity_adds_no_node_and_passes_its_source_on() -> None:
    before = instantiate(uniform(SMALL))
    after = instantiate(changed(uniform(SMALL), "up", e0="identity"))
    assert names(before) - names(after) == {"segmentation/up1/edge0/op0", "segmentation/up2/edge0/op0"}
    assert names(after) < names(before)
    assert after["segmentation/up1/node0"].inputs == ("segmentation/up1/s0", "segmentation/up1/edge1/op0")


def test_zero_deletes_its_edge_and_shortens_the_sum() -> None:
    after = instantiate(changed(uniform(SMALL), "down", e8=ZERO, e7=ZERO))
    assert after["segmentation/down1/node2"].inputs == (
        "segmentation/down1/edge5/op0",
        "segmentation/down1/edge6/op0",
    )


def test_where_zero_leaves_one_edge_no_sum_is_left() -> None:
    after = instantiate(changed(uniform(SMALL), "down", e0=ZERO))
    assert "segmentation/down1/node0" not in names(after)
    assert after["segmentation/down1/output"].inputs[0] == "segmentation/down1/edge1/op0"


def test_any_edge_may_be_zero_also_where_the_search_offers_none() -> None:
    architecture = changed(uniform(SMALL), "up", e1=ZERO, e3=ZERO, e6=ZERO)
    assert ZERO not in cell_edges("up", 3)[1].candidates
    graph = instantiate(architecture)
    assert not any(isinstance(n.operation, ConvTranspose) for n in graph.nodes)


def test_what_only_deleted_edges_read_is_gone_too() -> None:
    """Up cells that ignore what is below need neither its preprocessing nor the whole path down."""
    graph = instantiate(changed(uniform(SMALL), "up", e1=ZERO, e3=ZERO, e6=ZERO))
    assert not any(name.startswith(("segmentation/up2/s1", "segmentation/down")) for name in names(graph))
    assert "segmentation/up2/s0" in names(graph)


def test_an_edge_from_a_node_that_only_passes_on_reads_the_cells_input() -> None:
    architecture = changed(uniform(SMALL), "non_scaling", e0="identity", e2="conv")
    assert instantiate(architecture)["quality/non_scaling1/edge2/op0"].inputs == ("quality/non_scaling1/s0",)


def test_with_activations_after_the_node_edges_have_none() -> None:
    macro = replace(SMALL, activation_place="node")
    graph = instantiate(changed(uniform(macro), "down", e0=ZERO))
    edges = [n for n in graph.nodes if n.role == "edge"]
    assert {n.operation.activation for n in edges if isinstance(n.operation, Conv | ConvTranspose)} == {"none"}
    assert graph["segmentation/down1/node0"].operation == Relu()
    assert graph["segmentation/down1/node1"].operation == Add("relu")
    assert graph["segmentation/down1/output"].operation == Add("none")
    assert graph["quality/non_scaling1/node0"].operation == Relu()


def test_a_template_and_its_graphs_agree_on_every_shape_they_share() -> None:
    plan, graph = template(SMALL).shapes, instantiate(uniform(SMALL)).shapes
    assert all(plan[name] == shape for name, shape in graph.items() if name in plan)
    assert len(plan.keys() & graph.keys()) > 20


def test_a_node_without_input_is_refused() -> None:
    with pytest.raises(InputError, match="down node 0 has no input; keep one edge that is not zero"):
        changed(uniform(SMALL), "down", e0=ZERO, e1=ZERO)
    with pytest.raises(InputError, match="non_scaling node 0 has no input"):
        changed(uniform(SMALL), "non_scaling", e0=ZERO)


def test_the_last_edge_of_a_node_may_not_be_deleted_but_the_others_may() -> None:
    architecture = changed(uniform(SMALL), "down", e5=ZERO, e6=ZERO, e7=ZERO)
    assert "segmentation/down1/node2" not in names(instantiate(architecture))


@pytest.mark.parametrize(
    ("cell_type", "chosen", "message"),
    [
        ("down", ("down_conv",) * 8, "down has 8 choices; expected 9"),
        ("up", (), "up has 0 choices; expected 9"),
        ("down", ("conv",) * 9, "down edge 0 is 'conv'; expected one of down_conv, "),
        ("up", ("up_conv",) * 9, "up edge 0 is 'up_conv'; expected one of conv, "),
        ("non_scaling", ("warp",) * 6, "non_scaling edge 0 is 'warp'"),
    ],
)
def test_choices_that_do_not_fit_are_refused(cell_type: CellType, chosen: tuple[str, ...], message: str) -> None:
    good = uniform(SMALL)
    with pytest.raises(InputError, match=message):
        replace(good, choices={**good.choices, cell_type: chosen})


def test_every_cell_type_must_be_there_and_no_other() -> None:
    good = uniform(SMALL)
    for choices in ({}, {**good.choices, "sideways": ()}, {k: v for k, v in good.choices.items() if k != "up"}):
        with pytest.raises(InputError, match="choices for down, up, contracting, non_scaling expected"):
            replace(good, choices=choices)


def test_a_choice_has_the_shape_of_each_of_its_candidates() -> None:
    for node in template(SMALL).nodes:
        if isinstance(choice := node.operation, Choice):
            shape = template(SMALL).shapes[node.inputs[0]]
            for candidate in choice.candidates:
                found = shape
                for operation in choice.operations(candidate):
                    found = operation.output_shape((found,))
                assert found == choice.output_shape((shape,))
