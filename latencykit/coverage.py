"""What a space is made of: every primitive at every cell resolution, and the kernels that its networks run."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from latencykit.architecture import Network, network_graph
from latencykit.kernels import Kernel, kernels_of
from latencykit.keys import Primitive
from latencykit.lowering import graph_to_onnx, weight_shapes
from latencykit.macro import Macro
from latencykit.primitives import PRIMITIVES, ZERO
from latencykit.runtime import Setting
from latencykit.space import CELL_TYPES, Architecture, CellType, Choice, cell_edges, template
from latencykit.spec import Add, Relu
from latencykit.topology import allowed_cpus

COVERAGE_SEED = 20_000
"""First of the seeds that tables are made with; validation refuses them, so that its networks are others."""
PARALLEL_FROM = 60
"""From so many networks on it pays to start processes."""
STRIDES = (1, 2, 4)
ANY_WEIGHT = 0.01
"""Neither 0 nor 1, which an optimiser may leave out."""


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


def network_kernels(network: Network) -> Counter[Kernel]:
    """The kernels that a network pair runs on this CPU; they depend neither on threads nor on weights."""
    graph = network_graph(network)
    weights = {name: np.full(shape, ANY_WEIGHT, np.float32) for name, shape in weight_shapes(graph).items()}
    model = graph_to_onnx(graph, weights).SerializeToString()
    with tempfile.TemporaryDirectory() as scratch:
        return Counter(kernels_of(model, Setting(threads=1, pinned=False), Path(scratch)))


def lower_all(networks: Sequence[Network], advance: Callable[[], object] = lambda: None) -> list[Counter[Kernel]]:
    """`network_kernels` of many, in their order, on all processors.

    Processes that cannot be started or end early, as under a script that may not be imported, leave the rest to this
    one.
    """
    found: dict[int, Counter[Kernel]] = {}
    workers = len(allowed_cpus())
    if len(networks) >= PARALLEL_FROM and workers > 1:
        with suppress(BrokenProcessPool), ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            try:
                futures = {pool.submit(network_kernels, each): index for index, each in enumerate(networks)}
                for future in as_completed(futures):
                    found[futures[future]] = future.result()
                    advance()
            finally:
                pool.shutdown(cancel_futures=True)
    for index, network in enumerate(networks):
        if index not in found:
            found[index] = network_kernels(network)
            advance()
    return [found[index] for index in range(len(networks))]


def plain_networks(macro: Macro) -> list[Architecture]:
    """Networks of one primitive a kind throughout: the n-th candidate of each, zeros left out."""
    names = {kind: [p for p in candidates if p != ZERO] for kind, candidates in PRIMITIVES.items()}

    def choices(cell_type: CellType, index: int) -> tuple[str, ...]:
        edges = cell_edges(cell_type, macro.cell_nodes)
        return tuple(names[edge.kind][index % len(names[edge.kind])] for edge in edges)

    return [Architecture(macro, {c: choices(c, i) for c in CELL_TYPES}) for i in range(max(map(len, names.values())))]
