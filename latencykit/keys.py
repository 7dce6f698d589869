"""What a cost is looked up by, one kind of key for each level of a table."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from latencykit.bounds import shown
from latencykit.errors import InputError
from latencykit.kernels import Kernel
from latencykit.macro import Macro
from latencykit.measurement import require_pace
from latencykit.schema import to_json
from latencykit.space import CellType, cell_edges
from latencykit.spec import Identity, Operation, Shape, Zero, operation_to_json

Level = Literal["isolated", "kernel", "edge"]


@dataclass(frozen=True)
class Primitive:
    """Key of the `isolated` level: a chain of operations alone in a model, in the graph's terms.

    Attributes:
        operations: the first takes all inputs, each further one its predecessor.
        inputs: shapes that enter the first.
    """

    operations: tuple[Operation, ...]
    inputs: tuple[Shape, ...]

    def __str__(self) -> str:
        shapes = " + ".join("x".join(map(str, shape)) for shape in self.inputs)
        return f"{' > '.join(map(str, self.operations))} on {shapes}"

    @property
    def is_free(self) -> bool:
        """Whether it costs nothing by definition: an identity passes its input on, a zero is deleted."""
        return all(isinstance(operation, Identity | Zero) for operation in self.operations)


@dataclass(frozen=True)
class Edge:
    """Key of the `edge` level: what a candidate adds to a network's latency, in its context, over all cells of a type.

    Attributes:
        macro: the configuration whose networks the cost was fitted to.
        cell_type: None for everything that is not chosen.
        index: of the edge within the cell.
        candidate: the primitive; "" for everything that is not chosen.
        pace_hz: calls a second; None is back to back.
    """

    macro: Macro
    cell_type: CellType | None
    index: int
    candidate: str
    pace_hz: float | None = None

    def __post_init__(self) -> None:
        require_pace("edge", self.pace_hz)
        edges = cell_edges(self.cell_type, self.macro.cell_nodes) if self.cell_type else ()
        listed = 0 <= self.index < len(edges) and self.candidate in edges[self.index].candidates
        if not (listed if self.cell_type else (self.index, self.candidate) == (0, "")):
            raise InputError(
                f"edge {shown(self.index)} of {self.cell_type or 'everything not chosen'} with "
                f"{self.candidate[:80]!r}: no such edge or candidate under its macro configuration."
            )

    def __str__(self) -> str:
        rhythm = f" at {self.pace_hz:g} Hz" if self.pace_hz else ""
        strides = f"strides {self.macro.segmentation_stride} and {self.macro.quality_stride}"
        what = f"{self.cell_type} edge {self.index} {self.candidate}" if self.cell_type else "everything not chosen"
        return f"{what}, {strides}{rhythm}"


Key = Primitive | Kernel | Edge


def key_level(key: Key) -> Level:
    """The level that a key belongs to."""
    match key:
        case Kernel():
            return "kernel"
        case Edge():
            return "edge"
        case Primitive():
            return "isolated"


def key_to_json(key: Key) -> Any:
    """A key as JSON data."""
    if isinstance(key, Primitive):
        return {"operations": [operation_to_json(o) for o in key.operations], "inputs": [list(s) for s in key.inputs]}
    return to_json(key)


def key_id(key: Key) -> str:
    """A short stable name of a key: its level and the start of a hash of its content."""
    content = json.dumps(key_to_json(key), sort_keys=True, separators=(",", ":"))
    return f"{key_level(key)}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
