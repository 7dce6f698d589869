"""Which macro configuration? A race of networks that the table puts at the target.

Networks are drawn from all macro configurations at once; the most promising ones (`nas.promise`) of those whose
predicted latency lies just below the target train for a few epochs. For some generations the better ones stay and
bring neighbours along (regularised evolution, Real et al., AAAI 2019); then the better ones train anew for longer, and
so on (successive halving, Jamieson and Talwalkar, AISTATS 2016). A race writes `race.json`, its candidates as
`architecture.json` files and their trainings; started again, it goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from latencykit.architecture import read_architecture, write_architecture
from latencykit.edges import SearchCosts
from latencykit.errors import InputError
from latencykit.files import write_json
from latencykit.lines import Show
from latencykit.macro import Macro
from latencykit.progress import progress
from latencykit.schema import decode, read_json, to_json
from latencykit.space import Architecture
from nas.candidates import Candidate, Finder, Price
from nas.config import Device, RaceConfig, SearchConfig, TrainConfig
from nas.data import Dataset
from nas.distributed import first_alone, processes, shown_once, silent
from nas.engines import outcomes
from nas.macro_space import MacroSpace
from nas.randomness import Stream, numpy_generator
from nas.search import search
from nas.train import train

RACE_FOLDER = "race"
RACE_FILE = "race.json"
MAX_RACE_BYTES = 10_000_000
TOLERANCE = 0.03
"""A network meets a target that it is above by this part at most."""


@dataclass(frozen=True)
class Entry:
    """A candidate's outcome of one round.

    Attributes:
        network: the candidate.
        predicted_ms: by the table.
        epochs: of its segmentation's training, or of its supernet's search.
        dice: of the selection patients' frames.
        mae: of their predicted Dice; after a training, the mean of good and bad frames' errors.
        score: Dice, in the last round less the weighted error: after few epochs that says nothing of what it will be.
    """

    network: Architecture
    predicted_ms: float
    epochs: int
    dice: float
    mae: float
    score: float

    def meets(self, target_ms: float) -> bool:
        """Whether the table puts it at a target or below, within the tolerance."""
        return self.predicted_ms <= (1 + TOLERANCE) * target_ms


@dataclass(frozen=True)
class Race:
    """A race that has been run: every round's entries, the best first."""

    rounds: tuple[tuple[Entry, ...], ...]

    @property
    def winner(self) -> Entry:
        """The best of the last round."""
        return self.rounds[-1][0]


@dataclass(frozen=True)
class Judge:
    """Trains candidates alike, to say what they reach.

    Attributes:
        config: the race's.
        training: the recipe; its epochs are the race's.
        dataset: the patients of `train`.
        price: of a network, ms.
        seed: of everything random.
        show: how far it is.
    """

    config: RaceConfig
    training: TrainConfig
    dataset: Dataset
    price: Price
    seed: int
    show: Show = progress

    @property
    def device(self) -> Device:
        """Where it is done."""
        return self.training.device

    def __call__(self, network: Architecture, predicted_ms: float, epochs: int, out: Path) -> Entry:
        """Train a network for so many epochs in a folder, or go on with that."""
        quality_epochs = max(1, round(epochs * self.config.quality_share))
        recipe = replace(self.training, epochs=epochs, quality_epochs=quality_epochs)
        facts = train(network, self.dataset, recipe, self.seed, out, self.show).training
        mae = (facts.mae_selection + facts.mae_selection_bad) / 2
        return Entry(
            network, predicted_ms, epochs, facts.dice_selection, mae, self._score(facts.dice_selection, mae, epochs)
        )

    def _score(self, dice: float, mae: float, epochs: int) -> float:
        """As `Entry.score` says."""
        return dice - (self.config.quality_weight * mae if epochs == self.config.epochs[-1] else 0.0)


@dataclass(frozen=True)
class SupernetJudge(Judge):
    """Searches the cells of candidates' macro configurations, for few epochs; what counts is what is derived.

    No neighbours join: a candidate's own cells, which they would be priced by, are not what is found.

    Attributes:
        settings: of the search; its epochs are the race's.
        costs: of a macro configuration's candidates.
    """

    settings: SearchConfig = field(kw_only=True)
    costs: Callable[[Macro], SearchCosts] = field(kw_only=True)

    @property
    def device(self) -> Device:
        return self.settings.device

    def __call__(self, network: Architecture, predicted_ms: float, epochs: int, out: Path) -> Entry:
        """Search in a network's macro configuration for so many epochs, or go on with that."""
        warmup = round(epochs * self.settings.warmup_epochs / self.settings.epochs)
        settings = replace(self.settings, epochs=epochs, warmup_epochs=min(max(1, warmup), epochs - 1))
        found = search(settings, self.dataset, network.macro, self.costs(network.macro), self.seed, out, self.show)
        last = found.history[-1]
        dice, mae = last["dice_derived"], last["mae_derived"]
        cost_ms = self.price(found.architecture)
        return Entry(found.architecture, cost_ms, epochs, dice, mae, self._score(dice, mae, epochs))


