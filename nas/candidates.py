"""Networks of a macro space that the table puts just below a target: what a race begins with, and who joins it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
        unpriced: networks with a kernel of which the table hardly knows the kind.
    """

    space: MacroSpace
    target_ms: float
    config: RaceConfig
    price: Price
    show: Show
    one_a_macro: bool = False
    unpriced: list[Architecture] = field(default_factory=list, init=False)

    def drawn(self, rng: np.random.Generator) -> list[Candidate]:
        """The most promising chains, and of many drawn ones, each improved by neighbours that promise more.

        Raises:
            UsageError: none of those drawn lies in the band.
        """
        config = self.config
        chains = _most_promising(self._chains(), min(config.chains, config.candidates))
        count = config.candidates - len(chains)
        found = self._new(lambda: self.space.draw(rng), config.drawn * count, chains)
        if not chains and not found:
            raise UsageError(
                f"none of {config.draws} networks of {len(self.space.macros)} macro configurations takes "
                f"{1 - config.band:.0%} to 100 % of {self.target_ms:g} ms by the table; choose another target or other "
                "`macros`."
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
            found += self._new(near, self.config.neighbours, (*known, *found))
        return found

    def _new(self, draw: Callable[[], Architecture], count: int, known: Sequence[Candidate]) -> list[Candidate]:
        found: list[Candidate] = []
        if not count:
            return found
        with self.show(f"draw networks of {self.target_ms:g} ms", self.config.draws, 0) as advance:
            for _ in range(self.config.draws):
                network, others = draw(), [one for one, _ in (*known, *found)]
                advance(note=self._note(found))
                taken = network.macro in [one.macro for one in others] if self.one_a_macro else network in others
                if not taken and (cost_ms := self._fitting_ms(network)) is not None:
                    found.append((network, cost_ms))
                if len(found) == count:
                    break
        return found

    def _chains(self) -> list[Candidate]:
        if self.one_a_macro or not self.config.chains:
            return []
        with self.show("price chains of convolutions", len(self.space.chains), 0) as advance:
            found: list[Candidate] = []
            for network in self.space.chains:
                advance(note=self._note(found))
                if (cost_ms := self._fitting_ms(network)) is not None:
                    found.append((network, cost_ms))
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
                    if (cost_ms := self._fitting_ms(near)) is not None:
                        found[place] = near, cost_ms
        return found

    def _fitting_ms(self, network: Architecture) -> float | None:
        """What a network takes; None where that is not in the band, or the table hardly knows a kernel of it."""
        try:
            cost_ms = self.price(network)
        except MissingRowError:
            self.unpriced.append(network)
            return None
        return cost_ms if (1 - self.config.band) * self.target_ms <= cost_ms <= self.target_ms else None

    def _note(self, found: Sequence[Candidate]) -> str:
        return f"{len(found)} found" + (f", {len(self.unpriced)} without a price" if self.unpriced else "")


def _most_promising(found: Sequence[Candidate], count: int) -> list[Candidate]:
    """The most promising of each distance between logits in turn; across distances a promise does not compare."""
    ranked: dict[int, list[Candidate]] = {}
    for candidate in sorted(found, key=lambda candidate: -promise(candidate[0])):
        ranked.setdefault(_stride(candidate[0]), []).append(candidate)
    turns = itertools.zip_longest(*ranked.values())
    return [candidate for turn in turns for candidate in turn if candidate is not None][:count]


def _stride(network: Architecture) -> int:
    return network.macro.logit_stride
