"""Several processes as one (`torchrun`): each takes its share of every batch; gradients and statistics are averaged.

A run in several processes takes the steps that one process would have taken, up to rounding: every process draws the
same numbers, loads the whole batch, keeps its share, and batch normalisation sees all shares. The first one writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from latencykit.errors import UsageError
from latencykit.lines import Advance, Show

T = TypeVar("T")


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the processes that `torchrun` started, if it did; leave them at the end."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def processes() -> int:
    """How many work together; 1 alone."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes files and shows how far it is."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def first_alone(make: Callable[[], T]) -> T:
    """Do something that leaves files in the first process, then in the others, who find it done."""
    if is_first():
        made = make()
        wait()
        return made
    wait()
    return make()


def shown_once(show: Show) -> Show:
    """Progress in the first process only."""
    return show if is_first() else silent


@contextmanager
def silent(title: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Progress that nobody sees."""

    def advance(*_: object, note: str = "", units: int = 1) -> None:
        pass

    yield advance


def wait() -> None:
    """Until all processes are here."""
    if distributed.is_initialized():
        distributed.barrier()


def share(batch: Tensor) -> Tensor:
    """This process's part of a batch, (n / processes, ...); raises `UsageError` where parts would differ in size."""
    if processes() == 1:
        return batch
    if len(batch) % processes():
        raise UsageError(f"a batch of {len(batch)} frames for {processes()} processes; expected a multiple of that.")
    return batch[distributed.get_rank() :: processes()]


class _Sum(torch.autograd.Function):
    """Sum over the processes; each one's gradient is the sum of all of theirs."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        """Sum a copy."""
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        """Sum the gradients."""
        return _Sum.forward(None, gradient.contiguous())


def mean(value: Tensor) -> Tensor:
    """Mean over the processes, with a gradient where `value` has one."""
    return value if processes() == 1 else _Sum.apply(value) / processes()


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace gradients by their means over the processes; those that the loss does not reach stay None."""
    if processes() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    start = 0
    for gradient in gradients:
        gradient.copy_((flat[start : start + gradient.numel()] / processes()).view_as(gradient))
        start += gradient.numel()