def race(space: MacroSpace, target_ms: float, judge: Judge, out: Path) -> Race:
    """Race networks of all macro configurations that meet a target, or go on with a race that was stopped.

    On the CPU as many candidates are judged side by side as torch has threads, in processes of one thread each.

    Args:
        space: the macro configurations.
        target_ms: what the winner may take.
        judge: how candidates are priced and trained, or their supernets searched, and what counts.
        out: the race's folder.

    Raises:
        UsageError: no network of the space meets the target.
        InputError: a folder with another race.
    """
    config = judge.config
    asked = question(space, target_ms, config, judge.settings if isinstance(judge, SupernetJudge) else None)
    asked |= _plain({"training": judge.training, "seed": judge.seed, "data_sha256": judge.dataset.sha256})
    first_alone(lambda: _require_same(out, asked))
    finder = Finder(space, target_ms, config, judge.price, shown_once(judge.show), isinstance(judge, SupernetJudge))
    generations = 0 if finder.one_a_macro else config.generations
    networks: list[Candidate] = []
    standing: list[int] = []
    entries: dict[tuple[int, int], Entry] = {}
    rounds: list[tuple[Entry, ...]] = []
    for index, epochs in enumerate([*config.epochs[:1] * (1 + generations), *config.epochs[1:]]):
        if rounds:
            standing = standing[: max(1, len(rounds[0]) // config.keep_one_of ** max(1, index - generations))]
        if index <= generations:
            parents = [networks[number][0] for number in standing]
            entering = first_alone(partial(_entering, finder, judge.seed, out, index, parents, networks))
            standing += range(len(networks), len(networks) + len(entering))
            networks += entering
        new = [number for number in standing if (number, epochs) not in entries]
        tasks = {number: (*networks[number], epochs, out / f"{number:03d}" / f"epochs{epochs}") for number in new}
        entries |= {(number, epochs): entry for number, entry in _judged(judge, tasks).items()}
        of_round = {number: entries[number, epochs] for number in standing}
        standing = sorted(standing, key=lambda n: (not of_round[n].meets(target_ms), -of_round[n].score))
        rounds.append(tuple(of_round[number] for number in standing))
    return Race(tuple(rounds))


_Task = tuple[Architecture, float, int, Path]
"""What a judge is asked."""


def _judged(judge: Judge, tasks: Mapping[int, _Task]) -> dict[int, Entry]:
    jobs = torch.get_num_threads()
    if jobs == 1 or processes() > 1 or judge.device != "cpu":
        return {number: judge(*task) for number, task in tasks.items()}
    entries: dict[int, Entry] = {}
    quiet = replace(judge, show=silent)
    with judge.show(f"race of {len(tasks)} candidates", len(tasks), 0) as advance:
        for number, entry in outcomes([(quiet, *item) for item in tasks.items()], _judge_one, jobs):
            entries[number] = entry
            advance(note=f"Dice {entry.dice:.4f}")
    return entries


def _judge_one(asked: tuple[Judge, int, _Task]) -> tuple[int, Entry]:
    judge, number, task = asked
    torch.set_num_threads(1)
    return number, judge(*task)


def question(
    space: MacroSpace, target_ms: float | None, config: RaceConfig, search: SearchConfig | None
) -> dict[str, Any]:
    """What a race is about, as JSON data; the search's settings where supernets race."""
    return _plain({"space": space, "target_ms": target_ms, "config": config} | ({"search": search} if search else {}))


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """As a file gives it back."""
    found: dict[str, Any] = json.loads(json.dumps(to_json(value)))
    return found


def _require_same(out: Path, asked: dict[str, Any]) -> None:
    """Enter what is asked, or raise unless the folder is of the same race."""
    path = out / RACE_FILE
    if not path.exists():
        write_json(path, asked)
    elif read_json(path, MAX_RACE_BYTES) != asked:
        raise InputError(f"{out} holds a race of another question; choose another folder or delete it.")


def _entering(
    finder: Finder, seed: int, out: Path, index: int, parents: Sequence[Architecture], known: Sequence[Candidate]
) -> list[Candidate]:
    """The networks that a round begins with, beside those that are left: drawn ones, then neighbours of those.

    They are found once; their prices are then in the round's file.
    """
    path = out / f"round{index}.json"
    if path.exists():
        prices = decode(list[float], read_json(path, MAX_RACE_BYTES), str(path))
        numbers = range(len(known), len(known) + len(prices))
        return [(_searched(out / f"{number:03d}.json"), ms) for number, ms in zip(numbers, prices, strict=True)]
    rng = numpy_generator(seed, Stream.RACE, index)
    found = finder.neighbours(parents, rng, known) if parents else finder.drawn(rng)
    for number, (network, _) in enumerate(found, start=len(known)):
        write_architecture(out / f"{number:03d}.json", network)
    write_json(path, [cost_ms for _, cost_ms in found])
    return found


def _searched(path: Path) -> Architecture:
    network = read_architecture(path)
    if not isinstance(network, Architecture):
        raise InputError(f"{path} is a hand-made pair; expected a network of the search space.")
    return network
