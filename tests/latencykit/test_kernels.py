import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from latencykit.errors import InputError
from latencykit.graph import Graph, Node, chain
from latencykit.kernels import (
    CALL_OVERHEAD,
    Kernel,
    KernelInput,
    kernel_from_json,
    kernel_model,
    kernels_in,
    kernels_of,
)
from latencykit.lowering import graph_to_onnx
from latencykit.runtime import Session, Setting
from latencykit.schema import to_json
from latencykit.spec import Add, Conv, Linear, Resize
from tests.latencykit.made_up import relu_kernel

FREE = Setting(threads=1, pinned=False)
AS_IS = Setting(threads=1, pinned=False, optimisation="none")


def model_of(nodes, inputs, outputs, constants=()) -> bytes:
    infos = [
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in tensors.items()]
        for tensors in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "test", *infos, list(constants))
    opsets = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def lowered(graph: Graph, seed: int = 0) -> bytes:
    return bytes(graph_to_onnx(graph, seed=seed).SerializeToString())


def residual(activation: str) -> Graph:
    """A convolution summed with its input, which the runtime fuses into one kernel."""
    shape = (16, 16, 16)
    nodes = (
        Node("before", Conv(16), ("x",), "test"),
        Node("conv", Conv(16, activation="none"), ("before",), "test"),
        Node("sum", Add(activation), ("conv", "before"), "test"),
    )
    return Graph({"x": shape}, nodes, {"y": "sum"})


@pytest.fixture(scope="module")
def network_kernels(tiny_network: bytes, tmp_path_factory: pytest.TempPathFactory) -> list[Kernel]:
    return kernels_of(tiny_network, FREE, tmp_path_factory.mktemp("kernels"))


def test_control_flow_is_refused(tmp_path: Path):
    def branch(name: str, op: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, (2,))
        return helper.make_graph([helper.make_node(op, ["x"], [name])], name, [], [output])

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("a", "Relu"), else_branch=branch("b", "Neg"))
    inputs = {"c": (TensorProto.BOOL, ()), "x": (TensorProto.FLOAT, (2,))}
    with pytest.raises(InputError, match="control flow"):
        kernels_of(model_of([node], inputs, {"y": (TensorProto.FLOAT, (2,))}), FREE, tmp_path)


def test_a_dynamic_input_is_refused(tmp_path: Path):
    model = model_of(
        [helper.make_node("Relu", ["x"], ["y"])],
        {"x": (TensorProto.FLOAT, (1, "n"))},
        {"y": (TensorProto.FLOAT, (1, "n"))},
    )
    with pytest.raises(InputError, match="fix every dimension"):
        kernels_of(model, FREE, tmp_path)


def test_an_output_whose_size_depends_on_the_data_is_refused(tmp_path: Path):
    model = model_of(
        [helper.make_node("NonZero", ["x"], ["y"])],
        {"x": (TensorProto.FLOAT, (4,))},
        {"y": (TensorProto.INT64, (1, "n"))},
    )
    with pytest.raises(InputError, match="fix every dimension"):
        kernels_of(model, FREE, tmp_path)


_CUT = """
import sys
from pathlib import Path
import numpy as np
from latencykit.kernels import kernels_of
from latencykit.runtime import Setting
folder = Path(sys.argv[1])
kernels_of((folder / "m.onnx").read_bytes(), Setting(threads=1), folder)
print((np.array([1e-30], np.float32) * np.float32(1e-10))[0] > 0)
"""


def test_cutting_out_kernels_leaves_the_denormals_of_the_process_alone(tiny_network: bytes, tmp_path: Path):
    (tmp_path / "m.onnx").write_bytes(tiny_network)
    command = [sys.executable, "-c", _CUT, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "True"


def test_bytes_that_are_no_model_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="onnxruntime refuses"):
        kernels_of(b"not a model", FREE, tmp_path)


def test_there_is_one_kernel_for_each_node_of_the_optimised_graph(tiny_network: bytes, tmp_path: Path):
    kernels = kernels_of(tiny_network, FREE, tmp_path)
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    assert len(kernels) == len(nodes)
    assert [kernel.op for kernel in kernels] == [node.op_type for node in nodes]
    assert sum(Counter(kernels).values()) == len(nodes)
    assert kernels_in((tmp_path / "optimised.onnx").read_bytes()) == kernels


def test_every_kernel_of_a_network_runs_as_a_model_of_its_own(network_kernels: list[Kernel]):
    for kernel in set(network_kernels):
        with Session(kernel_model(kernel), AS_IS, ()) as session:
            outputs = list(session.run(session.random_inputs(0)).values())
        assert len(outputs) == kernel.outputs, kernel
        assert outputs[0].shape == kernel.output_shape, kernel
        assert all(np.isfinite(output).all() for output in outputs), kernel


