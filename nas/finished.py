"""Whether what an earlier run left in a folder is of the configuration at hand."""

from __future__ import annotations

from latencykit.architecture import read_architecture
from latencykit.baselines import Baseline
from latencykit.errors import InputError
from latencykit.macro import Macro
from latencykit.schema import decode, read_json
from nas.checkpoint import load_checkpoint
from nas.config import Row, RunConfig, SearchConfig, TrainConfig
from nas.data import Dataset
from nas.learning import ARCHITECTURE_FILE, CHECKPOINT_FOLDER
from nas.race import MAX_RACE_BYTES, RACE_FILE, RACE_FOLDER, question
from nas.trained import TRAINING_FILE, read_training
from nas.workspace import SeedFolder, Workspace


def check_finished(config: RunConfig, dataset: Dataset, workspace: Workspace) -> None:
    """Refuse finished models of another configuration or data set: results would name what they are not of.

    A search or training that is still under way is checked where it goes on. What was published without its training
    facts or checkpoint cannot be checked.

    Raises:
        InputError: naming the folder and what differs.
    """
    data_sha256 = dataset.of_split("train").sha256
    for row, seed in config.tasks():
        folder = workspace.seed(row.name, seed)
        if not folder.is_finished:
            continue
        if differs := [*_of_training(config, row, folder, data_sha256), *_of_network(config, row, folder)]:
            raise InputError(
                f"{folder.path} holds a model of other settings ({', '.join(differs)}); give the row another name, "
                "choose another --out, or delete that folder."
            )


def _of_training(config: RunConfig, row: Row, folder: SeedFolder, data_sha256: str) -> list[str]:
    if not (folder.train / TRAINING_FILE).exists():
        return []
    training = read_training(folder.train)
    trained_as = decode(TrainConfig, training.config, str(folder.train))
    return ["data"] * (training.data_sha256 != data_sha256) + ["train"] * (trained_as != config.train_of(row))


def _of_network(config: RunConfig, row: Row, folder: SeedFolder) -> list[str]:
    if row.kind == "baseline":
        path = folder.train / ARCHITECTURE_FILE
        same = not path.exists() or read_architecture(path) == (row.baseline or Baseline())
        return [] if same else ["baseline"]
    differs = []
    if row.macros is not None and (raced := folder.search / RACE_FOLDER / RACE_FILE).exists():
        racing, settings = config.race_of(row), config.search_of(row)
        search = settings if racing.racers == "supernets" else None
        asked = question(row.macros, settings.target_ms, racing, search)
        stored = read_json(raced, MAX_RACE_BYTES)
        if any(stored.get(name) != value for name, value in asked.items()):
            differs.append("race")
    saved = load_checkpoint(folder.search / CHECKPOINT_FOLDER)
    if saved is None:
        return differs
    where = str(folder.search)
    searched_as = decode(SearchConfig, saved.state["config"], where)
    macro = decode(Macro, saved.state["macro"], where)
    known = row.macros.macros if row.macros else (row.macro or Macro(),)
    return differs + ["search"] * (searched_as != config.search_of(row)) + ["macro"] * (macro not in known)
