import math
from dataclasses import replace

import pytest

from latencykit.architecture import network_graph
from latencykit.baselines import Baseline
from nas.promise import promise

PAIR = Baseline(width=4, depth=2, stride=1, quality_width=4, image_size=32)


def test_it_is_depth_times_the_fourth_root_of_parameters_macs_and_activations_of_the_segmentation():
    """Two convolutions a level, down, at the bottom and up, and two transposed ones; one more for the start."""
    graph = network_graph(PAIR)
    segmentation = [node for node in graph.nodes if node.name.startswith(("unet", "logits"))]
    parameters = sum(node.operation.parameters(graph.input_shapes(node)) for node in segmentation)
    parameters += 6  # scale and shift of three channels
    macs = [node.operation.macs(graph.input_shapes(node)) for node in segmentation]
    activations = sum(math.prod(graph.shapes[node.name]) for node, own in zip(segmentation, macs, strict=True) if own)
    depth = 2 * 2 + 2 + 2 * 2 + 2 + 1
    assert promise(PAIR) == pytest.approx(depth * (parameters * sum(macs) * activations) ** 0.25)


def test_the_quality_network_does_not_count():
    assert promise(replace(PAIR, quality_width=16)) == promise(PAIR)
