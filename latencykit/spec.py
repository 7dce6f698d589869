"""One operation at one shape: what it does, what it costs in MACs, parameters and bytes.

A shape is ``(channels, height, width)``; the batch is always 1, since a scanner shows one frame at a time.
Tensors are float32. Operations are immutable values, so two equal ones are one row of a latency table.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal

from latencykit.bounds import MAX_SIZE, require_at_most
from latencykit.errors import InputError
from latencykit.schema import decode

Shape = tuple[int, int, int]
"""Channels, height, width."""

Activation = Literal["none", "relu"]
BYTES_PER_ELEMENT = 4


def element_count(shape: tuple[int, ...]) -> int:
    """Number of elements of a tensor of this shape."""
    return math.prod(shape)


@dataclass(frozen=True)
class Operation(ABC):
    """Base of all operations. Subclasses are final."""

    arity: ClassVar[int | None] = 1
    """Number of inputs; None means two or more (a sum or concatenation)."""

    @abstractmethod
    def output_shape(self, inputs: tuple[Shape, ...]) -> Shape:
        """Shape of the output; raises `InputError` where the inputs do not fit."""

    def weight_shapes(self, inputs: tuple[Shape, ...]) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the deployed weights by name, batch normalisation folded away."""
        return {}

    def macs(self, inputs: tuple[Shape, ...]) -> int:
        """True multiply-accumulates; only convolutions and fully connected layers have any."""
        return 0

    def parameters(self, inputs: tuple[Shape, ...]) -> int:
        """Number of deployed parameters."""
        return sum(element_count(shape) for shape in self.weight_shapes(inputs).values())

    def moved_bytes(self, inputs: tuple[Shape, ...]) -> int:
        """Bytes read and written once each: inputs, weights and output."""
        elements = sum(map(element_count, inputs)) + element_count(self.output_shape(inputs)) + self.parameters(inputs)
        return elements * BYTES_PER_ELEMENT

    def __str__(self) -> str:
        shown = ", ".join(
            f"{f.name}={getattr(self, f.name)}" for f in fields(self) if getattr(self, f.name) != f.default
        )
        return f"{type(self).__name__}({shown})"


def _positive(operation: Operation, *names: str) -> None:
    for name in names:
        value = getattr(operation, name)
        if value < 1:
            raise InputError(f"{type(operation).__name__}.{name} is {value}; expected at least 1.")
        require_at_most(f"{type(operation).__name__}.{name}", value, MAX_SIZE)


def _divisible(operation: Operation, what: str, value: int, divisor: int) -> None:
    if value % divisor:
        raise InputError(f"{type(operation).__name__}: {what} (={value}) must be divisible by {divisor}.")


