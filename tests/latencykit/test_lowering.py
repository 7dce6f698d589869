"""Graph to ONNX and back: every operation against numpy, every option runs, and nothing is lost on the way."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from latencykit.errors import InputError
from latencykit.graph import Graph, Node, chain, graph_to_json
from latencykit.lowering import GRAPH_KEY, graph_to_onnx, onnx_to_graph, random_weights, weight_shapes
from latencykit.macro import Macro
from latencykit.sample import sample_architectures
from latencykit.space import instantiate, template
from latencykit.spec import (
    OPERATIONS,
    Add,
    AvgPool,
    Concat,
    Conv,
    ConvTranspose,
    DepthToSpace,
    Entropy,
    GlobalAveragePool,
    Identity,
    LeastConfidence,
    Linear,
    MaxPool,
    Normalise,
    Operation,
    Relu,
    Resize,
    Shape,
    Sigmoid,
    Softmax,
    Zero,
)
from tests.latencykit.running import MACROS, SMALL, activations, random_inputs, run

Array = NDArray[np.float32]

(SAMPLED,) = sample_architectures(SMALL, 1, 5)
GRAPH = instantiate(SAMPLED)


def alone(
    operations: Operation | tuple[Operation, ...], *inputs: Array, weights: Mapping[str, Array] | None = None
) -> Array:
    """Output of one operation, or of a chain, in onnxruntime."""
    shapes: list[Shape] = [value.shape[1:] for value in inputs]  # type: ignore[misc]
    graph = chain(operations if isinstance(operations, tuple) else (operations,), shapes)
    values = {f"input{index}": value.astype(np.float32) for index, value in enumerate(inputs)}
    return run(graph_to_onnx(graph, weights), values)["output"]


def noise(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)


def convolved(x: Array, weight: Array, stride: int, dilation: int, groups: int) -> Array:
    """A "same" convolution by its definition."""
    out, per_group, kernel, _ = weight.shape
    pad = dilation * (kernel - 1) // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    height, width = -(-x.shape[2] // stride), -(-x.shape[3] // stride)
    result = np.zeros((1, out, height, width), np.float32)
    for o in range(out):
        first = o // (out // groups) * per_group
        for i in range(height):
            for j in range(width):
                top, left = i * stride, j * stride
                reach = dilation * (kernel - 1) + 1
                patch = padded[
                    0, first : first + per_group, top : top + reach : dilation, left : left + reach : dilation
                ]
                result[0, o, i, j] = (patch * weight[o]).sum()
    return result


def scattered(x: Array, weight: Array, operation: ConvTranspose) -> Array:
    """A transposed convolution by its definition: each input pixel adds a scaled kernel to the output."""
    _, channels, height, width = x.shape
    stride, dilation, kernel = operation.stride, operation.dilation, operation.kernel
    whole = (height - 1) * stride + operation.reach + operation.output_padding
    across = (width - 1) * stride + operation.reach + operation.output_padding
    result = np.zeros((1, operation.out_channels, whole, across), np.float32)
    per_group = operation.out_channels // operation.groups
    for c in range(channels):
        first = c // (channels // operation.groups) * per_group
        for i in range(height):
            for j in range(width):
                for u in range(kernel):
                    for v in range(kernel):
                        target = result[
                            0, first : first + per_group, i * stride + u * dilation, j * stride + v * dilation
                        ]
                        target += x[0, c, i, j] * weight[c, :, u, v]
    cut = operation.padding
    return result[:, :, cut : whole - cut, cut : across - cut]


@pytest.mark.parametrize(
    "operation",
    [
        Conv(4, activation="none"),
        Conv(4, 1, norm=False, activation="none"),
        Conv(4, 5, stride=2),
        Conv(4, dilation=2, stride=2, activation="none"),
        Conv(4, groups=2, dilation=3),
        Conv(1, bias=True),
    ],
    ids=str,
)
def test_a_convolution_is_what_its_definition_says(operation: Conv) -> None:
    x = noise(2, 7, 6)
    weights = random_weights(chain((operation,), ((2, 7, 6),)), 3)
    expected = convolved(x, weights["op0.weight"], operation.stride, operation.dilation, operation.groups)
    if "op0.bias" in weights:
        expected += weights["op0.bias"][:, None, None]
    if operation.activation == "relu":
        expected = np.maximum(expected, 0)
    np.testing.assert_allclose(alone(operation, x, weights=weights), expected, atol=1e-5)


@pytest.mark.parametrize(
    "operation",
    [
        ConvTranspose(4, activation="none"),
        ConvTranspose(4, dilation=2, activation="none"),
        ConvTranspose(2, groups=2, norm=False),
        ConvTranspose(1, 4, 4, norm=False, bias=True, activation="none"),
        ConvTranspose(2, 5, 3),
    ],
    ids=str,
)
def test_a_transposed_convolution_is_what_its_definition_says(operation: ConvTranspose) -> None:
    x = noise(2, 3, 4)
    weights = random_weights(chain((operation,), ((2, 3, 4),)), 3)
    expected = scattered(x, weights["op0.weight"], operation)
    if "op0.bias" in weights:
        expected += weights["op0.bias"][:, None, None]
    if operation.activation == "relu":
        expected = np.maximum(expected, 0)
    found = alone(operation, x, weights=weights)
    assert found.shape == (1, operation.out_channels, 3 * operation.stride, 4 * operation.stride)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.sampled_from([1, 2]), st.integers(1, 6))
def test_every_transposed_convolution_that_is_not_refused_runs_at_its_shape(
    kernel: int, stride: int, dilation: int, groups: int, height: int
) -> None:
    try:
        operation = ConvTranspose(4, kernel, stride, dilation, groups)
    except InputError:
        return
    assert alone(operation, noise(2, height, 3)).shape == (1, 4, stride * height, stride * 3)


@settings(max_examples=30, deadline=None)
@given(
    operation=st.one_of(
        st.builds(
            Conv, st.just(4), st.sampled_from([1, 3, 5]), st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 2])
        ),
        st.builds(MaxPool, st.just(3), st.integers(1, 3), st.integers(0, 1)),
        st.builds(AvgPool, st.sampled_from([2, 3]), st.integers(1, 3), st.integers(0, 1)),
    ),
    height=st.integers(3, 9),
)
def test_shapes_are_those_that_onnxruntime_gives(operation: Operation, height: int) -> None:
    assert alone(operation, noise(2, height, 4)).shape[1:] == operation.output_shape(((2, height, 4),))


def test_an_average_does_not_count_the_padding() -> None:
    np.testing.assert_allclose(alone(AvgPool(), np.ones((1, 1, 4, 4), np.float32)), np.ones((1, 1, 2, 2)))


def test_a_maximum_does_not_see_zeros_in_the_padding() -> None:
    np.testing.assert_allclose(alone(MaxPool(), -np.ones((1, 1, 4, 4), np.float32)), -np.ones((1, 1, 2, 2)))


def test_sums_take_any_number_of_terms() -> None:
    terms = [noise(2, 3, 3) * k for k in range(1, 6)]
    np.testing.assert_allclose(alone(Add(), *terms), 15 * noise(2, 3, 3), rtol=1e-5)
    np.testing.assert_allclose(alone(Add("relu"), *terms[:2]), np.maximum(3 * noise(2, 3, 3), 0), rtol=1e-5)


def test_concatenation_keeps_the_order() -> None:
    a, b = noise(1, 2, 2), noise(3, 2, 2)
    np.testing.assert_array_equal(alone(Concat(), a, b), np.concatenate([a, b], axis=1))


def test_resizing_is_bilinear_with_aligned_pixel_centres() -> None:
    x = np.array([0, 4], np.float32).reshape(1, 1, 1, 2)
    np.testing.assert_allclose(alone(Resize(2), x)[0, 0], [[0, 1, 3, 4]] * 2)


def test_depth_to_space_has_the_order_of_a_pixel_shuffle() -> None:
    x = np.arange(8, dtype=np.float32).reshape(1, 8, 1, 1)
    np.testing.assert_array_equal(alone(DepthToSpace(2), x)[0], [[[0, 1], [2, 3]], [[4, 5], [6, 7]]])


def test_plain_functions_are_what_they_are_called() -> None:
    x = noise(3, 4, 5)
    np.testing.assert_array_equal(alone(Relu(), x), np.maximum(x, 0))
    np.testing.assert_allclose(alone(Sigmoid(), x), 1 / (1 + np.exp(-x)), rtol=1e-5)
    np.testing.assert_allclose(alone(Softmax(), x), np.exp(x) / np.exp(x).sum(1, keepdims=True), rtol=1e-5)
    np.testing.assert_array_equal(alone(Identity(), x), x)
    np.testing.assert_allclose(alone(GlobalAveragePool(), x), x.mean((2, 3), keepdims=True), rtol=1e-4)


def test_a_fully_connected_layer_gives_rank_2() -> None:
    weights = random_weights(chain((Linear(2),), ((3, 1, 1),)), 3)
    x = noise(3, 1, 1)
    found = alone((Linear(2), Sigmoid()), x, weights=weights)
    expected = x.reshape(1, 3) @ weights["op0.weight"].T + weights["op0.bias"]
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-expected)), rtol=1e-5)


def test_what_needs_pixels_cannot_follow_a_fully_connected_layer() -> None:
    with pytest.raises(InputError, match=r"op1: Conv.* cannot read what a fully connected layer gives"):
        alone((Linear(2), Conv(1, 1)), noise(3, 1, 1))
    linear = Node("linear", Linear(3), ("image",), "head")
    graph = Graph({"image": (3, 1, 1)}, (linear, Node("sum", Add(), ("linear", "image"), "head")), {"output": "sum"})
    with pytest.raises(InputError, match=r"sum: Add\(\) cannot read"):
        graph_to_onnx(graph)


def test_normalising_scales_then_shifts_each_channel() -> None:
    scale, shift = noise(3, 1, 1), noise(3, 1, 1) + 1
    x = noise(3, 2, 2)
    found = alone(Normalise(), x, weights={"op0.scale": scale, "op0.shift": shift})
    np.testing.assert_allclose(found, x * scale + shift, rtol=1e-5, atol=1e-6)


def entropy_bits(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """H(sigmoid(z)) in bits, from the two probabilities, each without cancellation."""
    distance = np.abs(logits)
    rare = np.exp(-distance) / (1 + np.exp(-distance))
    likely = 1 / (1 + np.exp(-distance))
    surprise = np.log1p(np.exp(-distance)) + distance
    return (likely * np.log1p(np.exp(-distance)) + np.where(rare > 0, rare * surprise, 0)) / math.log(2)


def test_entropy_is_right_over_the_whole_range_of_logits() -> None:
    logits = np.concatenate([np.linspace(-40, 40, 8001), np.random.default_rng(0).standard_normal(2000)])
    found = alone(Entropy(), logits.astype(np.float32).reshape(1, 1, 1, -1)).ravel()
    np.testing.assert_allclose(found, entropy_bits(logits), atol=5e-6)
    assert found.min() >= -1e-6
    assert found.max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("logit", "bits"), [(0, 1), (1e3, 0), (-1e3, 0), (1e6, 0), (1e30, 0), (-1e30, 0), (3e38, 0), (-3e38, 0), (1e-30, 1)]
)
def test_entropy_of_an_extreme_logit_is_exact(logit: float, bits: float) -> None:
    assert alone(Entropy(), np.full((1, 1, 1, 1), logit, np.float32)).item() == bits


def test_least_confidence_is_twice_the_smaller_probability() -> None:
    probabilities = np.linspace(0, 1, 101, dtype=np.float32).reshape(1, 1, 1, -1)
    found = alone(LeastConfidence(), probabilities)
    np.testing.assert_allclose(found, 2 * np.minimum(probabilities, 1 - probabilities), atol=1e-6)


PLAIN_INPUTS: dict[type[Operation], tuple[Operation, tuple[Shape, ...]]] = {
    Conv: (Conv(2), ((4, 4, 4),)),
    ConvTranspose: (ConvTranspose(2), ((4, 4, 4),)),
    Add: (Add(), ((4, 4, 4),) * 2),
    Concat: (Concat(), ((4, 4, 4),) * 2),
    Resize: (Resize(2), ((4, 4, 4),)),
    DepthToSpace: (DepthToSpace(2), ((4, 4, 4),)),
    Linear: (Linear(2), ((4, 1, 1),)),
}


@pytest.mark.parametrize("cls", OPERATIONS.values(), ids=OPERATIONS)
def test_every_operation_has_an_onnx_form_or_is_resolved_before(cls: type[Operation]) -> None:
    operation, shapes = PLAIN_INPUTS.get(cls) or (cls(), ((4, 4, 4),))
    graph = chain((operation,), shapes)
    if cls is Zero:
        with pytest.raises(InputError, match=r"op0: Zero\(\) has no ONNX form; choices and zeros are resolved before"):
            graph_to_onnx(graph)
    else:
        onnx.checker.check_model(graph_to_onnx(graph), full_check=True)


def test_a_template_has_no_onnx_form() -> None:
    with pytest.raises(InputError, match=r"Choice\(.*has no ONNX form"):
        graph_to_onnx(template(SMALL))


def check_contract(graph: Graph, size: int) -> None:
    model = graph_to_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    declared = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.output}
    outputs = run(model, random_inputs(graph))
    assert {name: list(value.shape) for name, value in outputs.items()} == declared
    assert declared == {"mask": [1, 1, size, size], "uncertainty": [1, 1, size, size], "dice": [1, 1]}
    (image,) = model.graph.input
    assert (image.name, [d.dim_value for d in image.type.tensor_type.shape.dim]) == ("image", [1, 3, size, size])
    for value in outputs.values():
        assert value.dtype == np.float32
        assert value.min() >= -1e-6  # NaN fails here
        assert value.max() <= 1 + 1e-6


@pytest.mark.parametrize("macro", MACROS.values(), ids=MACROS)
def test_every_option_lowers_runs_and_gives_the_contracts_shapes(macro: Macro) -> None:
    for architecture in sample_architectures(macro, 2, 11):
        check_contract(instantiate(architecture), macro.image_size)


@pytest.mark.parametrize("stride", [1, 4])
def test_a_network_of_the_papers_size_lowers_and_runs(stride: int) -> None:
    macro = Macro(segmentation_stride=stride, quality_stride=stride)
    check_contract(instantiate(sample_architectures(macro, 1, 11)[0]), 256)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(list(MACROS.values())))
def test_any_sampled_architecture_lowers_and_runs(seed: int, macro: Macro) -> None:
    check_contract(instantiate(sample_architectures(macro, 1, seed)[0]), macro.image_size)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(list(MACROS.values())))
def test_graph_to_onnx_and_back_and_again_is_the_same_byte_for_byte(seed: int, macro: Macro) -> None:
    graph = instantiate(sample_architectures(macro, 1, seed)[0])
    model = graph_to_onnx(graph, seed=seed)
    back, weights = onnx_to_graph(onnx.ModelProto.FromString(model.SerializeToString()), "here")
    assert graph_to_json(back) == graph_to_json(graph)
    assert graph_to_onnx(back, weights).SerializeToString() == model.SerializeToString()


def test_the_order_in_which_weights_are_given_changes_nothing() -> None:
    weights = random_weights(GRAPH, 3)
    turned = dict(reversed(weights.items()))
    assert graph_to_onnx(GRAPH, turned).SerializeToString() == graph_to_onnx(GRAPH, weights).SerializeToString()


def test_weights_come_back_as_they_went_in() -> None:
    weights = {name: value + 1 for name, value in random_weights(GRAPH, 3).items()}
    _, back = onnx_to_graph(graph_to_onnx(GRAPH, weights), "here")
    assert list(back) == list(weight_shapes(GRAPH))
    assert all(np.array_equal(back[name], value) for name, value in weights.items())


def test_the_model_carries_its_graph_and_says_who_wrote_it() -> None:
    model = graph_to_onnx(GRAPH)
    assert [p.key for p in model.metadata_props] == [GRAPH_KEY]
    assert model.producer_name == "latencykit"
    assert (model.opset_import[0].version, model.ir_version) == (17, 8)


def test_an_operation_that_is_exported_keeps_the_names_of_its_nodes() -> None:
    names = {node.name for node in graph_to_onnx(GRAPH).graph.node}
    assert len(names) == len(graph_to_onnx(GRAPH).graph.node)
    assert {node.name for node in GRAPH.nodes} <= names


WEIGHT = "segmentation/stem0.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({WEIGHT: None}, f"'{WEIGHT}' is missing \\(1 in all\\)"),
        ({"absent.weight": np.zeros(1, np.float32)}, "'absent.weight' belongs to no node"),
        ({WEIGHT: np.zeros((2, 3, 1), np.float32)}, r"is float32 \(2, 3, 1\); expected float32 \(2, 3, 1, 1\)"),
        ({WEIGHT: np.zeros((2, 3, 1, 1))}, r"is float64 \(2, 3, 1, 1\); expected float32"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    weights = {name: value for name, value in {**random_weights(GRAPH, 0), **change}.items() if value is not None}
    with pytest.raises(InputError, match=message):
        graph_to_onnx(GRAPH, weights)


def test_a_model_without_its_graph_is_refused_and_named() -> None:
    model = graph_to_onnx(GRAPH)
    del model.metadata_props[:]
    with pytest.raises(InputError, match=r"a\.onnx carries no latencykit\.graph metadata"):
        onnx_to_graph(model, "a.onnx")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "{}", "null"], ids=["empty", "cut", "deep", "object", "null"])
def test_a_model_whose_graph_is_damaged_is_refused_and_named(text: str) -> None:
    model = graph_to_onnx(GRAPH)
    model.metadata_props[0].value = text
    with pytest.raises(InputError, match=r"a\.onnx: "):
        onnx_to_graph(model, "a.onnx")


def test_a_model_whose_weights_are_missing_damaged_or_of_another_shape_is_refused_and_named() -> None:
    def spoil(change: Any) -> onnx.ModelProto:
        model = graph_to_onnx(GRAPH)
        change(next(tensor for tensor in model.graph.initializer if tensor.name == WEIGHT))
        return model

    def rename(tensor: onnx.TensorProto) -> None:
        tensor.name = "other"

    def cut(tensor: onnx.TensorProto) -> None:
        tensor.raw_data = tensor.raw_data[:-4]

    def flatten(tensor: onnx.TensorProto) -> None:
        del tensor.dims[:]
        tensor.dims.append(6)

    for change, message in ((rename, "is missing"), (cut, "are damaged"), (flatten, r"is float32 \(6,\)")):
        with pytest.raises(InputError, match=rf"a\.onnx: .*{message}"):
            onnx_to_graph(spoil(change), "a.onnx")


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    same, other = random_weights(GRAPH, 1), random_weights(GRAPH, 2)
    assert all(np.array_equal(value, same[name]) for name, value in random_weights(GRAPH, 1).items())
    assert not np.array_equal(same[WEIGHT], other[WEIGHT])


def test_random_weights_are_those_that_the_graph_needs() -> None:
    weights = random_weights(GRAPH, 0)
    assert {name: value.shape for name, value in weights.items()} == weight_shapes(GRAPH)
    assert {value.dtype for value in weights.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("place", ["operation", "node"])
def test_random_weights_keep_activations_within_three_orders_of_unit_scale(place: Any) -> None:
    """Neither denormal nor exploding values: both would change the latency that is measured."""
    macro = Macro(image_size=64, segmentation_widths=(4, 8, 16, 32, 64), activation_place=place)
    for seed, architecture in enumerate(sample_architectures(macro, 4, 21)):
        graph = instantiate(architecture)
        for name, value in activations(graph, seed).items():
            assert np.isfinite(value).all(), name
            assert np.abs(value).max() < 1e5, name
            if graph[name].operation.macs(graph.input_shapes(graph[name])) and value.size >= 64:
                assert 0.02 < np.sqrt(np.square(value).mean()) < 1e3, name


def test_random_weights_give_no_denormals() -> None:
    graph = instantiate(sample_architectures(replace(SMALL, image_size=64), 1, 21)[0])
    smallest = np.finfo(np.float32).tiny
    for name, value in activations(graph).items():
        assert not ((value != 0) & (np.abs(value) < smallest)).any(), name


@pytest.mark.parametrize(
    "operation", [Conv(64), Conv(64, 1), ConvTranspose(64), Conv(64, groups=64), Conv(64, stride=2)]
)
def test_a_convolution_of_unit_noise_keeps_its_mean_square(operation: Operation) -> None:
    square = np.square(alone(operation, noise(64, 16, 16))).mean()
    assert 0.5 < square < 2


def test_deep_sums_of_identities_do_not_explode() -> None:
    macro = replace(SMALL, quality_widths=(4, 4, 4), cell_nodes=5)
    (architecture,) = sample_architectures(macro, 1, 1)
    cells = {t: tuple("identity" if "identity" in c else c for c in v) for t, v in architecture.choices.items()}
    cells["non_scaling"] = ("identity",) * len(cells["non_scaling"])
    graph = instantiate(replace(architecture, choices=cells))
    assert max(np.abs(value).max() for value in activations(graph).values()) < 1e4
