"""The kernels that onnxruntime really runs: cut out of an optimised graph, and each again as a model of its own.

A kernel is a node of the graph after all optimisations: fused, in its real memory layout, reorders included. Kernels
depend on the instruction set (blocks of 8 or 16 channels), so they are cut out on the CPU that they are timed on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from latencykit.bounds import MAX_ELEMENTS, MAX_MODEL_BYTES, require_at_most, require_dims
from latencykit.errors import InputError
from latencykit.files import read_bytes
from latencykit.runtime import Setting, optimise, output_types
from latencykit.schema import decode, naming

Attribute = int | float | str | tuple[int | float | str, ...]

_VALUE_INPUTS = frozenset(
    {"Resize", "Reshape", "Slice", "Pad", "Clip", "Split", "Squeeze", "Unsqueeze", "Expand", "Tile"}
)
"""Operations whose constant inputs decide how much work there is, as do whole numbers (axes, counts, indices) of any
operation; elsewhere only a constant's shape counts."""
MAX_VALUE_ELEMENTS = 16
MAX_VALUE = 2.0**53
"""Up to here whole numbers are exact as floats; files write infinity or the largest integer for "no end"."""
MAX_FLOAT = float(np.finfo(np.float32).max)
MAX_PORTS = 1000
"""Inputs, and outputs, of a kernel."""
MAX_VERSION = 1000
MAX_TEXT = 1000
LARGE_CONSTANT = 4096
"""Elements; what shapes depend on, and scales and offsets of channels, are smaller."""
_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "ConvTranspose"})
_MATRIX_PRODUCTS = frozenset({"Gemm", "FusedGemm", "MatMul", "FusedMatMul"})


@dataclass(frozen=True)
class KernelInput:
    """One input of a kernel: absent ("none"), computed ("activation") or constant ("weight")."""

    kind: str
    type: str = ""
    shape: tuple[int, ...] = ()
    value: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ("none", "activation", "weight"):
            raise InputError(f"a kernel's input is {self.kind!r}; expected none, activation or weight.")
        _require_text("the type of a kernel's input", self.type)
        elements = require_dims("a kernel's input", self.shape, 0 if self.kind == "weight" else 1)
        if self.value and not (
            len(self.value) == elements <= MAX_VALUE_ELEMENTS and all(abs(v) <= MAX_VALUE for v in self.value)
        ):
            raise InputError(f"a kernel's input of {elements} elements has the values {self.value[:4]}... in its key.")

    def __str__(self) -> str:
        return "x".join(map(str, self.shape)) or "-"


