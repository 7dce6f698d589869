import math
from dataclasses import replace

import pytest

from latencykit.architecture import network_graph
from latencykit.baselines import Baseline
from nas.promise import promise

PAIR = Baseline(width=4, depth=2, stride=1, quality_width=4, image_size=32)


def test_it_is_depth_squared_times_the_root_of_parameters_and_macs_of_the_segmentation():
    """Two convolutions a level on the way down, at the bottom and up, two transposed ones, and the one to the logit."""
    graph = network_graph(PAIR)
    segmentation = [node for node in graph.nodes if node.name.startswith(("unet", "logits"))]
    parameters = sum(node.operation.parameters(graph.input_shapes(node)) for node in segmentation)
    parameters += 6  # scale and shift of three channels
    macs = sum(node.operation.macs(graph.input_shapes(node)) for node in segmentation)
    assert promise(PAIR) == pytest.approx((2 * 2 + 2 + 2 * 2 + 2 + 1) ** 2 * math.sqrt(parameters * macs))


def test_the_quality_network_does_not_count():
    assert promise(replace(PAIR, quality_width=16)) == promise(PAIR)
