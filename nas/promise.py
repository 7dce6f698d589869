"""What a network's graph says of it before it is trained: which of many at the same latency are worth training.

On CAMUS (36 networks of two targets after 3 epochs, 15 others after 27 and more) parameters and depth of the
segmentation rank networks as their Dice does, rank correlations 0.77, 0.95 and 0.88; MACs hardly do, 0.16, 0.24 and
0.51 (LOG, 2026-11-27). That parameters alone tell much is known of other spaces (White et al., "A deeper look at
zero-cost proxies for lightweight NAS", ICLR blog track 2022).
"""

from __future__ import annotations

from latencykit.architecture import Network, network_graph


def promise(network: Network) -> float:
    """Parameters times depth squared, of what the mask depends on; depth counts convolutions on the longest way."""
    graph = network_graph(network)
    needed = {graph.outputs["mask"]}
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    depth, parameters = dict.fromkeys(graph.inputs, 0), 0
    for node in graph.nodes:
        if node.name in needed:
            shapes = graph.input_shapes(node)
            depth[node.name] = max(depth[name] for name in node.inputs) + (node.operation.macs(shapes) > 0)
            parameters += node.operation.parameters(shapes)
    return float(parameters * max(depth.values()) ** 2)