@dataclass(frozen=True)
class Kernel:
    """What a kernel is keyed by: two nodes with equal keys are the same work.

    Attributes:
        op: operation name; domain: its ONNX domain ("" is the standard one); version: of its definition.
        attributes: in alphabetical order, fused activations included.
        inputs: in order; outputs: their number.
        output_shape: of the first output.
    """

    op: str
    domain: str
    version: int
    attributes: tuple[tuple[str, Attribute], ...]
    inputs: tuple[KernelInput, ...]
    outputs: int
    output_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        for what, text in (("name", self.op), ("domain", self.domain)):
            _require_text(f"the {what} of a kernel", text)
        for what, number, most in (
            ("version of a kernel", self.version, MAX_VERSION),
            ("number of a kernel's outputs", self.outputs, MAX_PORTS),
        ):
            require_at_most(f"the {what}", number, most)
            if number < 1:
                raise InputError(f"the {what} is {number}; expected at least 1.")
        require_at_most("the number of a kernel's inputs", len(self.inputs), MAX_PORTS)
        elements = require_dims("a kernel's output", self.output_shape) + sum(math.prod(i.shape) for i in self.inputs)
        require_at_most(f"the number of elements of a kernel {self.op}", elements, MAX_ELEMENTS)
        names = [name for name, _ in self.attributes]
        if names != sorted(set(names)):
            raise InputError(f"a kernel {self.op} has the attributes {names}; expected each once, in order.")
        for name, value in self.attributes:
            _require_attribute(name, value)
        if self.op in _CONVOLUTIONS and not all(len(i.shape) >= 3 for i in (*self.inputs, KernelInput("none"))[:2]):
            raise InputError(
                f"a kernel {self.op} has the inputs {self.inputs}; expected a tensor and its weights first."
            )
        if self.op in _MATRIX_PRODUCTS and not (self.inputs and self.inputs[0].shape):
            raise InputError(f"a kernel {self.op} has the inputs {self.inputs}; expected a matrix first.")

    def attribute(self, name: str) -> Attribute | None:
        """The value of an attribute, None where it is absent."""
        return dict(self.attributes).get(name)

    @property
    def fused(self) -> str:
        """What this kernel does beside its own operation: "relu", "sum", "sum+relu" or ""."""
        parts = []
        if self.op in _CONVOLUTIONS and len(self.inputs) == 4 and self.inputs[3].kind == "activation":
            parts.append("sum")
        if activation := self.attribute("activation"):
            parts.append(str(activation).lower())
        return "+".join(parts)

    def __str__(self) -> str:
        layout = "nchwc " if self.domain.endswith("nchwc") else ""
        shapes = [str(i) for i in self.inputs if i.kind == "activation"]
        facts = []
        if self.op in _CONVOLUTIONS:
            weight, groups = self.inputs[1].shape, self.attribute("group")
            facts = ["x".join(map(str, weight[2:])), f"{weight[0]} out"]
            for name, word in (("strides", "stride"), ("dilations", "dilation")):
                value = self.attribute(name)
                if isinstance(value, tuple) and any(isinstance(v, int) and v > 1 for v in value):
                    facts.append(f"{word} {value[0]}")
            if isinstance(groups, int) and groups > 1:
                facts.append(f"{groups} groups")
        return " ".join([layout + self.op, *facts, " + ".join(shapes), f"[{self.fused}]" if self.fused else ""]).strip()

    @property
    def macs(self) -> int:
        """Multiply-accumulates, padded channels of the blocked layout included."""
        if self.op in _CONVOLUTIONS:
            weight = self.inputs[1].shape
            spatial = self.inputs[0].shape if self.op == "ConvTranspose" else self.output_shape
            return math.prod(weight) * math.prod(spatial[2:])
        if self.op in _MATRIX_PRODUCTS:
            return math.prod(self.output_shape) * self.inputs[0].shape[-1]
        return 0

    @property
    def parameters(self) -> int:
        """Elements of constant inputs."""
        return sum(math.prod(i.shape) for i in self.inputs if i.kind == "weight")

    @property
    def weight_bytes(self) -> int:
        """Bytes of constant inputs, float32."""
        return 4 * self.parameters

    @property
    def in_groups(self) -> bool:
        """Whether this is a convolution of channels apart from one another, as a depthwise one is."""
        groups = self.attribute("group")
        return self.op in _CONVOLUTIONS and isinstance(groups, int) and groups > 1

    @property
    def tensor_bytes(self) -> int:
        """Bytes of computed tensors, read and written, without constants, float32."""
        read = sum(math.prod(i.shape) for i in self.inputs if i.kind == "activation")
        return 4 * (read + math.prod(self.output_shape))

    @property
    def moved_bytes(self) -> int:
        """Bytes read and written once each, float32."""
        return 4 * (sum(math.prod(i.shape) for i in self.inputs if i.kind != "none") + math.prod(self.output_shape))


def _require_text(what: str, text: str) -> None:
    if len(text) > MAX_TEXT or not text.isprintable():
        raise InputError(f"{what} is {text[:80]!r}; expected at most {MAX_TEXT} printable characters.")


def _require_attribute(name: str, value: Attribute) -> None:
    _require_text("the name of a kernel's attribute", name)
    for part in value if isinstance(value, tuple) else (value,):
        if isinstance(part, str):
            _require_text(f"a kernel's attribute {name}", part)
        elif isinstance(part, float) and not abs(part) <= MAX_FLOAT:
            raise InputError(f"a kernel's attribute {name} is {part}; expected a number that float32 holds.")
        elif isinstance(part, int) and not -(2**63) <= part < 2**63:
            raise InputError(f"a kernel's attribute {name} is no number of 64 bits.")


CALL_OVERHEAD = Kernel(
    "Identity", "", 16, (), (KernelInput("activation", "tensor(float)", (1, 1, 1, 1)),), 1, (1, 1, 1, 1)
)
"""The cheapest call there is: what a session costs before any work. Every figure contains it once."""


