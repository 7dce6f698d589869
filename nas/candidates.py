"""Networks of a macro space that the table puts just below a target: what a race begins with, and who joins it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from latencykit.errors import MissingRowError, UsageError
from latencykit.lines import Show
from latencykit.space import Architecture
from nas.config import RaceConfig
from nas.macro_space import MacroSpace
from nas.promise import promise

Price = Callable[[Architecture], float]
"""The latency of a network in ms, by a table."""
Candidate = tuple[Architecture, float]
"""A network and its price."""


@dataclass(frozen=True)
class Finder:
    """Finds candidates.

    Attributes:
        space: the macro configurations.
        target_ms: what candidates take at most; at least that less the band.
        config: how many, and how they are chosen.
        price: of a network; one that the table cannot price is no candidate.
        show: how far it is.
        one_a_macro: candidates stand for their macro configurations, so each has another, and their cells say nothing.
    """

    space: MacroSpace
    target_ms: float
    config: RaceConfig
    price: Price
    show: Show
    one_a_macro: bool = False

    def drawn(self, rng: np.random.Generator) -> list[Candidate]:
        """The most promising chains, and of many drawn ones, each improved by neighbours that promise more.

        Raises:
            UsageError: none of those drawn lies in the band.
        """
        config = self.config
        chains = _most_promising(self._chains(), min(config.chains, config.candidates))
        count = config.candidates - len(chains)
        found, unpriced = self._new(lambda: self.space.draw(rng), config.drawn * count, chains)
        if not chains and not found:
            lacking = f"; {unpriced} of them run kernels that it cannot price (nas sample --config)" if unpriced else ""
            raise UsageError(
                f"none of {config.draws} networks of {len(self.space.macros)} macro configurations takes "
                f"{1 - config.band:.0%} to 100 % of {self.target_ms:g} ms by the table{lacking}; choose another target "
                "or other `macros`."
            )
        found = _most_promising(found, count)
        return chains + (found if self.one_a_macro else self._improved(found, rng))

    def neighbours(
        self, parents: Sequence[Architecture], rng: np.random.Generator, known: Sequence[Candidate]
    ) -> list[Candidate]:
        """New networks beside each of these."""
        found: list[Candidate] = []
        for parent in parents if not self.one_a_macro else ():
            near = partial(self.space.mutated, parent, rng)
            found += self._new(near, self.config.neighbours, (*known, *found))[0]
        return found

    def _new(
        self, draw: Callable[[], Architecture], count: int, known: Sequence[Candidate]
    ) -> tuple[list[Candidate], int]:
        """Networks that fit, and how many of those drawn have no price."""
        found: list[Candidate] = []
        unpriced = 0
        if not count:
            return found, unpriced
        with self.show(f"draw networks of {self.target_ms:g} ms", self.config.draws, 0) as advance:
            for _ in range(self.config.draws):
                network, others = draw(), [one for one, _ in (*known, *found)]
                taken = network.macro in [one.macro for one in others] if self.one_a_macro else network in others
                if not taken:
                    cost_ms = self._cost_ms(network)
                    unpriced += cost_ms is None
                    if cost_ms is not None and self._fits(cost_ms):
                        found.append((network, cost_ms))
                advance(note=_note(found, unpriced))
                if len(found) == count:
                    break
        return found, unpriced

    def _chains(self) -> list[Candidate]:
        if self.one_a_macro or not self.config.chains:
            return []
        found: list[Candidate] = []
        unpriced = 0
        with self.show("price chains of convolutions", len(self.space.chains), 0) as advance:
            for network in self.space.chains:
                cost_ms = self._cost_ms(network)
                unpriced += cost_ms is None
                if cost_ms is not None and self._fits(cost_ms):
                    found.append((network, cost_ms))
                advance(note=_note(found, unpriced))
        return found

    def _improved(self, found: list[Candidate], rng: np.random.Generator) -> list[Candidate]:
        with self.show("improve the most promising", len(found) * self.config.climb, 0) as advance:
            for place in range(len(found)):
                for _ in range(self.config.climb):
                    advance()
                    network = found[place][0]
                    near = self.space.mutated(network, rng)
                    better = _stride(near) == _stride(network) and promise(near) > promise(network)
                    if not better or near in [one for one, _ in found]:
                        continue
                    cost_ms = self._cost_ms(near)
                    if cost_ms is not None and self._fits(cost_ms):
                        found[place] = near, cost_ms
        return found

    def _cost_ms(self, network: Architecture) -> float | None:
        """What a network takes; None where the table lacks a kernel of it that cannot be interpolated."""
        try:
            return self.price(network)
        except MissingRowError:
            return None

    def _fits(self, cost_ms: float) -> bool:
        return (1 - self.config.band) * self.target_ms <= cost_ms <= self.target_ms


def _note(found: Sequence[Candidate], unpriced: int) -> str:
    return f"{len(found)} found" + (f", {unpriced} without a price" if unpriced else "")


def _most_promising(found: Sequence[Candidate], count: int) -> list[Candidate]:
    """The most promising of each distance between logits in turn; across distances a promise does not compare."""
    ranked: dict[int, list[Candidate]] = {}
    for candidate in sorted(found, key=lambda candidate: -promise(candidate[0])):
        ranked.setdefault(_stride(candidate[0]), []).append(candidate)
    turns = itertools.zip_longest(*ranked.values())
    return [candidate for turn in turns for candidate in turn if candidate is not None][:count]


def _stride(network: Architecture) -> int:
    return network.macro.logit_stride
