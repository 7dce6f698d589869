"""The frame of a network pair: names, strides and shapes."""

import pytest

from latencykit.builder import (
    IMAGE,
    GraphBuilder,
    Maps,
    finish_pair,
    pooled_image,
    quality_input,
    quality_output,
    segmentation_head,
)
from latencykit.errors import InputError
from latencykit.graph import Graph
from latencykit.macro import Head
from latencykit.spec import Add, AvgPool, Concat, Conv, Identity, LeastConfidence, Relu, Resize

SHAPE = (3, 32, 32)


def build(builder: GraphBuilder, output: str) -> Graph:
    return builder.build({"output": output}, {})


def test_a_chain_is_one_fragment() -> None:
    builder = GraphBuilder({IMAGE: SHAPE})
    last = builder.chain("edge", (Conv(4), Relu()), IMAGE, "edge")
    assert last == "edge/op1"
    assert [names for *_, names in build(builder, last).fragments()] == [("edge/op0", "edge/op1")]


def test_a_sum_of_one_is_the_input_itself() -> None:
    builder = GraphBuilder({IMAGE: SHAPE})
    assert builder.sum("sum", [IMAGE], "sum") == IMAGE


def test_a_sum_of_one_with_an_activation_is_the_activation() -> None:
    builder = GraphBuilder({IMAGE: SHAPE})
    assert build(builder, builder.sum("sum", [IMAGE], "sum", "relu"))["sum"].operation == Relu()


def test_a_sum_of_two_is_an_addition() -> None:
    builder = GraphBuilder({IMAGE: SHAPE})
    assert build(builder, builder.sum("sum", [IMAGE, IMAGE], "sum", "relu"))["sum"].operation == Add("relu")


def test_a_sum_of_none_is_refused() -> None:
    builder = GraphBuilder({IMAGE: SHAPE})
    builder.sum("sum", [], "sum")
    with pytest.raises(InputError, match="'sum' has 0 inputs"):
        build(builder, "sum")


def test_what_no_output_reads_is_left_out() -> None:
    builder = GraphBuilder({IMAGE: SHAPE})
    kept = builder.add("kept", Identity(), IMAGE, role="edge")
    builder.add("dead", Conv(4), builder.add("dying", Conv(4), kept, role="edge"), role="edge")
    assert [node.name for node in build(builder, kept).nodes] == ["kept"]


def test_at_stride_1_the_image_is_only_normalised() -> None:
    builder = GraphBuilder({IMAGE: SHAPE})
    assert len(build(builder, pooled_image(builder, "network", 1)).nodes) == 1


@pytest.mark.parametrize("stride", [2, 4])
def test_the_image_is_averaged_over_its_stride_without_overlap(stride: int) -> None:
    builder = GraphBuilder({IMAGE: SHAPE})
    graph = build(builder, pooled_image(builder, "network", stride))
    assert graph["network/pool"].operation == AvgPool(stride, stride, 0)
    assert graph.shapes["network/normalise"] == (3, 32 // stride, 32 // stride)


def head(logit_stride: int, kind: Head) -> tuple[Graph, Maps]:
    builder = GraphBuilder({"features": (5, 16, 16)})
    maps = segmentation_head(builder, "features", logit_stride, kind, "entropy")
    names = dict.fromkeys((maps.mask, maps.uncertainty, maps.probability, maps.entropy))
    return builder.build({name: name for name in names}, {}), maps


@pytest.mark.parametrize("kind", ["resize", "depth_to_space", "transposed_conv"])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_mask_and_uncertainty_lie_at_the_images_resolution(kind: Head, stride: int) -> None:
    graph, maps = head(stride, kind)
    assert graph.shapes[maps.mask] == graph.shapes[maps.uncertainty] == (1, 16 * stride, 16 * stride)
    small = 16 * stride // maps.stride
    assert graph.shapes[maps.probability] == graph.shapes[maps.entropy] == (1, small, small)
    assert graph.shapes["logits"] == (1, 16 * stride, 16 * stride)


def test_only_a_resizing_head_keeps_small_maps_for_the_quality_network() -> None:
    assert head(4, "resize")[1].stride == 4
    for kind in ("depth_to_space", "transposed_conv"):
        _, maps = head(4, kind)  # type: ignore[arg-type]
        assert (maps.stride, maps.probability, maps.entropy) == (1, maps.mask, maps.uncertainty)


def test_one_logit_stands_for_two_classes() -> None:
    graph, _ = head(1, "resize")
    assert graph["logits"].operation == Conv(1, 1, norm=False, bias=True, activation="none")


def test_least_confidence_reads_the_probability() -> None:
    builder = GraphBuilder({"features": (5, 16, 16)})
    maps = segmentation_head(builder, "features", 1, "resize", "least_confidence")
    node = builder.build({"uncertainty": maps.uncertainty}, {})[maps.uncertainty]
    assert (node.operation, node.inputs) == (LeastConfidence(), (maps.probability,))


@pytest.mark.parametrize(
    ("maps_stride", "stride", "between"),
    [
        (1, 1, None),
        (1, 4, AvgPool(4, 4, 0)),
        (2, 4, AvgPool(2, 2, 0)),
        (4, 1, Resize(4)),
        (4, 2, Resize(2)),
        (2, 2, None),
    ],
)
def test_the_quality_network_reads_five_channels_at_its_stride(maps_stride: int, stride: int, between: object) -> None:
    side, small = 32 // stride, 32 // maps_stride
    builder = GraphBuilder({"image": (3, side, side), "p": (1, small, small), "u": (1, small, small)})
    joined = quality_input(builder, "image", Maps("p", "u", "p", "u", maps_stride), stride)
    graph = build(builder, joined)
    assert graph.shapes[joined] == (5, side, side)
    assert [n.operation for n in graph.nodes] == [Concat(), *([between] if between else []), Concat()]


def test_the_predicted_dice_is_one_number() -> None:
    builder = GraphBuilder({"features": (5, 4, 4)})
    dice = quality_output(builder, "features")
    assert dice == "dice"
    assert build(builder, dice).shapes[dice] == (1, 1, 1)


def test_a_pair_has_the_contracts_outputs() -> None:
    builder = GraphBuilder({IMAGE: SHAPE})
    maps = segmentation_head(builder, IMAGE, 1, "resize", "entropy")
    graph = finish_pair(builder, maps, quality_output(builder, IMAGE), {"space": "none"})
    assert list(graph.outputs) == ["mask", "uncertainty", "dice"]
    assert graph.metadata == {"space": "none"}
