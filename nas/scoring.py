"""Scores of exported models, frame by frame, on disk; the report split is scored once and every scoring is logged."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from latencykit.errors import InputError, UsageError
from latencykit.files import write_json, write_text
from latencykit.lowering import onnx_to_graph
from latencykit.outside import check_outside
from latencykit.progress import progress
from latencykit.runtime import Session, Setting
from latencykit.schema import decode, read_json
from nas.data import Dataset
from nas.evaluate import Predictor, predict
from nas.metrics import FrameScores, frame_scores
from nas.provenance import file_sha256
from nas.results import Subset
from nas.workspace import SELECTION

DICE_CONSTANT_KEY = "dice_constant"
DICE_CONSTANT_BAD_KEY = "dice_constant_bad"
"""Metadata of an exported graph: mean Dice on the quality network's training patients, the constant predictor, for
frames as they are and for degraded ones."""
MAX_SCORES_BYTES = 200_000_000
SCORING = Setting(threads=1, pinned=False, denormals_as_zero=False)
"""Scoring runs beside torch, whose thread must not be left flushing denormals."""


def dice_constant_of(model: Path, key: str = DICE_CONSTANT_KEY) -> float:
    """The constant predictor that an exported model brings along; raises `InputError` where it has none."""
    graph, _ = onnx_to_graph(check_outside(model), str(model))
    try:
        return float(graph.metadata[key])
    except (KeyError, ValueError) as error:
        raise InputError(f"{model} names no {key}; export it again with `nas export`.") from error


def seed_of(model: Path) -> int:
    """The seed that an exported model was trained under; raises `InputError` where it does not say."""
    graph, _ = onnx_to_graph(check_outside(model), str(model))
    try:
        return int(graph.metadata["seed"])
    except (KeyError, ValueError) as error:
        raise InputError(f"{model} names no seed; export it again with `nas export`.") from error


def score_model(model: Path, dataset: Dataset, constant_key: str = DICE_CONSTANT_KEY) -> FrameScores:
    """Score an exported model on every frame of a data set through onnxruntime, as it is deployed."""
    constant = dice_constant_of(model, constant_key)
    with Session(model, SCORING, ()) as session, progress(f"score {len(dataset)} frames", len(dataset)) as advance:

        def counted(image: Any) -> Any:
            advance()
            return session.run({"image": image})

        predictor: Predictor = counted
        found = predict(dataset, predictor)
    return frame_scores(
        found.masks, dataset.masks, found.dice, dataset.spacing_mm, constant,
        uncertainty=found.uncertainty, patients=dataset.patients.tolist(),
    )  # fmt: skip


Scored = dict[tuple[str, int, str], dict[Subset, FrameScores]]
"""Scores by (row, seed, split), then by subset."""


def best_seed(scores: Scored, row: str, seeds: Iterable[int]) -> int:
    """The seed of a row that is best on the selection patients."""
    return max(seeds, key=lambda seed: float(scores[row, seed, SELECTION]["all"].dice.mean()))


def subsets(scores: FrameScores, degraded: npt.NDArray[np.bool_]) -> dict[Subset, FrameScores]:
    """All frames, and where some were acquired badly, these and the others."""
    found: dict[Subset, FrameScores] = {"all": scores}
    if degraded.any():
        found["degraded"] = scores.select(degraded)
        if not degraded.all():
            found["clean"] = scores.select(~degraded)
    return found


@dataclass(frozen=True)
class _ScoresFile:
    model_sha: str
    data_sha: str
    dice: tuple[float, ...]
    hd95_mm: tuple[float | None, ...]
    asd_mm: tuple[float | None, ...]
    dice_predicted: tuple[float, ...]
    dice_constant: float
    acceptance: float
    trivial: dict[str, tuple[float, ...]] = field(default_factory=dict)
    patients: tuple[str, ...] = ()

    def scores(self) -> FrameScores:
        arrays = (self.dice, self.hd95_mm, self.asd_mm, self.dice_predicted)
        trivial = {name: np.array(values, np.float64) for name, values in self.trivial.items()}
        dice, hd95_mm, asd_mm, predicted = (np.array(a, np.float64) for a in arrays)
        return FrameScores(
            dice, hd95_mm, asd_mm, predicted, self.dice_constant, self.acceptance, trivial, self.patients
        )


def stored_scores(path: Path, model: Path, dataset: Dataset) -> FrameScores | None:
    """The scores at `path`, None where they are absent or of another data set or model; the model may be elsewhere.

    Scores that name no patients, as they were stored once, are none where the model is here to score again.
    """
    if not path.exists():
        return None
    file = _read(path)
    if model.exists() and not file.patients:
        return None
    if file.data_sha != dataset.sha256 or (model.exists() and file.model_sha != file_sha256(model)):
        return None
    return file.scores()


def read_scores(path: Path) -> FrameScores:
    """The scores at `path`, whatever they are of; raises `InputError` where there are none."""
    return _read(path).scores()


def _read(path: Path) -> _ScoresFile:
    return decode(_ScoresFile, read_json(path, MAX_SCORES_BYTES), str(path))


def write_scores(path: Path, scores: FrameScores, model: Path, dataset: Dataset) -> None:
    """Keep the scores of a model on a data set."""
    data: dict[str, Any] = {key: value for key, value in asdict(scores).items() if not isinstance(value, np.ndarray)}
    data["trivial"] = {name: values.tolist() for name, values in scores.trivial.items()}
    for name in ("dice", "hd95_mm", "asd_mm", "dice_predicted"):
        data[name] = [None if np.isnan(value) else float(value) for value in getattr(scores, name)]
    write_json(path, {"model_sha": file_sha256(model), "data_sha": dataset.sha256, **data})


def log_final(log: Path, row: str, seed: int, model: Path, dataset: Dataset) -> None:
    """Enter a scoring of the report split into its log.

    Raises:
        UsageError: this row and seed has been scored before with another model: the report split is scored once.
    """
    entry = {"row": row, "seed": seed, "model_sha": file_sha256(model), "data_sha": dataset.sha256}
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    for line in lines:
        before = _logged(line, log)
        if (before["row"], before["seed"]) == (row, seed) and before["model_sha"] != entry["model_sha"]:
            raise UsageError(
                f"{row} seed {seed} was scored on the report split before, with other weights ({before['time']}). It "
                f"is scored once per row: start a new results folder, or delete its line in {log} and say that you did."
            )
    entry["time"] = datetime.now(UTC).isoformat(timespec="seconds")
    write_text(log, "".join(f"{line}\n" for line in [*lines, json.dumps(entry)]))


def _logged(line: str, log: Path) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or not {"row", "seed", "model_sha", "time"} <= entry.keys():
        raise InputError(f"{log}: {line[:80]!r} is no logged scoring, a line of JSON expected; restore or delete it.")
    return entry
