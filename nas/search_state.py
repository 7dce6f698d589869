"""Everything that a search changes, and its way to disk and back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from latencykit.edges import SearchCosts
from latencykit.errors import InputError
from latencykit.keys import Level
from latencykit.macro import Macro
from latencykit.schema import decode, to_json
from latencykit.space import CELL_TYPES, Architecture, CellType, template
from nas import checkpoint as files
from nas.config import SearchConfig
from nas.data import Dataset, split_by_patient
from nas.derive import Rule, Tables, derive, derive_within
from nas.frames import Frames
from nas.learning import CHECKPOINT_FOLDER, Learner, write_history
from nas.modules import GraphModule, Probabilities
from nas.objective import ExpectedLatency
from nas.optimisation import computed_in
from nas.randomness import Stream, numpy_generator, shuffled_batches, torch_generator
from nas.supernet import ArchitectureParameters

Part = Literal["weights", "architecture", "quality", "selection"]
"""What the patients are for: weights and architecture share D_seg train, quality is D_seg eval."""

_STREAMS: tuple[Part, ...] = ("weights", "architecture", "quality")


class SearchState:
    """The state of a search.

    Attributes:
        learner: the supernet and how it is run.
        alphas: the architecture parameters; `architecture_optimiser` has these alone, `weight_optimiser` the weights.
        costs, latency: ms of each choice, and LAT(alpha) made of them.
        ascent, multiplier: the sum over past violations of the latency's target, and the violation's weight now.
        frames: the patients, by what they are for.
        history: one record an epoch.
    """

    def __init__(
        self, config: SearchConfig, dataset: Dataset, macro: Macro, costs: SearchCosts, seed: int, out: Path
    ) -> None:
        self.config, self.macro, self.seed, self.out = config, macro, seed, out
        if macro.image_size % config.image_divisor:
            raise InputError(
                f"search: image_divisor is {config.image_divisor}; expected a divisor of {macro.image_size} pixels."
            )
        shrunk = replace(macro, image_size=macro.image_size // config.image_divisor)
        self._folder = out / CHECKPOINT_FOLDER
        self._stage(dataset, shrunk.image_size)
        self.history: list[dict[str, Any]] = []
        self.ascent = self.multiplier = 0.0

        module = GraphModule(template(shrunk), torch_generator(seed, Stream.WEIGHTS))
        module.set_statistics(dataset.channel_statistics())
        self.learner = Learner(
            module, computed_in(config.precision, config.device), config.device, config.stop_gradient
        )
        generator = torch_generator(seed, Stream.ARCHITECTURE)
        self.alphas = ArchitectureParameters(macro.cell_nodes, generator).to(config.device)
        self.costs, self.latency = costs, ExpectedLatency(costs, config.device)
        self.weights = [*module.parameters()]
        self.quality_weights = module.quality_parameters()
        self.logits = [*self.alphas.parameters()]
        self.weight_optimiser = _weight_optimiser(self.weights, config)
        self.architecture_epochs = config.epochs - config.warmup_epochs
        self.architecture_steps = self.architecture_epochs * len(self.batches("weights", 0))
        rate = config.architecture_reach / self.architecture_steps
        self.architecture_optimiser = torch.optim.Adam(self.logits, rate, (0.5, 0.999))
        edges_ms = {t: np.asarray(costs.edges_ms[t]).tolist() for t in CELL_TYPES}
        self._fingerprint = files.fingerprint(
            config=to_json(config),
            macro=to_json(macro),
            seed=seed,
            data=dataset.sha256,
            costs=[costs.fixed_ms, edges_ms],
        )
        self._costs = {
            "fixed_ms": costs.fixed_ms, "edges_ms": edges_ms, "level": costs.level, "residual_pct": costs.residual_pct,
            "pace_hz": costs.pace_hz,
        }  # fmt: skip
        self._resume()

    def _stage(self, dataset: Dataset, image_size: int) -> None:
        config = self.config
        shares: dict[str, float] = {
            "weights": config.segmentation_share,
            "quality": config.quality_share,
            "selection": config.selection_share,
        }
        if config.architecture_data == "bilevel":
            shares["weights"] /= 2
            shares["architecture"] = shares["weights"]
        parts = split_by_patient(dataset, shares, self.seed)
        self.frames = {name: Frames(part, image_size) for name, part in parts.items()}
        self.frames.setdefault("architecture", self.frames["weights"])

    def batches(self, part: Part, epoch: int) -> list[npt.NDArray[np.int64]]:
        """Indices of the frames of each step of an epoch."""
        stream = _STREAMS.index(part)
        rng = numpy_generator(self.seed, Stream.ORDER, epoch, stream)
        count = len(self.frames[part])
        return list(shuffled_batches(count, self.config.batch_size, rng, self.config.max_steps_per_epoch))

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps on weights."""
        return len(self.batches("weights", 0)) + len(self.batches("quality", 0))

    def strongest(self) -> Architecture:
        """What the architecture parameters stand for now, whatever it takes; what a target's weight is steered by."""
        return derive(_tables(self.alphas), self.macro, self.config.derive)

    def architecture(self) -> Architecture:
        """What would be derived now: within the target, where there is one."""
        return _derived(self.alphas, self.macro, self.config, self.config.derive, self.costs)

    def on_device(self, probabilities: Probabilities) -> Probabilities:
        """Tables where the supernet lies."""
        return {cell_type: table.to(self.config.device) for cell_type, table in probabilities.items()}

    def save(self) -> None:
        """Write checkpoint and history."""
        tensors = (
            files.prefixed("weights", self.learner.module.state_dict())
            | files.prefixed("alphas", self.alphas.state_dict())
            | files.prefixed("weight_optimiser", files.optimiser_tensors(self.weight_optimiser))
            | files.prefixed("architecture_optimiser", files.optimiser_tensors(self.architecture_optimiser))
        )
        state = {
            "kind": "search",
            "fingerprint": self._fingerprint,
            "precision": self.learner.precision,
            "seed": self.seed,  # with the epoch, the whole random state
            "epoch": len(self.history),
            "ascent": self.ascent,
            "multiplier": self.multiplier,
            "macro": to_json(self.macro),
            "costs": self._costs,
            "config": to_json(self.config),
            "history": self.history,
        }
        files.save_checkpoint(self._folder, files.Checkpoint(tensors, state))
        write_history(self.out, self.history)

    def _resume(self) -> None:
        saved = files.load_checkpoint(self._folder)
        if saved is None:
            return
        files.check_fingerprint(saved, self._fingerprint, self.out)
        self.learner = self.learner.as_begun(saved.state)
        files.restore_module(self.learner.module, files.without_prefix("weights", saved.tensors), self._folder)
        files.restore_module(self.alphas, files.without_prefix("alphas", saved.tensors), self._folder)
        for name in ("weight_optimiser", "architecture_optimiser"):
            files.restore_optimiser(getattr(self, name), files.without_prefix(name, saved.tensors))
        self.history = [dict(record) for record in saved.state["history"]]
        self.ascent, self.multiplier = float(saved.state["ascent"]), float(saved.state["multiplier"])


