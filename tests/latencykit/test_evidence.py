"""Optimised graphs without their weights still tell which kernels they hold."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from latencykit.errors import InputError
from latencykit.evidence import evidence, outline, outlines_in
from latencykit.kernels import Kernel, kernels_in
from latencykit.lowering import graph_to_onnx
from latencykit.outside import outside_outlines
from latencykit.rules import admit
from latencykit.runtime import Setting, optimise
from latencykit.sample import sample_architectures
from latencykit.space import instantiate
from tests.latencykit.hostile import REFUSED, one_node
from tests.latencykit.made_up import TINY

FREE = Setting(threads=1, pinned=False)


def optimised(model: bytes, folder: Path) -> bytes:
    optimise(model, FREE, folder / "optimised.onnx")
    return (folder / "optimised.onnx").read_bytes()


@pytest.fixture(scope="module")
def graph(tiny_network: bytes, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return optimised(tiny_network, tmp_path_factory.mktemp("graph"))


def outlines_of(kernels: list[Kernel]) -> Counter[Kernel]:
    return Counter(map(outline, kernels))


def test_evidence_tells_the_operations_attributes_and_constants_of_every_node(graph: bytes):
    kernels = kernels_in(graph)
    seen = outlines_in(admit(evidence(graph)))
    assert seen == [outline(kernel) for kernel in kernels]
    assert len(set(seen)) > 10
    assert any(i.value for kernel in seen for i in kernel.inputs)


def test_evidence_is_small_and_holds_no_weight(graph: bytes):
    small = evidence(graph)
    assert len(small) < len(graph)
    model = onnx.load_model_from_string(small)
    telling = {i.value for kernel in kernels_in(graph) for i in kernel.inputs if i.value}
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        assert not array.any() or tuple(array.ravel().astype(float)) in telling
    assert len(model.graph.sparse_initializer) > 5
    assert not model.metadata_props


def test_large_weights_take_no_room(tmp_path: Path):
    weight = numpy_helper.from_array(np.ones((512, 512), np.float32), "w")
    model = one_node(helper.make_node("MatMul", ["x", "w"], ["y"]), {"x": (1, 512)}, (weight,), (1, 512))
    graph = optimised(model, tmp_path)
    assert len(graph) > 1 << 20
    assert len(evidence(graph)) < 1000
    assert outlines_in(admit(evidence(graph))) == [outline(kernel) for kernel in kernels_in(graph)]


def test_a_constant_that_says_how_much_work_there_is_stays(tmp_path: Path):
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "s")
    node = helper.make_node("Resize", ["x", "", "s"], ["y"], mode="linear")
    model = one_node(node, {"x": (1, 2, 4, 4)}, (scales,), (1, 2, 8, 8))
    (kernel,) = outlines_in(admit(evidence(optimised(model, tmp_path))))
    assert [i.kind for i in kernel.inputs] == ["activation", "none", "weight"]
    assert kernel.inputs[2].value == (1, 1, 2, 2)


def test_other_networks_have_other_outlines(tmp_path: Path):
    one, other = (
        optimised(graph_to_onnx(instantiate(a)).SerializeToString(), tmp_path) for a in sample_architectures(TINY, 2, 5)
    )
    assert Counter(outlines_in(admit(evidence(one)))) != Counter(outlines_in(admit(evidence(other))))


def test_many_graphs_are_opened_in_limited_processes(graph: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("latencykit.outside.OUTLINED_AT_ONCE", 2)
    small = evidence(graph)
    found = outside_outlines({"a": small, "b": small, "c": small}, "result.zip")
    assert found == dict.fromkeys("abc", outlines_of(kernels_in(graph)))
    assert outside_outlines({}, "result.zip") == {}


@pytest.mark.parametrize(
    "name", ["garbage", "external, above", "an unknown domain", "very deep branches", "a function"]
)
def test_a_hostile_graph_among_others_is_refused_and_named(graph: bytes, name: str):
    data, why = REFUSED[name]
    with pytest.raises(InputError, match=f"result.zip: b: .*{why}"):
        outside_outlines({"a": evidence(graph), "b": data}, "result.zip")


def test_a_graph_need_not_be_one_that_this_cpu_runs(tmp_path: Path):
    """Blocks of other sizes, and shapes that do not fit: it is looked at, not run."""
    weight = numpy_helper.from_array(np.ones((64, 8, 3, 3), np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], domain="com.microsoft.nchwc", kernel_shape=[3, 3])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 64, 4, 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 64, 4, 4))],
        [weight],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft.nchwc", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    found = outside_outlines({"a": evidence(model)}, "result.zip")["a"]
    (kernel,) = found
    assert (kernel.op, kernel.domain, kernel.inputs[1].shape) == ("Conv", "com.microsoft.nchwc", (64, 8, 3, 3))


def test_a_damaged_constant_is_bad_input():
    tensor = TensorProto(name="s", data_type=TensorProto.STRING, dims=[1], string_data=[b"x"])
    node = helper.make_node("Resize", ["x", "", "s"], ["y"])
    model = one_node(node, {"x": (1, 2, 4, 4)}, (tensor,), (1, 2, 8, 8))
    with pytest.raises(InputError, match="damaged"):
        outlines_in(onnx.load_model_from_string(model))
