"""What a network's graph says of it before it is trained: which of many at the same latency are worth training.

Of 19 networks that trained for 27 epochs or more on CAMUS, at 1.4 to 3.9 ms, it ranks the Dice with a correlation of
0.96 (depth alone 0.87, MACs 0.5, parameters 0.4, activations 0.3); of five sets of 9 to 18 candidates of races, after 3
and 9 epochs, with 0.58 to 0.87; it was chosen by these networks. Of 28 that came after, 0.61 (`benchmarks/promise.py`;
LOG, 2026-11-27). It is for networks of one resolution: those of input stride 8 keep less than they promise.
"""

from __future__ import annotations

from latencykit.architecture import Network, network_graph
from latencykit.spec import Conv, ConvTranspose, element_count


def promise(network: Network) -> float:
    """Depth times the fourth root of parameters times MACs times activations, of what the mask depends on.

    Depth is how many convolutions over several pixels and all channels are on the longest way, not in groups and not
    1x1; activations are the elements that layers with weights give.
    """
    graph = network_graph(network)
    needed = {graph.outputs["mask"]}
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    depth = dict.fromkeys(graph.inputs, 1)
    parameters, macs, activations = 0, 0, 0
    for node in graph.nodes:
        if node.name in needed:
            operation = node.operation
            whole = isinstance(operation, Conv | ConvTranspose) and operation.kernel > 1 and operation.groups == 1
            depth[node.name] = max(depth[name] for name in node.inputs) + whole
            shapes = graph.input_shapes(node)
            if own := operation.macs(shapes):
                macs += own
                activations += element_count(graph.shapes[node.name])
            parameters += operation.parameters(shapes)
    return float(max(depth.values()) * (parameters * macs * activations) ** 0.25)
