"""From trained torch modules to the one deployed ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from latencykit.files import write_bytes
from latencykit.lowering import graph_to_onnx
from nas.modules import GraphModule
from nas.operations import ConvNorm, Linear, Normalise

Array = npt.NDArray[np.float32]


def export(module: GraphModule, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a pair as ONNX, wholly or not at all: normalisation, upsampling and all three outputs inside.

    Args:
        module: the trained pair.
        path: the file.
        metadata: facts that its graph shall carry.
    """
    graph = replace(module.graph, metadata={**module.graph.metadata, **(metadata or {})})
    write_bytes(path, graph_to_onnx(graph, folded_weights(module)).SerializeToString())


def folded_weights(module: GraphModule) -> dict[str, Array]:
    """The deployed weights, `<node>.<weight>`, with batch normalisation folded into the convolution before it."""
    weights: dict[str, Array] = {}
    for node in module.graph.nodes:
        match module.operations[node.name]:
            case ConvNorm() as conv:
                parts = _folded(conv)
            case Linear() as linear:
                parts = {"weight": _double(linear.linear.weight), "bias": _double(linear.linear.bias)}
            case Normalise() as normalise:
                parts = {"scale": _double(normalise.scale), "shift": _double(normalise.shift)}
            case _:
                parts = {}
        weights |= {f"{node.name}.{name}": values.astype(np.float32) for name, values in parts.items()}
    return weights


def _double(tensor: Tensor) -> npt.NDArray[np.float64]:
    return tensor.detach().cpu().double().numpy()


def _folded(module: ConvNorm) -> dict[str, npt.NDArray[np.float64]]:
    """Weight and bias in float64: w s and (b - mean) s + beta, where s = gamma / sqrt(var + eps)."""
    conv, norm = module.conv, module.norm
    weight, bias = _double(conv.weight), None if conv.bias is None else _double(conv.bias)
    if norm is None:
        return {"weight": weight} | ({} if bias is None else {"bias": bias})
    scale = 1 / np.sqrt(_double(norm.running_var) + norm.eps)
    shift = ((0 if bias is None else bias) - _double(norm.running_mean)) * scale
    if norm.affine:
        gamma, beta = _double(norm.weight), _double(norm.bias)
        scale, shift = scale * gamma, shift * gamma + beta
    if isinstance(conv, nn.ConvTranspose2d):  # (in, out / groups, k, k): output channels count up group by group
        grouped = weight.reshape(conv.groups, -1, *weight.shape[1:])
        return {"weight": (grouped * scale.reshape(conv.groups, 1, -1, 1, 1)).reshape(weight.shape), "bias": shift}
    return {"weight": weight * scale[:, None, None, None], "bias": shift}