def kernels_of(model: bytes, setting: Setting, scratch: Path) -> list[Kernel]:
    """The kernels that onnxruntime runs for a model under a setting on this CPU, in order.

    A model from outside goes through `latencykit.outside`, which calls this in a limited process.

    Args:
        model: ONNX bytes.
        setting: decides the optimisations.
        scratch: a folder for the optimised file.

    Raises:
        InputError: the model is refused, or holds what cannot be cut out (control flow, dynamic shapes).
    """
    target = scratch / "optimised.onnx"
    optimise(model, setting, target)
    return kernels_in(read_bytes(target, 4 * MAX_MODEL_BYTES))


def kernels_in(optimised: bytes) -> list[Kernel]:
    """The kernels of a graph that onnxruntime has optimised already."""
    model = onnx.load_model_from_string(optimised)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    types = _tensor_types(model)
    versions = {opset.domain: opset.version for opset in model.opset_import}
    return [node_kernel(node, constants, types, versions) for node in model.graph.node]


def _tensor_types(model: onnx.ModelProto) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Every tensor's type and shape: all of them are made outputs, and onnxruntime infers them.

    Large constants become inputs there, whose values no shape depends on: they would be copied and read in vain.
    """
    known = {value.name for value in model.graph.output}
    probe = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = probe.graph
    graph.name = "probe"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    given = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) < LARGE_CONSTANT or tensor.name in given:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    graph.output.extend(
        onnx.ValueInfoProto(name=name)
        for node in model.graph.node
        for name in node.output
        if name and name not in known
    )
    inputs = {
        value.name: (
            f"tensor({_TYPE_NAMES.get(value.type.tensor_type.elem_type, 'unknown')})",
            tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim),
        )
        for value in model.graph.input
    }
    return inputs | output_types(probe.SerializeToString())


_TYPE_NAMES: Mapping[int, str] = {
    TensorProto.FLOAT: "float",
    TensorProto.DOUBLE: "double",
    TensorProto.FLOAT16: "float16",
    TensorProto.INT64: "int64",
    TensorProto.INT32: "int32",
    TensorProto.UINT8: "uint8",
    TensorProto.INT8: "int8",
    TensorProto.BOOL: "bool",
}
_TYPES_BY_NAME = {f"tensor({name})": code for code, name in _TYPE_NAMES.items()}


def node_kernel(
    node: onnx.NodeProto,
    constants: Mapping[str, onnx.TensorProto],
    types: Mapping[str, tuple[str, tuple[int, ...]]],
    versions: Mapping[str, int],
) -> Kernel:
    """The kernel of one node.

    Args:
        node: of an optimised graph.
        constants: the graph's constant tensors by name.
        types: type and shape of every computed tensor.
        versions: of the operations' definitions by domain.

    Raises:
        InputError: the node cannot be cut out.
    """
    inputs = []
    for name in node.input:
        if not name:
            inputs.append(KernelInput("none"))
        elif name in constants:
            inputs.append(constant_input(node, constants[name]))
        elif name in types:
            inputs.append(KernelInput("activation", types[name][0], _fixed_shape(node, types[name][1])))
        else:
            raise InputError(f"{node.op_type} {node.name!r} reads {name!r}, which is neither computed nor a tensor.")
    attributes: list[tuple[str, Attribute]] = []
    for attribute in sorted(node.attribute, key=lambda a: a.name):
        if attribute.type not in _PLAIN_ATTRIBUTES:
            raise InputError(f"{node.op_type} {node.name!r} holds a graph or tensor; control flow has no fixed cost.")
        value = helper.get_attribute_value(attribute)
        plain = isinstance(value, bytes | int | float)
        attributes.append((attribute.name, _plain_value(value) if plain else tuple(map(_plain_value, value))))
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = versions.get(domain, 1)
    if not domain:
        try:
            version = onnx.defs.get_schema(node.op_type, version, "").since_version
        except onnx.defs.SchemaError as error:
            raise InputError(f"{node.op_type} is no operation of ONNX {version}: {error}") from error
    written = next((name for name in node.output if name in types), None)
    if written is None:
        raise InputError(f"{node.op_type} {node.name!r} writes nothing that onnxruntime knows.")
    output_shape = _fixed_shape(node, types[written][1])
    return Kernel(node.op_type, domain, version, tuple(attributes), tuple(inputs), len(node.output), output_shape)


_PLAIN_ATTRIBUTES = frozenset(
    getattr(onnx.AttributeProto, name) for name in ("INT", "FLOAT", "STRING", "INTS", "FLOATS", "STRINGS")
)


def _plain_value(value: bytes | int | float) -> int | float | str:
    """An attribute's value as JSON has it: text, and numbers that are finite."""
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, float):
        return float(np.clip(np.nan_to_num(value), -MAX_FLOAT, MAX_FLOAT))
    return value


