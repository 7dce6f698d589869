"""The paper's way of counting operations, for the one column of Table II that shows it; everything else uses true MACs.

The paper's figures are those of the counting tool `thop` before 2020, with two logits per pixel (decisions, "Table II's
FLOPs"): a transposed convolution is counted at its output, batch normalisation at four operations an element, pooling,
resizing, sums and activations at nothing.
"""

from __future__ import annotations

from latencykit.errors import InputError
from latencykit.graph import Graph, Node
from latencykit.spec import OPERATIONS, Conv, ConvTranspose, Linear, element_count

NORM_OPERATIONS = 4  # subtract, divide, multiply, add
PAPER_CLASSES = 2  # the paper's networks give a logit per class, ours one for both (decision 16)
CLASS_HEAD_ROLE = "head"


def paper_flops(graph: Graph) -> int:
    """Operations of one frame as the paper counts them; a mixture of multiply-accumulates and additions.

    A convolution: output elements x (k² x input channels / groups + 1 for a bias), and 4 per output element where batch
    normalisation follows. A transposed convolution: the same, at its output elements, which is stride² times its true
    multiply-accumulates. A fully connected layer: inputs x outputs. The convolution that gives the logits counts twice.

    Raises:
        InputError: an operation that is not known, such as a choice that was never made.
    """
    return sum(_operation_flops(graph, node) for node in graph.nodes)


def _operation_flops(graph: Graph, node: Node) -> int:
    operation, (channels, *_) = node.operation, graph.input_shapes(node)[0]
    match operation:
        case Conv() | ConvTranspose():
            taps = operation.kernel**2 * channels // operation.groups
            per_element = taps + operation.bias + (NORM_OPERATIONS if operation.norm else 0)
            classes = PAPER_CLASSES if node.role == CLASS_HEAD_ROLE else 1
            return element_count(graph.shapes[node.name]) * per_element * classes
        case Linear():
            return channels * operation.out_features
    if type(operation).__name__ not in OPERATIONS:
        raise InputError(
            f"paper_flops: no count for {node.name!r}, a {type(operation).__name__}; choose its operation first."
        )
    return 0
