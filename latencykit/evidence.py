"""Graphs as a target's runtime optimised them, without their weights: evidence of the kernels that were cut out there.

The host that reads them need not be able to run them: what a node says of itself is compared, not what follows from it.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from latencykit.errors import InputError
from latencykit.kernels import Kernel, KernelInput, constant_input, node_kernel

_COMPUTED = (1, 1, 1, 1)
"""Stands for the shape of every computed tensor, which a file does not tell."""
_SPARSE_FROM = 64
"""Elements from which a tensor of zeros is written as a sparse one without entries."""


def evidence(optimised: bytes) -> bytes:
    """An optimised graph with zeros for weights; constants that say how much work there is stay."""
    model = onnx.load_model_from_string(optimised)
    graph = model.graph
    del model.metadata_props[:]
    constants = {tensor.name: tensor for tensor in graph.initializer}
    telling = {
        name
        for node in graph.node
        for name in node.input
        if name in constants and constant_input(node, constants[name]).value
    }
    del graph.initializer[:]
    for name, tensor in constants.items():
        if name in telling:
            graph.initializer.append(tensor)
        elif math.prod(tensor.dims) < _SPARSE_FROM:
            zeros = np.zeros(tuple(tensor.dims), helper.tensor_dtype_to_np_dtype(tensor.data_type))
            graph.initializer.append(numpy_helper.from_array(zeros, name))
        else:
            values = TensorProto(name=name, data_type=tensor.data_type, dims=[0])
            indices = TensorProto(data_type=TensorProto.INT64, dims=[0])
            graph.sparse_initializer.add(values=values, indices=indices, dims=tensor.dims)
    return bytes(model.SerializeToString())


def outline(kernel: Kernel) -> Kernel:
    """What evidence tells of a kernel: all but the computed tensors' types and shapes."""
    inputs = (KernelInput("activation", "", _COMPUTED) if i.kind == "activation" else i for i in kernel.inputs)
    return replace(kernel, inputs=tuple(inputs), output_shape=_COMPUTED)


def outlines_in(model: onnx.ModelProto) -> list[Kernel]:
    """The outlines of the kernels of some evidence that `latencykit.rules` admits.

    Raises:
        InputError: a node that is no kernel.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for sparse in graph.sparse_initializer:
        values = sparse.values
        constants[values.name] = TensorProto(name=values.name, data_type=values.data_type, dims=sparse.dims)
    computed = {name for node in graph.node for name in node.output if name} | {value.name for value in graph.input}
    types = dict.fromkeys(computed - constants.keys(), ("", _COMPUTED))
    versions = {opset.domain: opset.version for opset in model.opset_import}
    try:
        return [outline(node_kernel(node, constants, types, versions)) for node in graph.node]
    except (TypeError, ValueError) as error:  # constants that nothing has checked
        raise InputError(f"a constant of it is damaged: {error}") from error
