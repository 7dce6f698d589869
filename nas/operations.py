"""Each operation of `latencykit.spec` as a torch module; tensors are (n, channels, height, width)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from latencykit import spec
from latencykit.errors import InputError
from latencykit.spec import Operation, Shape
from nas.distributed import mean, processes


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation whose statistics are of the whole batch, where several processes share one."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (n, channels, h, w)."""
        if not self.training or processes() == 1:
            return super().forward(x)
        wide = x.float()
        moments = mean(torch.stack([wide.mean((0, 2, 3)), wide.square().mean((0, 2, 3))]))
        centre, variance = moments[0], (moments[1] - moments[0].square()).clamp(min=0)
        with torch.no_grad():
            count = x.numel() // x.shape[1] * processes()
            self.running_mean.lerp_(centre, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked += 1
        scale = torch.rsqrt(variance + self.eps)
        shift = -centre * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return torch.addcmul(shift[None, :, None, None], wide, scale[None, :, None, None]).to(x.dtype)


class ConvNorm(nn.Module):
    """A convolution, plain or transposed, with the batch normalisation and ReLU that its specification names.

    Args:
        operation: what to build.
        in_channels: of the input.
        affine: whether the batch normalisation learns a scale and a shift.
    """

    def __init__(self, operation: spec.Conv | spec.ConvTranspose, in_channels: int, affine: bool = True) -> None:
        super().__init__()
        shared: dict[str, Any] = {
            "kernel_size": operation.kernel,
            "stride": operation.stride,
            "padding": operation.padding,
            "dilation": operation.dilation,
            "groups": operation.groups,
            "bias": operation.bias,
        }
        # A 1x1 convolution at a stride reads every n-th pixel only; taken out before, since with channels last and few
        # channels oneDNN's writes past its workspace (uxlfoundation/oneDNN issue 6035).
        self._every = operation.stride if isinstance(operation, spec.Conv) and operation.kernel == 1 else 1
        shared["stride"] //= self._every
        if isinstance(operation, spec.Conv):
            self.conv: nn.Conv2d | nn.ConvTranspose2d = nn.Conv2d(in_channels, operation.out_channels, **shared)
            taps: float = operation.kernel**2
        else:
            shared["output_padding"] = operation.output_padding
            self.conv = nn.ConvTranspose2d(in_channels, operation.out_channels, **shared)
            taps = operation.kernel**2 / operation.stride**2  # inputs that one output pixel sees
        self.norm = BatchNorm(operation.out_channels, affine=affine) if operation.norm else None
        self.relu = operation.activation == "relu"
        self._fan_in = in_channels / operation.groups * taps

    def initialise(self, generator: torch.Generator) -> None:
        """He et al.'s initialisation (2015)."""
        _initialise(self.conv, (2 if self.relu else 1) / self._fan_in, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise, rectify."""
        x = self.conv(x if self._every == 1 else x[..., :: self._every, :: self._every])
        if self.norm is not None:
            x = self.norm(x)
        return functional.relu(x, inplace=True) if self.relu else x


class Linear(nn.Module):
    """A fully connected layer on (n, channels, 1, 1); gives (n, features), in float32 under autocast too.

    A Dice in bfloat16 would have two digits.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)

    def initialise(self, generator: torch.Generator) -> None:
        """Weights that keep the variance, no bias."""
        _initialise(self.linear, 1 / self.linear.in_features, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Flatten and multiply."""
        with torch.autocast(x.device.type, enabled=False):
            return self.linear(x.flatten(1).float())


def _initialise(
    module: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, variance: float, generator: torch.Generator
) -> None:
    nn.init.normal_(module.weight, std=math.sqrt(variance), generator=generator)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


class Normalise(nn.Module):
    """x * scale + shift per channel, fixed; `set_statistics` makes it (x - mean) / std."""

    scale: Tensor
    shift: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1, channels, 1, 1))
        self.register_buffer("shift", torch.zeros(1, channels, 1, 1))

    def set_statistics(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Take over the channels' mean and standard deviation."""
        deviation = torch.tensor(std, dtype=torch.float64)
        if not bool((deviation > 0).all()):
            raise InputError(
                f"the channels' standard deviations are {std}; expected all above 0: is the data one grey?"
            )
        self.scale.copy_((1 / deviation).view(1, -1, 1, 1))
        self.shift.copy_((-torch.tensor(mean, dtype=torch.float64) / deviation).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift."""
        return torch.addcmul(self.shift, x, self.scale)


class Upsample(nn.Module):
    """Bilinear resizing, corners not aligned, in float32, as a product with a matrix on each side.

    `torch.nn.Upsample` is the same, at three times the seconds forward and backward on a CPU.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, shape: Shape, scale: int) -> None:
        super().__init__()
        _, height, width = shape
        for name, size in (("rows", height), ("columns", width)):
            weights = functional.interpolate(torch.eye(size)[None], scale_factor=scale, mode="linear")[0]
            self.register_buffer(name, weights, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) to (n, C, scale H, scale W)."""
        with torch.autocast(x.device.type, enabled=False):
            return self.rows.T @ (x.float() @ self.columns)


class Function(nn.Module):
    """A parameter-free operation of one tensor or, for a sum or concatenation, of several."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply the function."""
        return self._function(*inputs)


def add(*terms: Tensor) -> Tensor:
    """Sum of one or more tensors."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def binary_entropy(logits: Tensor) -> Tensor:
    """Entropy of sigmoid(logits) in bits, stable for large logits: (softplus(z) - z sigmoid(z)) / ln 2."""
    logits = logits.float()
    return (functional.softplus(logits) - logits * torch.sigmoid(logits)) / math.log(2)


def least_confidence(probability: Tensor) -> Tensor:
    """2 (1 - max(p, 1 - p))."""
    return 2 * torch.minimum(probability, 1 - probability)


def _pool(cls: type[nn.Module], **settings: bool) -> Callable[[Any, Shape], nn.Module]:
    return lambda op, _: cls(op.kernel, op.stride, op.padding, **settings)


def _sum(operation: Any, _: Shape) -> nn.Module:
    if operation.activation == "relu":
        return Function(lambda *terms: functional.relu(add(*terms)))
    return Function(add)


_BUILDERS: Final[Mapping[type[Operation], Callable[[Any, Shape], nn.Module]]] = {
    spec.Conv: lambda op, shape: ConvNorm(op, shape[0]),
    spec.ConvTranspose: lambda op, shape: ConvNorm(op, shape[0]),
    spec.MaxPool: _pool(nn.MaxPool2d),
    spec.AvgPool: _pool(nn.AvgPool2d, count_include_pad=False),
    spec.Add: _sum,
    spec.Concat: lambda op, _: Function(lambda *tensors: torch.cat(tensors, 1)),
    spec.Resize: lambda op, shape: Upsample(shape, op.scale),
    spec.DepthToSpace: lambda op, _: nn.PixelShuffle(op.block),
    spec.GlobalAveragePool: lambda op, _: Function(lambda x: x.float().mean((2, 3), keepdim=True)),
    spec.Linear: lambda op, shape: Linear(shape[0], op.out_features),
    spec.Relu: lambda op, _: Function(functional.relu),
    spec.Sigmoid: lambda op, _: Function(torch.sigmoid),
    spec.Softmax: lambda op, _: nn.Softmax(dim=1),
    spec.Entropy: lambda op, _: Function(binary_entropy),
    spec.LeastConfidence: lambda op, _: Function(least_confidence),
    spec.Normalise: lambda op, shape: Normalise(shape[0]),
    spec.Identity: lambda op, _: nn.Identity(),
    spec.Zero: lambda op, _: Function(torch.zeros_like),
}


def operation_module(operation: Operation, inputs: tuple[Shape, ...]) -> nn.Module:
    """The torch module of an operation on inputs of these shapes; raises `InputError` for a foreign operation."""
    if type(operation) not in _BUILDERS:
        known = ", ".join(cls.__name__ for cls in _BUILDERS)
        raise InputError(f"no torch module for {operation}; known are {known}.")
    return _BUILDERS[type(operation)](operation, inputs[0])