def test_a_kernel_cut_out_again_from_its_own_model_is_the_same_kernel(network_kernels: list[Kernel]):
    for kernel in set(network_kernels):
        assert kernels_in(kernel_model(kernel)) == [kernel]


def test_the_tensors_of_neighbouring_kernels_fit(network_kernels: list[Kernel]):
    written = {kernel.output_shape for kernel in network_kernels}
    shapes = {source.shape for kernel in network_kernels for source in kernel.inputs if source.kind == "activation"}
    assert shapes <= written | {(1, 3, 32, 32)}


def test_the_same_network_has_the_same_kernels_again(tiny_network: bytes, network_kernels, tmp_path: Path):
    assert kernels_of(tiny_network, FREE, tmp_path) == network_kernels


def test_kernels_do_not_depend_on_the_number_of_threads(tiny_network: bytes, network_kernels, tmp_path: Path):
    assert kernels_of(tiny_network, Setting(threads=2, pinned=False), tmp_path) == network_kernels


def test_equal_nodes_have_equal_keys(tmp_path: Path):
    twice = chain([Conv(16), Conv(16), Conv(16)], [(16, 16, 16)])
    convolutions = [kernel for kernel in kernels_of(lowered(twice), FREE, tmp_path) if kernel.op == "Conv"]
    assert len(convolutions) == 3
    assert len(set(convolutions)) == 1


def test_the_values_of_weights_do_not_matter(tmp_path: Path):
    graph = chain([Conv(16), Conv(8, stride=2)], [(16, 16, 16)])
    assert kernels_of(lowered(graph, seed=1), FREE, tmp_path) == kernels_of(lowered(graph, seed=2), FREE, tmp_path)


def test_the_values_of_a_resize_s_scales_do_matter(tmp_path: Path):
    def resized(scale: float) -> list[Kernel]:
        scales = numpy_helper.from_array(np.array([1, 1, scale, scale], np.float32), "scales")
        node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode="linear")
        shapes = {"x": (TensorProto.FLOAT, (1, 2, 4, 4))}, {"y": (TensorProto.FLOAT, (1, 2, 8, 8))}
        return kernels_of(model_of([node], *shapes, [scales]), FREE, tmp_path)

    (two,), (nearly,) = resized(2.0), resized(2.05)
    assert two.output_shape == nearly.output_shape
    assert two != nearly
    assert two.inputs[1].kind == "none"
    assert two.inputs[2].value == (1, 1, 2, 2)


def test_whole_numbers_decide_how_much_work_there_is(tmp_path: Path):
    def reduced(axes: list[int], shape: tuple[int, ...]) -> Kernel:
        node = helper.make_node("ReduceSum", ["x", "axes"], ["y"])
        shapes = {"x": (TensorProto.FLOAT, (1, 4, 8, 8))}, {"y": (TensorProto.FLOAT, shape)}
        axes_tensor = numpy_helper.from_array(np.array(axes, np.int64), "axes")
        (kernel,) = kernels_of(model_of([node], *shapes, [axes_tensor]), FREE, tmp_path)
        return kernel

    pixels, rows = reduced([2, 3], (1, 4, 1, 1)), reduced([2], (1, 4, 1, 8))
    assert pixels.inputs[1].value == (2, 3)
    assert pixels != rows
    with Session(kernel_model(pixels), AS_IS, ()) as session:
        assert session.run(session.random_inputs(0))["output0"].shape == (1, 4, 1, 1)


def test_the_largest_whole_number_means_no_end_in_the_kernel_too(tmp_path: Path):
    names = "starts", "ends", "axes"
    ends = zip(names, ([1], [2**63 - 1], [2]), strict=True)
    constants = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in ends]
    shapes = {"x": (TensorProto.FLOAT, (1, 4, 8, 8))}, {"y": (TensorProto.FLOAT, (1, 4, 7, 8))}
    node = helper.make_node("Slice", ["x", *names], ["y"])
    (kernel,) = kernels_of(model_of([node], *shapes, constants), FREE, tmp_path)
    with Session(kernel_model(kernel), AS_IS, ()) as session:
        assert session.run(session.random_inputs(0))["output0"].shape == (1, 4, 7, 8)


def test_an_infinite_constant_survives_json(tmp_path: Path):
    constants = [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in (("low", 1), ("high", np.inf))]
    shapes = {"x": (TensorProto.FLOAT, (4,))}, {"y": (TensorProto.FLOAT, (4,))}
    node = helper.make_node("Clip", ["x", "low", "high"], ["y"])
    (kernel,) = kernels_of(model_of([node], *shapes, constants), FREE, tmp_path)
    assert kernel_from_json(json.loads(json.dumps(to_json(kernel), allow_nan=False)), "test") == kernel


