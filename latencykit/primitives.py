"""The candidate operations of the paper's Table I, each as a chain of `latencykit.spec` operations."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Literal

from latencykit.errors import InputError
from latencykit.spec import Activation, AvgPool, Conv, ConvTranspose, Identity, MaxPool, Operation, Zero

EdgeKind = Literal["down", "up", "normal"]

PRIMITIVES: Mapping[EdgeKind, tuple[str, ...]] = {
    "down": ("down_conv", "down_dilated_conv", "down_separable_conv", "max_pool", "avg_pool"),
    "up": ("up_conv", "up_dilated_conv", "up_separable_conv"),
    "normal": ("conv", "dilated_conv", "separable_conv", "identity", "zero"),
}
"""Table I: the candidates on an edge by the edge's kind."""

ZERO = "zero"
DILATION = 2  # decision 9


@cache
def primitive_operations(primitive: str, channels: int, activation: Activation = "relu") -> tuple[Operation, ...]:
    """The operations of a primitive on maps of `channels` channels, 3 x 3 kernels throughout (Table I, decision 9).

    Args:
        primitive: a name from `PRIMITIVES`.
        channels: input and output channels.
        activation: what follows the last convolution; "none" where the activation stands after a node's sum.

    Raises:
        InputError: an unknown name.
    """
    pointwise = Conv(channels, kernel=1, activation=activation)
    chains: dict[str, tuple[Operation, ...]] = {
        "conv": (Conv(channels, activation=activation),),
        "dilated_conv": (Conv(channels, dilation=DILATION, activation=activation),),
        "separable_conv": (Conv(channels, groups=channels, norm=False, activation="none"), pointwise),
        "identity": (Identity(),),
        ZERO: (Zero(),),
        "down_conv": (Conv(channels, stride=2, activation=activation),),
        "down_dilated_conv": (Conv(channels, stride=2, dilation=DILATION, activation=activation),),
        "down_separable_conv": (Conv(channels, stride=2, groups=channels, norm=False, activation="none"), pointwise),
        "max_pool": (MaxPool(),),
        "avg_pool": (AvgPool(),),
        "up_conv": (ConvTranspose(channels, activation=activation),),
        "up_dilated_conv": (ConvTranspose(channels, dilation=DILATION, activation=activation),),
        "up_separable_conv": (ConvTranspose(channels, groups=channels, norm=False, activation="none"), pointwise),
    }
    if primitive not in chains:
        raise InputError(f"unknown primitive {primitive!r}; known are {', '.join(chains)}.")
    return chains[primitive]
