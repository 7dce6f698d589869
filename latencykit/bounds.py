"""How large what comes from outside may be: a small file must not ask for more than a machine has."""

from __future__ import annotations

import math
from functools import lru_cache

from latencykit.errors import InputError

MAX_SIZE = 1 << 16
"""Channels, kernel, stride and the like of one operation."""
MAX_ELEMENTS = 1 << 28
"""Of one tensor, and of all tensors of a kernel: 1 GiB as float32."""
MAX_PARAMETERS = 1 << 26
"""Of a network that is written from a description: 256 MiB, as much as a model file may have."""
MAX_NODES = 20_000
"""Of a graph."""
MAX_RANK = 16
MAX_MODEL_BYTES = 256 << 20
_SHOWN_DIGITS = 30


def shown(value: int) -> str:
    """A number for a message; Python refuses to print those of thousands of digits."""
    return str(value) if abs(value) < 10**_SHOWN_DIGITS else f"a number of {value.bit_length()} bits"


def require_at_most(what: str, value: int, most: int) -> None:
    """Raise `InputError` where a value is larger than allowed."""
    if value > most:
        raise InputError(f"{what} is {shown(value)}; expected at most {most}.")


@lru_cache(maxsize=4096)  # a table names each shape very often
def require_dims(what: str, dims: tuple[int, ...], least: int = 1) -> int:
    """The elements of a tensor; raises `InputError` for a dimension below `least` and for more than `MAX_ELEMENTS`."""
    require_at_most(f"the number of dimensions of {what}", len(dims), MAX_RANK)
    for dim in dims:
        if dim < least:
            raise InputError(f"{what} has a dimension of {shown(dim)}; expected at least {least}.")
        require_at_most(f"a dimension of {what}", dim, MAX_ELEMENTS)
    elements = math.prod(dims)
    require_at_most(f"the number of elements of {what}", elements, MAX_ELEMENTS)
    return elements