def test_another_shape_is_another_kernel(tmp_path: Path):
    small, large = (kernels_of(lowered(chain([Resize(2)], [(2, n, n)])), FREE, tmp_path) for n in (4, 8))
    assert small != large


@pytest.mark.parametrize(("activation", "fused"), [("none", "sum"), ("relu", "sum+relu")])
def test_a_fused_sum_and_activation_are_seen(activation: str, fused: str, tmp_path: Path):
    kernels = kernels_of(lowered(residual(activation)), FREE, tmp_path)
    by_fusion = [kernel.fused for kernel in kernels if kernel.op in ("Conv", "FusedConv")]
    assert by_fusion == ["relu", fused]
    assert not {"Add", "Relu"} & {kernel.op for kernel in kernels}
    assert f"[{fused}]" in " ".join(map(str, kernels))


def test_a_fused_activation_makes_another_kernel(tmp_path: Path):
    relu, plain = (
        kernels_of(lowered(chain([Conv(16, activation=a)], [(16, 8, 8)])), FREE, tmp_path) for a in ("relu", "none")
    )
    assert set(relu) != set(plain)


def test_every_kernel_survives_json(network_kernels: list[Kernel]):
    for kernel in {*network_kernels, CALL_OVERHEAD}:
        data = json.loads(json.dumps(to_json(kernel), allow_nan=False))
        again = kernel_from_json(data, "test")
        assert again == kernel
        assert hash(again) == hash(kernel)


@pytest.mark.parametrize(
    "change",
    [
        {"op": 3},
        {"inputs": [{"kind": "weight", "shape": ["a"]}]},
        {"output_shape": None},
        {"attributes": [["a", {}]]},
        {"extra": 1},
        {"op": "Conv", "inputs": []},
        {"op": "MatMul", "inputs": [{"kind": "activation"}]},
    ],
)
def test_json_that_describes_no_kernel_is_bad_input(change):
    with pytest.raises(InputError):
        kernel_from_json({**to_json(relu_kernel(2)), **change}, "test")


def test_json_that_is_no_object_is_bad_input():
    for data in (None, [], "Relu", 3):
        with pytest.raises(InputError):
            kernel_from_json(data, "test")


def test_an_input_of_an_unknown_type_cannot_be_filled_in():
    kernel = Kernel("Identity", "", 16, (), (KernelInput("activation", "tensor(string)", (1,)),), 1, (1,))
    with pytest.raises(InputError, match=r"tensor\(string\)"):
        kernel_model(kernel)


def test_costs_of_a_convolution_count_its_padded_channels(tmp_path: Path):
    (kernel,) = (
        k for k in kernels_of(lowered(chain([Conv(16)], [(16, 8, 8)])), FREE, tmp_path) if k.op in ("Conv", "FusedConv")
    )
    assert kernel.macs == 16 * 16 * 9 * 64
    assert kernel.parameters == 16 * 16 * 9 + 16
    assert kernel.moved_bytes == 4 * (16 * 64 + kernel.parameters + 16 * 64)


def test_costs_of_a_fully_connected_layer(tmp_path: Path):
    kernels = kernels_of(lowered(chain([Linear(3)], [(5, 1, 1)])), FREE, tmp_path)
    assert sum(kernel.macs for kernel in kernels) == 15


def test_an_elementwise_kernel_has_no_macs():
    assert (relu_kernel(4).macs, relu_kernel(4).parameters) == (0, 0)
    assert relu_kernel(4).moved_bytes == 2 * 4 * 4 * 64


def test_a_convolution_over_one_axis_has_a_name(tmp_path: Path):
    weight = numpy_helper.from_array(np.ones((4, 2, 3), np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3])
    shapes = {"x": (TensorProto.FLOAT, (1, 2, 16))}, {"y": (TensorProto.FLOAT, (1, 4, 14))}
    (kernel,) = kernels_of(model_of([node], *shapes, [weight]), FREE, tmp_path)
    assert str(kernel).startswith("Conv 3 4 out 1x2x16")
    assert kernel.macs == 4 * 2 * 3 * 14


def test_a_kernel_says_what_it_is():
    image = KernelInput("activation", "tensor(float)", (1, 16, 8, 8))
    weight = KernelInput("weight", "tensor(float)", (16, 1, 3, 3))
    attributes = (("activation", "Relu"), ("dilations", (2, 2)), ("group", 16), ("strides", (2, 2)))
    kernel = Kernel("Conv", "com.microsoft.nchwc", 1, attributes, (image, weight), 1, (1, 16, 4, 4))
    assert str(kernel) == "nchwc Conv 3x3 16 out stride 2 dilation 2 16 groups 1x16x8x8 [relu]"
    assert kernel.attribute("group") == 16
    assert kernel.attribute("nothing") is None
