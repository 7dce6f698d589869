"""The hardware-aware search: a supernet's weights and its architecture parameters, in turn (decisions 17 to 24).

Every epoch goes over D_seg train (both networks, Eq. 3; after the warm-up, an architecture step before every weight
step) and then over D_seg eval (the segmentation frozen, the quality network's weights only). A run writes
`history.jsonl`, `checkpoint/` and, at its end, `architecture.json`; started again, it goes on where it was.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latencykit.architecture import write_architecture
from latencykit.edges import SearchCosts
from latencykit.errors import InterruptedRunError
from latencykit.lines import Advance, Show
from latencykit.macro import Macro
from latencykit.progress import Stopwatch, progress
from latencykit.space import Architecture
from nas.config import SearchConfig
from nas.data import Dataset
from nas.distributed import is_first, shown_once, wait
from nas.learning import ARCHITECTURE_FILE, Means
from nas.modules import Probabilities
from nas.objective import quality_loss, segmentation_loss
from nas.optimisation import annealed_temperature, cosine_rate, set_rate, take_gradients, take_step
from nas.randomness import Stream, torch_generator
from nas.search_state import Part, SearchState
from nas.supernet import fair_paths, one_hot

Indices = npt.NDArray[np.int64]


class _Step(IntEnum):
    """The kinds of steps, part of a step's position in the run's randomness."""

    WEIGHTS = 0
    ARCHITECTURE = 1
    QUALITY = 2


@dataclass(frozen=True)
class SearchResult:
    """What a search found, and how it got there, one record an epoch."""

    architecture: Architecture
    history: tuple[dict[str, Any], ...]


def search(
    config: SearchConfig,
    dataset: Dataset,
    macro: Macro,
    costs: SearchCosts,
    seed: int,
    out: Path,
    show: Show = progress,
) -> SearchResult:
    """Search an architecture, or go on with a search that was stopped.

    Args:
        config: how.
        dataset: the patients of `train`, none of those to be reported on.
        macro: everything of the network that is not searched.
        costs: milliseconds of the fixed part and of each candidate.
        seed: of everything random.
        out: the run's folder.
        show: how far it is.

    Raises:
        InputError: data or costs that do not fit, or a folder with another run.
        RegressionError: the loss diverged; the last whole epoch's checkpoint is kept.
        InterruptedRunError: stopped by the user; the same call goes on.
    """
    state = SearchState(config, dataset, macro, costs, seed, out)
    done = len(state.history)
    steps = state.steps_per_epoch
    try:
        with shown_once(show)(f"search {out}", config.epochs * steps, done * steps) as advance:
            for epoch in range(done, config.epochs):
                state.history.append(_Epoch(state, epoch).run(advance))
                state.save()
    except KeyboardInterrupt as error:
        raise InterruptedRunError(
            f"search stopped in epoch {len(state.history)} of {config.epochs}; the same command goes on from {out}."
        ) from error
    if is_first():
        write_architecture(out / ARCHITECTURE_FILE, state.architecture())
    wait()
    return SearchResult(state.architecture(), tuple(state.history))


class _Epoch:
    """One epoch: its settings, its steps, its record."""

    def __init__(self, state: SearchState, epoch: int) -> None:
        self._state, self._config, self._epoch = state, state.config, epoch
        config = state.config
        self._searching = epoch >= config.warmup_epochs
        self._temperature = annealed_temperature(
            config.temperature_start,
            config.temperature_end,
            max(epoch - config.warmup_epochs, 0),
            state.architecture_epochs,
        )
        self._auxiliary = config.auxiliary_skip * (1 - epoch / max(config.epochs - 1, 1))
        self._means, self._images = Means(), 0

    def run(self, advance: Advance) -> dict[str, Any]:
        """Go over both halves of the data; return the record."""
        state, module, watch = self._state, self._state.learner.module, Stopwatch()
        module.train_parts(segmentation=True, quality=True)
        weights = state.batches("weights", self._epoch)
        same = self._config.architecture_data == "same"
        architecture = weights if same else state.batches("architecture", self._epoch)
        for step, indices in enumerate(weights):
            done = (self._epoch + step / len(weights)) / self._config.epochs
            set_rate(state.weight_optimiser, cosine_rate(self._config.weight_rate, done))
            if self._searching:
                self._architecture_step(step, architecture[step % len(architecture)])
            self._weight_step(step, indices)
            advance()
        module.train_parts(segmentation=False, quality=True)
        for step, indices in enumerate(state.batches("quality", self._epoch)):
            self._quality_step(step, indices)
            advance()
        return self._record() | {"seconds": watch.seconds, "images_per_s": self._images / watch.seconds}

    def _weight_step(self, step: int, indices: Indices) -> None:
        with torch.no_grad():
            mixing, expected_ms = self._sample(step, _Step.WEIGHTS)
        task, cross_entropy, mse = self._task_losses("weights", indices, step, _Step.WEIGHTS, mixing)
        where = f"search: the loss in epoch {self._epoch}, step {step}"
        take_step(self._state.weight_optimiser, task, self._state.weights, self._config.clip, where)
        loss = task.detach() + self._latency_loss(expected_ms)
        self._means.add(loss=loss, cross_entropy=cross_entropy.detach(), mse=mse.detach())

    def _architecture_step(self, step: int, indices: Indices) -> None:
        state, target_ms = self._state, self._config.target_ms
        mixing, expected_ms = self._sample(step, _Step.ARCHITECTURE)
        task, _, _ = self._task_losses("architecture", indices, step, _Step.ARCHITECTURE, mixing)
        if target_ms is not None:
            self._steer(target_ms)
        loss = task + self._latency_loss(expected_ms)
        where = f"search: the architecture's loss in epoch {self._epoch}, step {step}"
        take_gradients(state.architecture_optimiser, loss, state.logits, where)

    def _steer(self, target_ms: float) -> None:
        """Dual ascent on the latency of what each edge prefers (LightNAS).

        A term in the violation itself damps it, as in an augmented Lagrangian; without one the multiplier, which only
        sums up, swings through the target.
        """
        state, gain = self._state, self._config.target_gain
        violation = state.costs.total_ms(state.strongest()) / target_ms - 1
        state.ascent += gain / state.architecture_steps * violation
        state.multiplier = state.ascent + gain * violation

    def _quality_step(self, step: int, indices: Indices) -> None:
        with torch.no_grad():
            mixing, _ = self._sample(step, _Step.QUALITY)
        images, masks = self._load("quality", indices, step, _Step.QUALITY)
        mse = self._state.learner.frozen_quality_loss(images, masks, mixing, self._auxiliary)
        where = f"search: the quality loss in epoch {self._epoch}, step {step}"
        take_step(self._state.weight_optimiser, mse, self._state.quality_weights, self._config.clip, where)
        self._means.add(mse_evaluation=mse.detach())

    def _sample(self, step: int, kind: _Step) -> tuple[Probabilities, Tensor]:
        """The probabilities to mix by, and the expected ms; both by one sample, or as Eqs. 1 to 4 have it.

        Where one path runs a step, weights see all candidates alike, and only architecture steps sample by alpha.
        """
        alphas, hard = self._state.alphas, self._config.paths == "sampled"
        if hard and kind != _Step.ARCHITECTURE:
            fair = fair_paths(self._state.macro.cell_nodes, self._state.seed, (self._epoch, kind), step)
            return self._state.on_device(fair), self._state.latency(alphas.softmax())
        generator = torch_generator(self._state.seed, Stream.PATHS, self._epoch, step, kind)
        sample = alphas.gumbel_softmax(self._temperature, generator, hard)
        mixing = sample if hard or self._config.sampling == "gumbel" else alphas.softmax()
        return mixing, self._state.latency(sample)

    def _load(self, part: Part, indices: Indices, step: int, kind: _Step) -> tuple[Tensor, Tensor]:
        self._images += len(indices)
        position = (self._epoch, step, kind)
        frames, augmentation = self._state.frames[part], self._config.augmentation
        return self._state.learner.load(frames, indices, augmentation, self._state.seed, position)

    def _task_losses(
        self, part: Part, indices: Indices, step: int, kind: _Step, mixing: Probabilities
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What Eq. 3 has without LAT; the cross-entropy and the quality loss in it."""
        images, masks = self._load(part, indices, step, kind)
        logits, dice = self._state.learner.forward(images, mixing, auxiliary=self._auxiliary)
        assert dice is not None  # the forward pass is of both networks
        segmentation, cross_entropy = segmentation_loss(logits, masks, self._config.dice_weight)
        mse = quality_loss(dice, logits, masks)
        return segmentation + self._config.lambda_quality * mse, cross_entropy, mse

    def _latency_loss(self, expected_ms: Tensor) -> Tensor:
        """lambda2 LAT, or t (LAT / target - 1) (decision 24)."""
        if self._config.target_ms is None:
            return self._config.lambda_latency * expected_ms
        return self._state.multiplier * (expected_ms / self._config.target_ms - 1)

    @torch.no_grad()
    def _record(self) -> dict[str, Any]:
        state, means = self._state, self._means
        probabilities, architecture = state.alphas.softmax(), state.architecture()
        selection, size = state.frames["selection"], self._config.batch_size
        derived = state.learner.score(selection, size, state.on_device(one_hot(architecture)))
        scores = derived
        if self._config.paths == "all":
            scores = state.learner.score(selection, size, probabilities)
        counts = Counter(name for chosen in architecture.choices.values() for name in chosen)
        return {
            "epoch": self._epoch,
            "phase": "search" if self._searching else "warmup",
            "temperature": self._temperature,
            "loss": means["loss"],
            "cross_entropy": means["cross_entropy"],
            "mse": means["mse"],
            "mse_evaluation": means["mse_evaluation"],
            "expected_ms": float(state.latency(probabilities)),
            "derived_ms": state.costs.total_ms(architecture),
            "multiplier": state.multiplier,
            "entropy": state.alphas.entropy(),
            "op_counts": dict(sorted(counts.items())),
            "dice_selection": scores.dice,
            "dice_derived": derived.dice,
            "mae_selection": scores.mae,
            "mae_derived": derived.mae,
        }
