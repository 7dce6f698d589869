"""Training of a plain network pair, searched or hand-made, by the same recipe (decisions 17, 19 and 26).

First the segmentation, with the quality network alongside; then, on patients that the segmentation has not seen, the
quality network alone, with bad frames among them (`nas.degradations`), so that its targets spread. Each phase keeps its
best epoch on the selection patients: by the Dice, then by the error of the predicted Dice on their good and bad frames.
A run writes `history.jsonl`, `checkpoint/` and, at its end, the files of `nas.trained`; started again, it goes on where
it was.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from latencykit.architecture import Network, architecture_to_json, network_graph
from latencykit.builder import QUALITY_CHANNELS, QUALITY_INPUT
from latencykit.errors import InterruptedRunError
from latencykit.lines import Show
from latencykit.progress import Stopwatch, progress
from latencykit.schema import to_json
from nas import checkpoint as files
from nas.config import TrainConfig
from nas.data import Dataset, split_by_patient
from nas.degradations import bad_frames
from nas.distributed import is_first, shown_once, wait
from nas.frames import Frames
from nas.learning import CHECKPOINT_FOLDER, FrameDice, Learner, Means, write_history
from nas.metrics import ACCEPTANCE_DICE
from nas.modules import GraphModule
from nas.objective import quality_loss, segmentation_loss
from nas.optimisation import computed_in, one_cycle_rate, set_rate, take_step
from nas.randomness import Stream, numpy_generator, shuffled_batches, torch_generator
from nas.trained import Trained, Training, is_trained, load_trained, save_trained

Phase = Literal["segmentation", "quality"]
PHASES: tuple[Phase, ...] = ("segmentation", "quality")


def train(
    network: Network,
    dataset: Dataset,
    config: TrainConfig,
    seed: int,
    out: Path,
    show: Show = progress,
) -> Trained:
    """Train a network pair, or go on with a training that was stopped.

    Args:
        network: an architecture or a hand-made pair.
        dataset: the patients of `train`; segmentation, quality and selection patients are drawn from them.
        config: how.
        seed: of everything random.
        out: the run's folder.
        show: how far it is.

    Raises:
        InputError: data that do not fit, or a folder with another run.
        RegressionError: the loss diverged; the last whole epoch's checkpoint is kept.
        InterruptedRunError: stopped by the user; the same call goes on.
    """
    run = _Run(network, dataset, config, seed, out)
    if run.phase is not None or not is_trained(out):
        _finish(run, network, out, show)
    wait()
    return load_trained(out)


def _finish(run: _Run, network: Network, out: Path, show: Show) -> None:
    """The epochs that are left; write what came of them."""
    config = run.config
    try:
        with shown_once(show)(f"train {out}", config.epochs + config.quality_epochs, len(run.history)) as advance:
            while run.phase is not None:
                run.epoch(run.phase)
                run.save()
                advance(note=f"Dice {run.history[-1]['dice_selection']:.4f}")
    except KeyboardInterrupt as error:
        raise InterruptedRunError(
            f"training stopped after {len(run.history)} epochs; the same command goes on from {out}."
        ) from error
    facts = run.facts()
    if is_first():
        save_trained(out, network, run.best, facts)


SPLIT_SEED = 0
"""Every seed trains and selects on the same patients, so that the best of several seeds is not the easiest draw."""


def training_parts(dataset: Dataset, config: TrainConfig) -> dict[str, Dataset]:
    """The patients of a training by what they are for: `segmentation`, `quality` and `selection`."""
    shares = {
        "segmentation": config.segmentation_share,
        "quality": config.quality_share,
        "selection": config.selection_share,
    }
    return split_by_patient(dataset, shares, SPLIT_SEED)


class _Run:
    """The state of a training, its epochs, and its way to disk and back.

    Attributes:
        config: how.
        history: one record an epoch.
        best: the module's state after the best epoch of the phase, or of the last one.
    """

    def __init__(self, network: Network, dataset: Dataset, config: TrainConfig, seed: int, out: Path) -> None:
        self._dataset, self.config, self._seed, self._out = dataset, config, seed, out
        graph = network_graph(network)
        self._module = GraphModule(graph, torch_generator(seed, Stream.WEIGHTS))
        self._module.set_statistics(dataset.channel_statistics())
        self._module.ignore(QUALITY_INPUT, [c for name in config.quality_without for c in QUALITY_CHANNELS[name]])
        self._learner = Learner(
            self._module, computed_in(config.precision, config.device), config.device, config.stop_gradient
        )
        self._size = next(iter(graph.inputs.values()))[1]
        parts = training_parts(dataset, config)
        self._frames = {name: Frames(part, self._size) for name, part in parts.items()}
        self._frames["bad selection"] = self._bad(parts["selection"])
        self.history: list[dict[str, Any]] = []
        self._begin("segmentation")
        self._fingerprint = files.fingerprint(
            config=to_json(config), network=architecture_to_json(network), seed=seed, data=dataset.sha256
        )
        self._resume()

    @property
    def phase(self) -> Phase | None:
        """The phase of the next epoch; None at the end. A function of the history alone."""
        for phase, epochs in zip(PHASES, (self.config.epochs, self.config.quality_epochs), strict=True):
            past = self._past(phase)
            patient = not self.config.patience or not past or past[-1]["waited"] < self.config.patience
            if len(past) < epochs and patient:
                return phase
        return None

    def _past(self, phase: Phase) -> list[dict[str, Any]]:
        return [record for record in self.history if record["phase"] == phase]

    def _begin(self, phase: Phase) -> None:
        self._parameters = self._module.quality_parameters() if phase == "quality" else [*self._module.parameters()]
        decay = self.config.weight_decay
        self._optimiser = torch.optim.AdamW(self._parameters, self.config.rate, weight_decay=decay, fused=True)
        self.best = files.snapshot(self._module)

    def epoch(self, phase: Phase) -> None:
        """Run one epoch and judge it."""
        config, watch, means, images = self.config, Stopwatch(), Means(), 0
        past, began = self._past(phase), {}
        if phase == "quality" and not past:  # go on from the best segmentation
            self._module.load_state_dict(self.best)
            self._begin(phase)
            began = {"began": -self._selection_mae(self._score("selection"))}
        epochs, rate = (config.epochs, config.rate)
        if phase == "quality":
            epochs, rate = config.quality_epochs, config.quality_rate
        position = (PHASES.index(phase), len(past))
        frames = self._frames[phase]
        rng = numpy_generator(self._seed, Stream.ORDER, *position)
        batches = shuffled_batches(len(frames), config.batch_size, rng, config.max_steps_per_epoch)
        self._module.train_parts(segmentation=phase == "segmentation", quality=True)
        for step, indices in enumerate(batches):
            set_rate(self._optimiser, one_cycle_rate(rate, (len(past) + step / len(batches)) / epochs))
            loss = (self._quality_loss if phase == "quality" else self._joint_loss)(indices, (*position, step), means)
            where = f"train: the loss of the {phase} in epoch {len(past)}, step {step}"
            take_step(self._optimiser, loss, self._parameters, config.clip, where)
            means.add(loss=loss.detach())
            images += len(indices)
        asked = phase == "quality" or config.lambda_quality > 0
        self._judge(phase, past, self._score("selection", asked), began)
        self.history[-1] |= means.as_dict() | {"seconds": watch.seconds, "images_per_s": images / watch.seconds}

    def _joint_loss(self, indices: npt.NDArray[np.int64], position: tuple[int, ...], means: Means) -> Tensor:
        config = self.config
        images, masks = self._learner.load(
            self._frames["segmentation"], indices, config.augmentation, self._seed, position
        )
        logits, dice = self._learner.forward(images, quality=config.lambda_quality > 0)
        loss, cross_entropy = segmentation_loss(logits, masks, config.dice_weight)
        means.add(cross_entropy=cross_entropy.detach())
        if dice is None:
            return loss
        mse = quality_loss(dice, logits, masks)
        means.add(mse=mse.detach())
        return loss + config.lambda_quality * mse

    def _quality_loss(self, indices: npt.NDArray[np.int64], position: tuple[int, ...], means: Means) -> Tensor:
        config, frames = self.config, self._frames["quality"]
        images, masks = self._learner.load(
            frames, indices, config.augmentation, self._seed, position, config.degradations
        )
        mse = self._learner.frozen_quality_loss(images, masks)
        means.add(mse=mse.detach())
        return mse

    def _bad(self, part: Dataset) -> Frames:
        degradations = self.config.degradations
        return Frames(bad_frames(part, degradations, degradations.seen), self._size)

    def _score(self, part: str, quality: bool = True) -> FrameDice:
        return self._learner.score(self._frames[part], self.config.batch_size, quality=quality)

    def _selection_mae(self, good: FrameDice) -> float:
        """Mean absolute error of the predicted Dice, good and bad frames of the selection patients counting alike."""
        return (good.mae + self._score("bad selection").mae) / 2

    def _judge(self, phase: Phase, past: list[dict[str, Any]], scores: FrameDice, began: dict[str, float]) -> None:
        """Append the record; keep the weights where they are best, in the quality phase better than it began."""
        mae = None if np.isnan(scores.predicted).any() else scores.mae
        score = -self._selection_mae(scores) if phase == "quality" else scores.dice
        earlier = [record[name] for record in (*past, began) for name in ("began", "score") if name in record]
        better = all(score > before for before in earlier)
        if better:
            self.best = files.snapshot(self._module)
        record = {"epoch": len(self.history), "phase": phase, "dice_selection": scores.dice, "mae_selection": mae}
        waited = past[-1]["waited"] if past else 0
        self.history.append(record | began | {"score": score, "waited": 0 if better else waited + 1})

    def facts(self) -> Training:
        """What is stored beside the weights; puts the best ones into the module."""
        self._module.load_state_dict(self.best)
        good, bad = self._score("selection"), self._score("bad selection")
        self._frames["bad quality"] = self._bad(training_parts(self._dataset, self.config)["quality"])
        return Training(
            seed=self._seed,
            dice_constant=self._score("quality", quality=False).dice,
            dice_constant_bad=self._score("bad quality", quality=False).dice,
            dice_selection=good.dice,
            mae_selection=good.mae,
            mae_selection_bad=bad.mae,
            failing_share=float((bad.actual < ACCEPTANCE_DICE).mean()),
            config=to_json(self.config),
            data=self._dataset.name,
            data_sha256=self._dataset.sha256,
            precision=self._learner.precision,
        )

    def save(self) -> None:
        """Write checkpoint and history."""
        tensors = (
            files.prefixed("weights", self._module.state_dict())
            | files.prefixed("best", self.best)
            | files.prefixed("optimiser", files.optimiser_tensors(self._optimiser))
        )
        state = {
            "kind": "train",
            "fingerprint": self._fingerprint,
            "precision": self._learner.precision,
            "seed": self._seed,
            "history": self.history,
        }
        files.save_checkpoint(self._out / CHECKPOINT_FOLDER, files.Checkpoint(tensors, state))
        write_history(self._out, self.history)

    def _resume(self) -> None:
        folder = self._out / CHECKPOINT_FOLDER
        saved = files.load_checkpoint(folder)
        if saved is None:
            return
        files.check_fingerprint(saved, self._fingerprint, self._out)
        self._learner = self._learner.as_begun(saved.state)
        self.history = [dict(record) for record in saved.state["history"]]
        if self.history[-1]["phase"] == "quality":
            self._begin("quality")
        best = files.without_prefix("best", saved.tensors)
        files.restore_module(self._module, best, folder)
        self.best = files.snapshot(self._module)
        files.restore_module(self._module, files.without_prefix("weights", saved.tensors), folder)
        files.restore_optimiser(self._optimiser, files.without_prefix("optimiser", saved.tensors))
