"""The deployed file against torch, through the runtime that ships."""

import numpy as np
import onnxruntime
import pytest
import torch

from latencykit import spec
from latencykit.architecture import network_graph
from latencykit.baselines import Baseline
from latencykit.graph import chain
from latencykit.macro import Macro
from latencykit.sample import sample_architectures
from nas.export import export, folded_weights
from nas.modules import OUTPUTS, GraphModule

TOLERANCE = 1e-4
SEARCHED = sample_architectures(Macro(segmentation_stride=2, quality_stride=4), 1, seed=5)[0]
NETWORKS = {
    "searched": SEARCHED,
    "node activation": sample_architectures(
        Macro(segmentation_stride=4, quality_stride=2, activation_place="node", head="depth_to_space"), 1, seed=2
    )[0],
    "least confidence": sample_architectures(
        Macro(segmentation_stride=4, quality_stride=4, uncertainty="least_confidence", head="transposed_conv"), 1, 3
    )[0],
    "half logits": sample_architectures(Macro(segmentation_stride=2, quality_stride=2, output_stride=2), 1, seed=4)[0],
    "baseline": Baseline(width=4, depth=3, stride=4, quality_width=4),
    "baseline, full resolution": Baseline(width=4, depth=2, quality_width=4),
}


def lived(graph, images=None):
    """A module whose batch statistics and affine parameters are not the initial ones."""
    generator = torch.Generator().manual_seed(0)
    module = GraphModule(graph, generator)
    module.set_statistics(((0.2, 0.3, 0.4), (0.2, 0.25, 0.3)))
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight, 0.5, 1.5, generator=generator)
            torch.nn.init.uniform_(part.bias, -0.5, 0.5, generator=generator)
        if isinstance(part, torch.nn.Conv2d | torch.nn.ConvTranspose2d) and part.bias is not None:
            torch.nn.init.uniform_(part.bias, -0.5, 0.5, generator=generator)
    if images is not None:
        with torch.no_grad():
            for _ in range(20):
                module.train()(images)
    return module.eval()


def run(path, inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_says_what_torch_says_on_real_frames(tmp_path, real_images, name):
    module = lived(network_graph(NETWORKS[name]), torch.from_numpy(real_images))
    export(module, tmp_path / "model.onnx")
    for image in real_images:
        with torch.no_grad():
            expected = module(torch.from_numpy(image[None]))
        found = run(tmp_path / "model.onnx", {"image": image[None]})
        assert set(found) == set(OUTPUTS)
        for output in OUTPUTS:
            assert found[output].shape == tuple(expected[output].shape)
            assert np.abs(found[output] - expected[output].numpy()).max() <= TOLERANCE, output
    assert found["mask"].std() > 0.01  # a constant map would agree with anything


@pytest.mark.parametrize(
    "operation",
    [
        spec.ConvTranspose(6, groups=3, bias=True),
        spec.ConvTranspose(6, groups=6, dilation=2),
        spec.Conv(6, groups=3, bias=True, activation="none"),
        spec.Conv(6, norm=False, stride=2),
    ],
    ids=str,
)
def test_folding_respects_groups_bias_and_transposition(tmp_path, operation):
    graph = chain((operation,), ((6, 8, 8),))
    module = lived_chain(graph)
    export(module, tmp_path / "chain.onnx")
    x = torch.randn(1, 6, 8, 8, generator=torch.Generator().manual_seed(1))
    found = run(tmp_path / "chain.onnx", {"input0": x.numpy()})["output"]
    expected = module(x, ("output",))["output"].detach().numpy()
    assert np.abs(found - expected).max() <= 1e-5
    assert np.abs(expected).max() > 0.1


def lived_chain(graph):
    module = lived(graph)
    generator = torch.Generator().manual_seed(2)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.uniform_(-1, 1, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
    return module


def test_every_deployed_weight_is_there_and_no_other():
    graph = network_graph(SEARCHED)
    weights = folded_weights(GraphModule(graph, torch.Generator()))
    expected = {
        f"{node.name}.{name}": shape
        for node in graph.nodes
        for name, shape in node.operation.weight_shapes(graph.input_shapes(node)).items()
    }
    assert {name: values.shape for name, values in weights.items()} == expected
    assert all(values.dtype == np.float32 for values in weights.values())
