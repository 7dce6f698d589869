"""Small network pairs, and their outputs from onnxruntime."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray

from latencykit.graph import Graph
from latencykit.lowering import graph_to_onnx
from latencykit.macro import Macro
from latencykit.runtime import Session, Setting

SMALL = Macro(image_size=32, segmentation_widths=(2, 3, 4), quality_widths=(2, 3, 4))

MACROS = {
    "small": SMALL,
    "smallest quality network": replace(SMALL, quality_widths=(1, 1)),
    "one node a cell": replace(SMALL, cell_nodes=1),
    "four nodes a cell": replace(SMALL, cell_nodes=4),
    "strided, resized": replace(SMALL, segmentation_stride=2, quality_stride=2),
    "strided, depth to space": replace(SMALL, segmentation_stride=2, quality_stride=2, head="depth_to_space"),
    "strided, transposed": replace(SMALL, segmentation_stride=2, quality_stride=2, head="transposed_conv"),
    "output stride": replace(SMALL, output_stride=2),
    "output stride, depth to space": replace(SMALL, output_stride=2, head="depth_to_space"),
    "quality network coarser": replace(SMALL, quality_stride=4),
    "quality network finer": replace(SMALL, segmentation_stride=4),
    "quality network finer, transposed": replace(SMALL, segmentation_stride=4, head="transposed_conv"),
    "quality network between": replace(SMALL, segmentation_stride=2, output_stride=2, quality_stride=2),
    "activation after the node": replace(SMALL, activation_place="node"),
    "least confidence": replace(SMALL, uncertainty="least_confidence"),
    "least confidence, resized": replace(SMALL, uncertainty="least_confidence", segmentation_stride=2),
}
"""One for every option, and for options that meet."""


def run(model: onnx.ModelProto, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Outputs of a model by name."""
    with Session(model.SerializeToString(), Setting(threads=1, pinned=False), ()) as session:
        return session.run(inputs)


def random_inputs(graph: Graph, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Pixels in [0, 1) for every input."""
    rng = np.random.default_rng(seed)
    return {name: rng.random((1, *shape), np.float32) for name, shape in graph.inputs.items()}


def activations(graph: Graph, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """What every node of a graph gives, with random weights."""
    opened = replace(graph, outputs={node.name: node.name for node in graph.nodes})
    return run(graph_to_onnx(opened, seed=seed), random_inputs(graph, seed))