@dataclass(frozen=True)
class Conv(Operation):
    """A convolution with "same" padding, optionally with batch normalisation (folded when deployed) and ReLU."""

    out_channels: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    norm: bool = True
    bias: bool = False
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        _positive(self, "out_channels", "kernel", "stride", "dilation", "groups")
        if self.kernel % 2 == 0:
            raise InputError(f"Conv.kernel is {self.kernel}; expected an odd number, so that the padding is symmetric.")
        _divisible(self, "out_channels", self.out_channels, self.groups)

    @property
    def padding(self) -> int:
        """Zeros added on each side, pixels."""
        return self.dilation * (self.kernel - 1) // 2

    def output_shape(self, inputs: tuple[Shape, ...]) -> Shape:
        channels, height, width = inputs[0]
        _divisible(self, "input channels", channels, self.groups)
        reach = 2 * self.padding - self.dilation * (self.kernel - 1) - 1
        return self.out_channels, (height + reach) // self.stride + 1, (width + reach) // self.stride + 1

    def weight_shapes(self, inputs: tuple[Shape, ...]) -> Mapping[str, tuple[int, ...]]:
        weight = (self.out_channels, inputs[0][0] // self.groups, self.kernel, self.kernel)
        return {"weight": weight} | ({"bias": (self.out_channels,)} if self.bias or self.norm else {})

    def macs(self, inputs: tuple[Shape, ...]) -> int:
        return element_count(self.output_shape(inputs)) * inputs[0][0] // self.groups * self.kernel**2


@dataclass(frozen=True)
class ConvTranspose(Operation):
    """A transposed convolution whose output is exactly `stride` times as large (decision 11)."""

    out_channels: int
    kernel: int = 3
    stride: int = 2
    dilation: int = 1
    groups: int = 1
    norm: bool = True
    bias: bool = False
    activation: Activation = "relu"

    def __post_init__(self) -> None:
        _positive(self, "out_channels", "kernel", "stride", "dilation", "groups")
        _divisible(self, "out_channels", self.out_channels, self.groups)
        if self.reach < self.stride:
            raise InputError(
                f"ConvTranspose: a kernel reaching {self.reach} pixels leaves holes at stride {self.stride}."
            )
        if self.output_padding >= self.stride:  # runtimes refuse it
            raise InputError(f"ConvTranspose: a kernel reaching {self.reach} pixels needs a stride of 2 or more.")

    @property
    def reach(self) -> int:
        """Pixels from the kernel's first to its last tap, dilation included."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def output_padding(self) -> int:
        """Rows and columns added at the far side, pixels."""
        return (self.reach - self.stride) % 2

    @property
    def padding(self) -> int:
        """Rows and columns cut on each side, pixels."""
        return (self.reach - self.stride + self.output_padding) // 2

    def output_shape(self, inputs: tuple[Shape, ...]) -> Shape:
        channels, height, width = inputs[0]
        _divisible(self, "input channels", channels, self.groups)
        return self.out_channels, height * self.stride, width * self.stride

    def weight_shapes(self, inputs: tuple[Shape, ...]) -> Mapping[str, tuple[int, ...]]:
        weight = (inputs[0][0], self.out_channels // self.groups, self.kernel, self.kernel)
        return {"weight": weight} | ({"bias": (self.out_channels,)} if self.bias or self.norm else {})

    def macs(self, inputs: tuple[Shape, ...]) -> int:
        return element_count(inputs[0]) * self.out_channels // self.groups * self.kernel**2


@dataclass(frozen=True)
class _Pool(Operation):
    kernel: int = 3
    stride: int = 2
    padding: int = 1

    def __post_init__(self) -> None:
        _positive(self, "kernel", "stride")
        if not 0 <= self.padding <= self.kernel // 2:
            raise InputError(f"{type(self).__name__}.padding is {self.padding}; expected 0 to kernel // 2.")

    def output_shape(self, inputs: tuple[Shape, ...]) -> Shape:
        channels, height, width = inputs[0]
        reach = 2 * self.padding - self.kernel
        if min(height, width) + reach < 0:
            raise InputError(f"{self} does not fit into {height} x {width} pixels.")
        return channels, (height + reach) // self.stride + 1, (width + reach) // self.stride + 1


@dataclass(frozen=True)
class MaxPool(_Pool):
    """Maximum over a window."""


@dataclass(frozen=True)
class AvgPool(_Pool):
    """Mean over a window, the padding not counted in."""


@dataclass(frozen=True)
class Add(Operation):
    """Sum of two or more tensors of one shape."""

    arity = None
    activation: Activation = "none"

    def output_shape(self, inputs: tuple[Shape, ...]) -> Shape:
        if len(set(inputs)) != 1:
            raise InputError(f"Add: inputs of one shape expected, got {list(inputs)}.")
        return inputs[0]


@dataclass(frozen=True)
class Concat(Operation):
    """Concatenation along the channels."""

    arity = None

    def output_shape(self, inputs: tuple[Shape, ...]) -> Shape:
        if len({shape[1:] for shape in inputs}) != 1:
            raise InputError(f"Concat: inputs of one height and width expected, got {list(inputs)}.")
        return sum(shape[0] for shape in inputs), *inputs[0][1:]


@dataclass(frozen=True)
class Resize(Operation):
    """Bilinear upsampling, pixel centres aligned (half-pixel)."""

    scale: int

    def __post_init__(self) -> None:
        _positive(self, "scale")

    def output_shape(self, inputs: tuple[Shape, ...]) -> Shape:
        channels, height, width = inputs[0]
        return channels, height * self.scale, width * self.scale


@dataclass(frozen=True)
class DepthToSpace(Operation):
    """Channels to pixels, the order of `torch.nn.PixelShuffle`."""

    block: int

    def __post_init__(self) -> None:
        _positive(self, "block")

    def output_shape(self, inputs: tuple[Shape, ...]) -> Shape:
        channels, height, width = inputs[0]
        _divisible(self, "input channels", channels, self.block**2)
        return channels // self.block**2, height * self.block, width * self.block


@dataclass(frozen=True)
class GlobalAveragePool(Operation):
    """Mean over all pixels."""

    def output_shape(self, inputs: tuple[Shape, ...]) -> Shape:
        return inputs[0][0], 1, 1


@dataclass(frozen=True)
class Linear(Operation):
    """A fully connected layer on a 1 x 1 map."""

    out_features: int

    def __post_init__(self) -> None:
        _positive(self, "out_features")

    def output_shape(self, inputs: tuple[Shape, ...]) -> Shape:
        if inputs[0][1:] != (1, 1):
            raise InputError(f"Linear: a 1 x 1 map expected, got {inputs[0]}; pool it first.")
        return self.out_features, 1, 1

    def weight_shapes(self, inputs: tuple[Shape, ...]) -> Mapping[str, tuple[int, ...]]:
        return {"weight": (self.out_features, inputs[0][0]), "bias": (self.out_features,)}

    def macs(self, inputs: tuple[Shape, ...]) -> int:
        return self.out_features * inputs[0][0]


@dataclass(frozen=True)
class _Elementwise(Operation):
    def output_shape(self, inputs: tuple[Shape, ...]) -> Shape:
        return inputs[0]


@dataclass(frozen=True)
class Relu(_Elementwise):
    """A rectifier that stands alone; elsewhere it is an operation's `activation`."""


@dataclass(frozen=True)
class Sigmoid(_Elementwise):
    """Logit to probability."""


@dataclass(frozen=True)
class Softmax(_Elementwise):
    """Softmax over the channels."""


@dataclass(frozen=True)
class Entropy(_Elementwise):
    """Predictive entropy of a two-class logit, normalised to [0, 1] (decision 16)."""


@dataclass(frozen=True)
class LeastConfidence(_Elementwise):
    """2 (1 - max p) of a two-class probability, in [0, 1] (decision 16, option)."""


@dataclass(frozen=True)
class Normalise(_Elementwise):
    """(x - mean) / std per channel, stored as scale and shift."""

    def weight_shapes(self, inputs: tuple[Shape, ...]) -> Mapping[str, tuple[int, ...]]:
        return {"scale": (1, inputs[0][0], 1, 1), "shift": (1, inputs[0][0], 1, 1)}


@dataclass(frozen=True)
class Identity(_Elementwise):
    """Nothing; an edge that passes its input on."""


@dataclass(frozen=True)
class Zero(_Elementwise):
    """No edge at all; deleted when a network is made."""


OPERATIONS: Mapping[str, type[Operation]] = {
    cls.__name__: cls
    for cls in (
        Conv, ConvTranspose, MaxPool, AvgPool, Add, Concat, Resize, DepthToSpace, GlobalAveragePool,
        Linear, Relu, Sigmoid, Softmax, Entropy, LeastConfidence, Normalise, Identity, Zero,
    )
}  # fmt: skip
"""All operations by name, as files write them."""


def operation_to_json(operation: Operation) -> dict[str, Any]:
    """An operation as a JSON object; `operation_from_json` reads it back."""
    return {"op": type(operation).__name__, **asdict(operation)}


def operation_from_json(data: Any) -> Operation:
    """The operation that a JSON object describes; raises `InputError` on anything unknown or of a wrong type."""
    if not isinstance(data, dict) or not isinstance(data.get("op"), str) or data["op"] not in OPERATIONS:
        name = data.get("op") if isinstance(data, dict) else data
        raise InputError(f"unknown operation {name!r}; known are {', '.join(OPERATIONS)}.")
    return decode(OPERATIONS[data["op"]], {key: value for key, value in data.items() if key != "op"}, data["op"])
