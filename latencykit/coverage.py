"""What a table must hold: every primitive at every cell resolution, and every kernel that networks of a space run."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from latencykit.kernels import CALL_OVERHEAD, Kernel, kernels_of
from latencykit.lowering import graph_to_onnx
from latencykit.macro import Macro
from latencykit.primitives import PRIMITIVES, ZERO
from latencykit.runtime import Setting
from latencykit.sample import sample_architectures
from latencykit.space import CELL_TYPES, Architecture, CellType, Choice, cell_edges, instantiate, template
from latencykit.spec import Add, Relu
from latencykit.table import Primitive

COVERAGE_SEED = 20_000
"""Seed of the covering sample; validation refuses it, so that covering and validating networks differ."""
QUIET_NETWORKS = 24
"""A covering sample ends after this many networks in a row brought no new kernel."""
MOST_NETWORKS = 200
USUAL_NETWORKS = 40
"""How many networks a covering sample mostly takes; for progress."""
STRIDES = (1, 2, 4)


def stride_macros(macro: Macro, strides: Iterable[int]) -> list[Macro]:
    """A macro configuration at several input strides, the same for both networks."""
    return [replace(macro, segmentation_stride=stride, quality_stride=stride) for stride in strides]


def space_primitives(macro: Macro) -> list[Primitive]:
    """Every candidate of every edge and every fixed part of a space, each once.

    Sums are listed for every number of terms that deleting edges can leave.
    """
    plan = template(macro)
    found: dict[Primitive, None] = {}
    for node in plan.nodes:
        inputs = plan.input_shapes(node)
        match node.operation:
            case Choice() as choice:
                for candidate in choice.candidates:
                    found[Primitive(choice.operations(candidate), inputs)] = None
            case Add() as add:
                if add.activation == "relu":  # what a sum of one term becomes
                    found[Primitive((Relu(),), inputs[:1])] = None
                for terms in range(2, len(inputs) + 1):
                    found[Primitive((add,), inputs[:terms])] = None
            case operation:
                found[Primitive((operation,), inputs)] = None
    return list(found)


def space_kernels(
    macro: Macro, advance: Callable[[int], None] = lambda new: None, quiet: int = QUIET_NETWORKS
) -> list[Kernel]:
    """The kernels of a space on this CPU: networks are lowered until no new kernel turns up.

    First come networks in which every edge of a cell type holds one primitive, then uniform samples.

    Args:
        macro: the space.
        advance: told after each network how many kernels were new.
        quiet: networks without a new kernel that end the sample.
    """
    found: dict[Kernel, None] = {CALL_OVERHEAD: None}
    silent = 0
    with tempfile.TemporaryDirectory() as scratch:
        for index, architecture in enumerate(_covering(macro)):
            before = len(found)
            found.update(dict.fromkeys(network_kernels(architecture, Path(scratch))))
            advance(len(found) - before)
            silent = 0 if len(found) > before else silent + 1
            if silent >= quiet and index >= len(_extremes(macro)):
                break
    return list(found)


def network_kernels(architecture: Architecture, scratch: Path, setting: Setting | None = None) -> list[Kernel]:
    """The kernels that one architecture runs on this CPU; they do not depend on the number of threads."""
    model = graph_to_onnx(instantiate(architecture)).SerializeToString()
    return kernels_of(model, setting or Setting(threads=1, pinned=False), scratch)


def _covering(macro: Macro) -> Iterator[Architecture]:
    return itertools.chain(_extremes(macro), sample_architectures(macro, MOST_NETWORKS, COVERAGE_SEED))


def _extremes(macro: Macro) -> list[Architecture]:
    """Networks of one primitive a kind throughout: the n-th candidate of each, zeros left out."""
    names = {kind: [p for p in candidates if p != ZERO] for kind, candidates in PRIMITIVES.items()}

    def choices(cell_type: CellType, index: int) -> tuple[str, ...]:
        edges = cell_edges(cell_type, macro.cell_nodes)
        return tuple(names[edge.kind][index % len(names[edge.kind])] for edge in edges)

    return [Architecture(macro, {c: choices(c, i) for c in CELL_TYPES}) for i in range(max(map(len, names.values())))]
