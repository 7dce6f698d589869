"""The instruction sets that the runtime really uses, read off its blocked layout: what a CPU has is not what it runs.

A build of onnxruntime, a hypervisor or a tool may hide AVX-512 from it; then it runs the kernels of an AVX2 machine,
and a table of them is an AVX2 table. Imports numpy, onnx and onnxruntime only, so that it runs on a bare target.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from latencykit.host import CpuFacts, read_cpu
from latencykit.runtime import Setting, optimise

_WIDER_THAN_AVX2 = ("avx512", "amx")
_AVX2_BLOCK = 8


@cache
def block_channels() -> int:
    """Channels of a block in the runtime's layout on this CPU: 8 with SSE to AVX2, 16 with AVX-512; 1: it has none.

    Read from a convolution to one channel that the runtime has optimised: its weights are padded to a block.
    """
    image, mask = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 1, 8, 8)) for name in ("image", "mask"))
    weight = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "weight")
    node = helper.make_node("Conv", ["image", "weight"], ["mask"], pads=[1] * 4)
    graph = helper.make_graph([node], "block", [image], [mask], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "optimised.onnx"
        optimise(model.SerializeToString(), Setting(1, pinned=False), target)
        optimised = onnx.load_model_from_string(target.read_bytes())
    return int(max(tensor.dims[0] for tensor in optimised.graph.initializer))


def as_used(facts: CpuFacts) -> CpuFacts:
    """A CPU's facts without what the runtime leaves unused: nothing beyond AVX2 where its blocks are 8."""
    if block_channels() != _AVX2_BLOCK:
        return facts
    return replace(facts, isa=tuple(name for name in facts.isa if not name.startswith(_WIDER_THAN_AVX2)))


def used_cpu() -> CpuFacts:
    """This CPU as the runtime uses it: what a table's facts are compared with."""
    return as_used(read_cpu())
