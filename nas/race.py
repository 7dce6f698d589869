"""Which macro configuration? A race of networks that the table puts at the target (successive halving).

Networks are drawn from all macro configurations at once; those whose predicted latency lies just below the target
train for a few epochs, the better ones train anew for longer, and so on (Jamieson and Talwalkar, AISTATS 2016). A race
writes `race.json`, its candidates as `architecture.json` files and their trainings; started again, it goes on where it
was.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from latencykit.architecture import read_architecture, write_architecture
from latencykit.errors import InputError, MissingRowError, UsageError
from latencykit.files import write_json
from latencykit.lines import Show
from latencykit.progress import progress
from latencykit.schema import decode, read_json, to_json
from latencykit.space import Architecture
from nas.config import RaceConfig, TrainConfig
from nas.data import Dataset
from nas.distributed import first_alone, shown_once
from nas.macro_space import MacroSpace
from nas.randomness import Stream, numpy_generator
from nas.train import train

RACE_FILE = "race.json"
MAX_RACE_BYTES = 10_000_000

Price = Callable[[Architecture], float]
"""The latency of a network in ms, by a table."""


@dataclass(frozen=True)
class Entry:
    """A candidate's outcome of one round.

    Attributes:
        network: the candidate.
        predicted_ms: by the table.
        epochs: of its segmentation's training.
        dice: of the selection patients' frames.
        mae: of their predicted Dice, good and bad frames counting alike.
        score: Dice less the weighted error.
    """

    network: Architecture
    predicted_ms: float
    epochs: int
    dice: float
    mae: float
    score: float


@dataclass(frozen=True)
class Race:
    """A race that has been run: the winner, and every round's entries, the best first."""

    winner: Architecture
    rounds: tuple[tuple[Entry, ...], ...]


def race(
    space: MacroSpace,
    price: Price,
    target_ms: float,
    config: RaceConfig,
    training: TrainConfig,
    dataset: Dataset,
    seed: int,
    out: Path,
    show: Show = progress,
) -> Race:
    """Race networks of all macro configurations that meet a target, or go on with a race that was stopped.

    Args:
        space: the macro configurations.
        price: of a network, ms.
        target_ms: what the winner may take.
        config: how many, for how long.
        training: the recipe; its epochs are the race's.
        dataset: the patients of `train`.
        seed: of everything random.
        out: the race's folder.
        show: how far it is.

    Raises:
        UsageError: no network of the space meets the target.
        InputError: a folder with another race.
    """
    asked = {"space": space, "target_ms": target_ms, "config": config, "training": training, "seed": seed}
    first_alone(lambda: _require_same(out, asked | {"data_sha256": dataset.sha256}))
    networks = first_alone(lambda: _drawn(space, price, target_ms, config, seed, out, shown_once(show)))
    standing = list(range(len(networks)))
    rounds: list[tuple[Entry, ...]] = []
    for index, epochs in enumerate(config.epochs):
        entries = {}
        for candidate in standing:
            folder = out / f"{candidate:03d}" / f"round{index}"
            network, cost_ms = networks[candidate]
            entries[candidate] = _judge(network, cost_ms, config, epochs, training, dataset, seed, folder, show)
        standing = sorted(standing, key=lambda candidate: -entries[candidate].score)
        rounds.append(tuple(entries[candidate] for candidate in standing))
        standing = standing[: max(1, len(standing) // config.keep_one_of)]
    return Race(networks[standing[0]][0], tuple(rounds))


def judge(
    network: Architecture,
    cost_ms: float,
    config: RaceConfig,
    training: TrainConfig,
    dataset: Dataset,
    seed: int,
    out: Path,
    show: Show = progress,
) -> Entry:
    """What a network reaches that is trained as in the race's last round; arguments as for `race`."""
    return _judge(network, cost_ms, config, config.epochs[-1], training, dataset, seed, out, show)


def _judge(
    network: Architecture,
    cost_ms: float,
    config: RaceConfig,
    epochs: int,
    training: TrainConfig,
    dataset: Dataset,
    seed: int,
    out: Path,
    show: Show,
) -> Entry:
    recipe = replace(training, epochs=epochs, quality_epochs=max(1, round(epochs * config.quality_share)))
    facts = train(network, dataset, recipe, seed, out, show).training
    mae = (facts.mae_selection + facts.mae_selection_bad) / 2
    return Entry(
        network, cost_ms, epochs, facts.dice_selection, mae, facts.dice_selection - config.quality_weight * mae
    )


def _require_same(out: Path, asked: dict[str, Any]) -> None:
    """Enter what is asked, or raise unless the folder is of the same race."""
    path, plain = out / RACE_FILE, json.loads(json.dumps(to_json(asked)))
    if not path.exists():
        write_json(path, plain)
    elif read_json(path, MAX_RACE_BYTES) != plain:
        raise InputError(f"{out} holds a race of another question; choose another folder or delete it.")


def _drawn(
    space: MacroSpace, price: Price, target_ms: float, config: RaceConfig, seed: int, out: Path, show: Show
) -> list[tuple[Architecture, float]]:
    """The candidates with their prices; they are drawn once."""
    path = out / "candidates.json"
    if path.exists():
        prices = decode(list[float], read_json(path, MAX_RACE_BYTES), str(path))
        return [(_searched(out / f"{index:03d}.json"), cost_ms) for index, cost_ms in enumerate(prices)]
    rng = numpy_generator(seed, Stream.RACE)
    found: list[tuple[Architecture, float]] = []
    with show(f"draw networks of {target_ms:g} ms", config.draws) as advance:
        for _ in range(config.draws):
            network = space.draw(rng)
            advance(note=f"{len(found)} found")
            try:
                cost_ms = price(network)
            except MissingRowError:  # of a kind that the table hardly knows
                continue
            if (1 - config.band) * target_ms <= cost_ms <= target_ms and network not in [one for one, _ in found]:
                found.append((network, cost_ms))
                if len(found) == config.candidates:
                    break
    if not found:
        raise UsageError(
            f"none of {config.draws} networks of {len(space.macros())} macro configurations takes "
            f"{1 - config.band:.0%} to 100 % of {target_ms:g} ms by the table; choose another target or other `macros`."
        )
    for index, (network, _) in enumerate(found):
        write_architecture(out / f"{index:03d}.json", network)
    write_json(path, [cost_ms for _, cost_ms in found])
    return found


def _searched(path: Path) -> Architecture:
    network = read_architecture(path)
    if not isinstance(network, Architecture):
        raise InputError(f"{path} is a hand-made pair; expected a network of the search space.")
    return network
