"""Which networks a table is put to the test with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from latencykit.architecture import Network
from latencykit.baselines import Baseline
from latencykit.calibrate import CALIBRATION_SEED
from latencykit.coverage import COVERAGE_SEED
from latencykit.edges import FIT_SEED, SearchCosts, cost
from latencykit.errors import InputError, UsageError
from latencykit.macro import ActivationPlace, Head, Macro
from latencykit.minimisers import minimisers
from latencykit.runtime import Setting
from latencykit.sample import check_sample, sample_architectures
from latencykit.space import Architecture
from latencykit.table import Table

SetName = Literal["uniform", "tails", "minimisers", "mixed", "unet"]
TAIL_POOL = 2000
TAIL_SHARE = 0.05
MIXED_SEED = 10_000
HEADS: tuple[Head, ...] = get_args(Head)
PLACES: tuple[ActivationPlace, ...] = get_args(ActivationPlace)


def tails(macro: Macro, costs: SearchCosts, count: int, seed: int) -> list[Architecture]:
    """The fastest and slowest twentieth of 2000 sampled networks by a table's edge costs, `count` of them.

    Raises:
        UsageError: more than there are.
    """
    check_sample(count, seed)
    tail = round(TAIL_POOL * TAIL_SHARE)
    if count > 2 * tail:
        raise UsageError(f"{count} networks of the tails were asked for; there are {2 * tail}.")
    ranked = sorted(sample_architectures(macro, TAIL_POOL, seed), key=costs.total_ms)
    ends = ranked[:tail] + ranked[-tail:]
    return [ends[index] for index in np.random.default_rng(seed).permutation(len(ends))[:count]]


def mixed(count: int, seed: int) -> list[Architecture]:
    """One architecture each of random macro configurations: strides, widths, levels, heads, activations, nodes."""
    check_sample(count, seed)
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
    check_sample(count, seed)
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


@dataclass(frozen=True)
class Chosen:
    """A network to validate with, and the set that it comes from."""

    chosen_from: SetName
    network: Network


def choose_networks(
    table: Table,
    setting: Setting,
    macro: Macro,
    count: int,
    seed: int,
    chosen_from: SetName | Literal["all"] = "uniform",
    pace_hz: float | None = None,
) -> list[Chosen]:
    """The networks of a validation; `all` is `count` uniform ones, a quarter as many of the tails, a tenth minimisers.

    Raises:
        UsageError: fewer than two networks, or a seed that the table was made with.
    """
    if count < 2:
        raise UsageError(f"validate: {count} networks; at least 2 are needed to compare anything.")
    if seed in (COVERAGE_SEED, FIT_SEED, CALIBRATION_SEED):
        raise UsageError(f"validate: seed {seed} drew the networks that the table was made with; take another.")
    if chosen_from in ("uniform", "mixed", "unet"):
        return [Chosen(chosen_from, network) for network in sampled_set(chosen_from, macro, count, seed)]
    costs = cost(table, setting, macro, pace_hz=pace_hz)
    known = [network for timing in table.timings if (network := table.network_of(timing).network)]
    if chosen_from == "tails":
        return [Chosen("tails", network) for network in tails(macro, costs, count, seed)]
    if chosen_from == "minimisers":
        return [Chosen("minimisers", network) for network in minimisers(macro, costs.edges_ms, count, seed, known)]
    uniform = [Chosen("uniform", network) for network in sampled_set("uniform", macro, count, seed)]
    ends = [Chosen("tails", network) for network in tails(macro, costs, max(2, count // 4), seed)]
    fast = minimisers(macro, costs.edges_ms, max(2, count // 10), seed, known)
    return [*uniform, *ends, *(Chosen("minimisers", network) for network in fast)]
