"""Which networks a table is put to the test with."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from latencykit.architecture import Network
from latencykit.baselines import Baseline
from latencykit.edges import SearchCosts
from latencykit.errors import InputError, UsageError
from latencykit.macro import ActivationPlace, Head, Macro
from latencykit.primitives import ZERO
from latencykit.sample import sample_architectures
from latencykit.space import CELL_TYPES, Architecture, CellType, cell_edges

SetName = Literal["uniform", "tails", "minimisers", "mixed", "unet"]
TAIL_POOL = 2000
TAIL_SHARE = 0.05
JITTER = 0.02
"""Further minimisers are those of costs that are off by this share of the mean cost, a little more at each attempt."""
MIXED_SEED = 10_000
HEADS: tuple[Head, ...] = get_args(Head)
PLACES: tuple[ActivationPlace, ...] = get_args(ActivationPlace)


def tails(macro: Macro, costs: SearchCosts, count: int, seed: int) -> list[Architecture]:
    """The fastest and slowest twentieth of 2000 sampled networks by a table's edge costs, `count` of them.

    Raises:
        UsageError: more than there are.
    """
    tail = round(TAIL_POOL * TAIL_SHARE)
    if count > 2 * tail:
        raise UsageError(f"{count} networks of the tails were asked for; there are {2 * tail}.")
    ranked = sorted(sample_architectures(macro, TAIL_POOL, seed), key=costs.total_ms)
    ends = ranked[:tail] + ranked[-tail:]
    return [ends[index] for index in np.random.default_rng(seed).permutation(len(ends))[:count]]


def minimisers(macro: Macro, costs: SearchCosts, count: int, seed: int) -> list[Architecture]:
    """Networks that minimise LAT: the cheapest candidate of every edge, then the same under jittered costs."""
    rng = np.random.default_rng((seed, count))
    mean_ms = float(np.mean([np.abs(costs.edges_ms[c]).mean() for c in CELL_TYPES]))
    found: list[Architecture] = []
    for attempt in itertools.count():
        jitter_ms = JITTER * attempt * mean_ms
        choices = {
            c: _cheapest(
                c, macro.cell_nodes, costs.edges_ms[c] + jitter_ms * rng.standard_normal(costs.edges_ms[c].shape)
            )
            for c in CELL_TYPES
        }
        if (architecture := Architecture(macro, choices)) not in found:
            found.append(architecture)
        if len(found) == count:
            break
    return found


def _cheapest(cell_type: CellType, nodes: int, costs_ms: NDArray[np.float64]) -> tuple[str, ...]:
    """The cheapest candidates; a node keeps at least its cheapest edge."""
    edges = cell_edges(cell_type, nodes)
    chosen = [min(zip(costs_ms[i], edge.candidates, strict=False))[1] for i, edge in enumerate(edges)]
    for node in range(nodes):
        arriving = [i for i, edge in enumerate(edges) if edge.node == node]
        if all(chosen[i] == ZERO for i in arriving):
            options = [(costs_ms[i][j], i, c) for i in arriving for j, c in enumerate(edges[i].candidates) if c != ZERO]
            _, index, chosen[index] = min(options)
    return tuple(chosen)


def mixed(count: int, seed: int) -> list[Architecture]:
    """One architecture each of random macro configurations: strides, widths, levels, heads, activations, nodes."""
    found: list[Architecture] = []
    rng = np.random.default_rng((seed, MIXED_SEED))
    while len(found) < count:
        width, quality_width = (int(rng.choice(options)) for options in ((4, 6, 8, 12, 16), (4, 8, 16)))
        levels, quality_levels = (int(rng.choice(options)) for options in ((4, 5, 6), (4, 5)))
        try:
            macro = replace(
                Macro(),
                segmentation_stride=int(rng.choice((1, 2, 4))),
                quality_stride=int(rng.choice((1, 2, 4))),
                segmentation_widths=tuple(min(128, width * 2**level) for level in range(levels)),
                quality_widths=(quality_width, *(min(64, quality_width * 2**i) for i in range(quality_levels - 1))),
                head=HEADS[rng.integers(len(HEADS))],
                output_stride=int(rng.choice((1, 2))),
                activation_place=PLACES[rng.integers(len(PLACES))],
                cell_nodes=int(rng.choice((2, 3))),
            )
        except InputError:  # a combination that does not fit together
            continue
        found += sample_architectures(macro, 1, int(rng.integers(1 << 30)))
    return found


def unet_family(count: int, seed: int) -> list[Baseline]:
    """Hand-made pairs of other widths, depths and strides than one another."""
    pairs = [
        Baseline(width, depth, stride, quality_width)
        for width in (4, 6, 8, 12, 16, 24)
        for depth in (3, 4)
        for stride in (1, 2, 4)
        for quality_width in (8, 16)
    ]
    if count > len(pairs):
        raise UsageError(f"{count} pairs of the U-Net family were asked for; there are {len(pairs)}.")
    return [pairs[index] for index in np.random.default_rng(seed).permutation(len(pairs))[:count]]


def sampled_set(name: str, macro: Macro, count: int, seed: int) -> list[Network]:
    """A set that needs no table: `uniform`, `mixed` or `unet`."""
    match name:
        case "uniform":
            return [*sample_architectures(macro, count, seed)]
        case "mixed":
            return [*mixed(count, seed)]
        case "unet":
            return [*unet_family(count, seed)]
        case _:
            raise UsageError(f"no set {name!r} without a table; take uniform, mixed or unet.")