def _fixed_shape(node: onnx.NodeProto, shape: tuple[int, ...]) -> tuple[int, ...]:
    if not all(isinstance(size, int) and size > 0 for size in shape):
        raise InputError(
            f"{node.op_type} {node.name!r} reads or writes a tensor of shape {shape}; fix every dimension."
        )
    return shape


def constant_input(node: onnx.NodeProto, tensor: onnx.TensorProto) -> KernelInput:
    """A constant input of a node; with its value where that decides how much work there is."""
    value: tuple[float, ...] = ()
    counts = node.op_type in _VALUE_INPUTS or tensor.data_type == TensorProto.INT64
    if counts and math.prod(tensor.dims) <= MAX_VALUE_ELEMENTS:
        array = np.nan_to_num(numpy_helper.to_array(tensor).ravel().astype(np.float64))
        value = tuple(np.clip(array, -MAX_VALUE, MAX_VALUE).tolist())
    name = _TYPE_NAMES.get(tensor.data_type, "unknown")
    return KernelInput("weight", f"tensor({name})", tuple(tensor.dims), value)


_VARIANCE = 4
"""Input of a BatchNormalization whose root is taken."""


def kernel_model(kernel: Kernel, seed: int = 0) -> bytes:
    """A model of this kernel alone, with random constants; run it with optimisation "none", as it stands.

    Raises:
        InputError: an input of a type that is not known, or an attribute of mixed types.
    """
    rng = np.random.default_rng(seed)
    names, values, constants = [], [], []
    for index, source in enumerate(kernel.inputs):
        names.append("" if source.kind == "none" else f"input{index}")
        if source.kind == "none":
            continue
        code = _TYPES_BY_NAME.get(source.type)
        if code is None:
            raise InputError(f"{kernel}: input {index} has the type {source.type!r}, which cannot be filled in.")
        if source.kind == "activation":
            values.append(helper.make_tensor_value_info(names[-1], code, source.shape))
            continue
        array = np.array(source.value) if source.value else rng.standard_normal(source.shape) / _fan_in(kernel)
        if kernel.op == "BatchNormalization" and index == _VARIANCE:
            array = 1 + np.abs(array)
        dtype = helper.tensor_dtype_to_np_dtype(code)
        constants.append(numpy_helper.from_array(array.reshape(source.shape).astype(dtype), names[-1]))
    outputs = [f"output{index}" for index in range(kernel.outputs)]
    node = helper.make_node(kernel.op, names, outputs, domain=kernel.domain)
    for name, value in kernel.attributes:
        kind = onnx.AttributeProto.INTS if value == () else None  # an empty list does not tell of what
        try:
            node.attribute.append(helper.make_attribute(name, value, attr_type=kind))
        except (TypeError, ValueError) as error:
            raise InputError(f"{kernel}: its attribute {name} has no ONNX form: {error}") from error
    graph = helper.make_graph([node], "kernel", values, [onnx.ValueInfoProto(name=o) for o in outputs], constants)
    standard = kernel.version if not kernel.domain else 17
    opsets = [helper.make_opsetid("", standard)]
    if kernel.domain:
        opsets.append(helper.make_opsetid(kernel.domain, kernel.version))
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def kernel_from_json(data: Any, where: str) -> Kernel:
    """The kernel that JSON data describes (`latencykit.schema.to_json` writes it); raises `InputError`."""
    file = decode(_KernelFile, data, where)
    attributes = tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in file.attributes)
    with naming(where):
        return Kernel(file.op, file.domain, file.version, attributes, file.inputs, file.outputs, file.output_shape)


@dataclass(frozen=True)
class _KernelFile:
    op: str
    domain: str
    version: int
    attributes: tuple[tuple[str, int | float | str | list[int | float | str]], ...]
    inputs: tuple[KernelInput, ...]
    outputs: int
    output_shape: tuple[int, ...]


def _fan_in(kernel: Kernel) -> float:
    weight = next((i.shape for i in kernel.inputs if i.kind == "weight" and len(i.shape) == 4), (1, 1))
    return math.sqrt(math.prod(weight[1:]))