def _weight_optimiser(weights: list[torch.nn.Parameter], config: SearchConfig) -> torch.optim.Optimizer:
    if config.weight_optimiser == "adamw":
        return torch.optim.AdamW(weights, config.weight_rate, weight_decay=config.weight_decay, fused=True)
    return torch.optim.SGD(weights, config.weight_rate, config.weight_momentum, weight_decay=config.weight_decay)


def _tables(alphas: ArchitectureParameters) -> Tables:
    """Probabilities, not logits: only they compare edges, since softmax does not see what an edge's logits share."""
    return {cell_type: row.detach().cpu().numpy() for cell_type, row in alphas.softmax().items()}


def _derived(
    alphas: ArchitectureParameters, macro: Macro, config: SearchConfig, rule: Rule, costs: SearchCosts
) -> Architecture:
    if rule == "argmax" and config.target_ms is not None:
        return derive_within(_tables(alphas), macro, costs, config.target_ms)
    return derive(_tables(alphas), macro, rule)


def derive_run(out: Path, rule: Rule) -> Architecture:
    """The architecture that a search, finished or not, stands for under a rule of choice; argmax heeds its target.

    Raises:
        InputError: the folder holds no search.
    """
    saved = files.load_checkpoint(out / CHECKPOINT_FOLDER)
    if saved is None or saved.state.get("kind") != "search":
        raise InputError(f"{out} holds no search; `nas search --out {out}` makes one.")
    macro = decode(Macro, saved.state["macro"], f"{out}: macro")
    config = decode(SearchConfig, saved.state["config"], f"{out}: config")
    costs = decode(_Costs, saved.state.get("costs"), f"{out}: costs")
    alphas = ArchitectureParameters(macro.cell_nodes, torch.Generator())
    files.restore_module(alphas, files.without_prefix("alphas", saved.tensors), out)
    return _derived(alphas, macro, config, rule, costs.as_searched())


@dataclass(frozen=True)
class _Costs:
    """`SearchCosts` as JSON."""

    fixed_ms: float
    edges_ms: dict[CellType, tuple[tuple[float, ...], ...]]
    level: Level
    residual_pct: float
    pace_hz: float | None = None

    def as_searched(self) -> SearchCosts:
        edges = {cell_type: np.array(rows) for cell_type, rows in self.edges_ms.items()}
        return SearchCosts(self.fixed_ms, edges, self.level, self.residual_pct, self.pace_hz)
