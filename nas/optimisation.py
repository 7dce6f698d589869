"""Schedules, precision and the guard around an optimiser's step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from latencykit.errors import RegressionError
from nas.distributed import average_gradients

Precision = Literal["float32", "bfloat16"]

RISE = 0.3
"""Share of a one-cycle schedule in which the rate rises (Smith 2018, torch's default)."""
START_DIVISOR = 25.0
END_DIVISOR = 1e4


def cosine_rate(peak: float, progress: float) -> float:
    """Cosine decay from `peak` to 0; `progress` runs from 0 to 1."""
    return peak * (1 + math.cos(math.pi * progress)) / 2


def one_cycle_rate(peak: float, progress: float) -> float:
    """Cosine rise to `peak` and fall to almost 0; `progress` runs from 0 to 1."""
    if progress < RISE:
        low, share = peak / START_DIVISOR, 1 - progress / RISE
    else:
        low, share = peak / END_DIVISOR, (progress - RISE) / (1 - RISE)
    return low + cosine_rate(peak - low, share)


def annealed_temperature(start: float, end: float, epoch: int, epochs: int) -> float:
    """Exponential decay from `start` to `end`, reached in the last of `epochs` (decision 21)."""
    return start * (end / start) ** (epoch / (epochs - 1)) if epochs > 1 else end


def set_rate(optimiser: Optimizer, rate: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def computed_in(precision: Precision, device: str) -> Precision:
    """What a precision comes down to on this machine.

    A CPU without arithmetic in bfloat16 makes do with float32's: a step would take 1.4 times as long with AVX-512 and
    three times without, so it is computed in float32 (LOG, 2026-11-27).
    """
    if precision == "float32" or device != "cpu":
        return precision
    has = torch.cpu.get_capabilities()
    return "bfloat16" if has.get("avx512_bf16") or has.get("bf16") else "float32"


def autocast(precision: Precision, device: str) -> torch.autocast:
    """Run convolutions in this precision; what needs float32 stays there."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def take_step(optimiser: Optimizer, loss: Tensor, parameters: Sequence[nn.Parameter], clip: float, where: str) -> None:
    """Backpropagate and step, with the gradient's norm clipped; parameters that the loss does not reach stay.

    Raises:
        RegressionError: the loss or the gradient is not finite.
    """
    check_finite(loss, where)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    average_gradients(parameters)
    check_finite(nn.utils.clip_grad_norm_(parameters, clip), f"{where}, gradient")
    optimiser.step()


def take_gradients(optimiser: Optimizer, loss: Tensor, parameters: Sequence[nn.Parameter], where: str) -> None:
    """Step with the gradients of these parameters only; nothing is spent on any other.

    Raises:
        RegressionError: the loss is not finite.
    """
    check_finite(loss, where)
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        check_finite(gradient.sum(), f"{where}, gradient")
        parameter.grad = gradient
    average_gradients(parameters)
    optimiser.step()


def check_finite(value: Tensor, where: str) -> None:
    """Raise `RegressionError` where a value is NaN or infinite."""
    if not math.isfinite(value.item()):
        raise RegressionError(
            f"{where} is {value.item()}: the run diverged. The checkpoint of the last whole epoch is kept; lower the "
            "learning rate (or its clip), or use precision 'float32', and start again in a new folder."
        )
