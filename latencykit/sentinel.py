"""What tells a machine's state: a model of its own, timed around all that is measured.

A convolution in the nearest cache tells of the clock and of processors moved apart, which kernels timed alone feel as
well. What neighbours do to shared caches neither feels, and a whole network takes up to 1.4 times as long: networks are
held to a network (LOG, 2026-11-27).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal

from latencykit.baselines import Baseline
from latencykit.kernels import Kernel, KernelInput, kernel_model
from latencykit.lowering import network_onnx
from latencykit.measurement import Protocol
from latencykit.runtime import Setting, optimise

SentinelName = Literal["convolution", "network"]


@dataclass(frozen=True)
class SentinelModel:
    """One of the two sentinels.

    Attributes:
        name: what samples and tables call it.
        optimised: makes its ONNX, which is run as it stands.
        protocol: of one look at it, whose median counts.
    """

    name: SentinelName
    optimised: Callable[[], bytes]
    protocol: Protocol


_CONVOLUTION = Kernel(
    "Conv",
    "",
    11,
    (("kernel_shape", (3, 3)), ("pads", (1, 1, 1, 1))),
    (
        KernelInput("activation", "tensor(float)", (1, 32, 32, 32)),
        KernelInput("weight", "tensor(float)", (32, 32, 3, 3)),
    ),
    1,
    (1, 32, 32, 32),
)
"""In the standard layout, so that it is the same on every instruction set; short, so that exchange counts."""

CONVOLUTION = SentinelModel(
    name="convolution",
    optimised=partial(kernel_model, _CONVOLUTION),
    protocol=Protocol(samples=15, block_us=0, warmup_ms=2, processes=1),
)
"""For kernels and primitives."""


@cache
def _network() -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "optimised.onnx"
        optimise(network_onnx(Baseline(width=4, depth=3, stride=2)), Setting(threads=1, pinned=False), target)
        return target.read_bytes()


NETWORK = SentinelModel(
    name="network",
    optimised=_network,
    protocol=Protocol(samples=5, block_us=0, warmup_ms=0, processes=1),
)
"""For whole networks: of eight candidates it followed them best, with a correlation of 0.92 (the convolution 0.67)."""
