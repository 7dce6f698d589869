"""Trained weights on disk: `architecture.json`, `weights.safetensors`, and facts about them in `training.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latencykit.architecture import Network, network_graph, read_architecture, write_architecture
from latencykit.errors import InputError
from latencykit.files import write_bytes, write_json
from latencykit.schema import decode, read_json, to_json
from nas.checkpoint import read_tensors, restore_module, tensors_to_bytes
from nas.learning import ARCHITECTURE_FILE
from nas.modules import GraphModule
from nas.optimisation import Precision
from nas.workspace import WEIGHTS_FILE

TRAINING_FILE = "training.json"
TRAINING_SCHEMA = 2
MAX_TRAINING_BYTES = 1_000_000


@dataclass(frozen=True)
class Training:
    """Facts about trained weights.

    Attributes:
        seed: of the training.
        dice_constant, dice_constant_bad: mean Dice of the segmentation on the quality network's training patients, of
            their frames and of these degraded: what a predictor that does not look would say.
        dice_selection: mean Dice on the selection patients, by which the epoch was chosen.
        mae_selection, mae_selection_bad: mean absolute error of the predicted Dice there, as they are and degraded.
        failing_share: of the degraded ones, below the usual acceptance line.
        config: the `TrainConfig`.
        data: name of the data set.
        data_sha256: hash of the patients given.
        precision: that it was computed in, which a CPU decides too; None in older files, where it is the config's.
    """

    seed: int
    dice_constant: float
    dice_constant_bad: float
    dice_selection: float
    mae_selection: float
    mae_selection_bad: float
    failing_share: float
    config: dict[str, Any]
    data: str
    data_sha256: str
    precision: Precision | None = None
    schema: int = TRAINING_SCHEMA


@dataclass(frozen=True)
class Trained:
    """A trained network pair on the CPU, in evaluation mode."""

    network: Network
    module: GraphModule
    training: Training


def save_trained(out: Path, network: Network, weights: Mapping[str, Tensor], training: Training) -> None:
    """Write the three files; `training.json` comes last and says that the others are whole."""
    write_architecture(out / ARCHITECTURE_FILE, network)
    write_bytes(out / WEIGHTS_FILE, tensors_to_bytes(weights))
    write_json(out / TRAINING_FILE, to_json(training))


def is_trained(out: Path) -> bool:
    """Whether a folder holds facts and weights; those may be published without these."""
    return (out / TRAINING_FILE).exists() and (out / WEIGHTS_FILE).exists()


def read_training(out: Path) -> Training:
    """The facts alone, which are published without the weights; raises `InputError` where there are none."""
    path = out / TRAINING_FILE
    if not path.exists():
        raise InputError(f"{out} holds no finished training; `nas train ARCH --seed S --out {out}` makes one.")
    data = read_json(path, MAX_TRAINING_BYTES)
    found = data.get("schema") if isinstance(data, dict) else None
    if found != TRAINING_SCHEMA:
        raise InputError(f"{path}: schema {TRAINING_SCHEMA} expected, found {found}; train it again in a new folder.")
    return decode(Training, data, str(path))


def load_trained(out: Path) -> Trained:
    """Read what `save_trained` wrote; raises `InputError` where files are missing or do not fit together."""
    training = read_training(out)
    network = read_architecture(out / ARCHITECTURE_FILE)
    module = GraphModule(network_graph(network), torch.Generator())
    restore_module(module, read_tensors(out / WEIGHTS_FILE), out / WEIGHTS_FILE)
    return Trained(network, module.eval(), training)
