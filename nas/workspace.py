"""Where a run keeps its files.

::

    OUT/
      results.csv  table.md  contest.md  latencies.md  report.html  run.toml  final.jsonl  facts.json
      validation.png  history.png  pareto.png  quality.png  qualitative.png  cells.svg
      table.json                   the latency table, unless the configuration names one
      prices.json                  a copy with the kernels of the macro configurations to choose among
      validation.json              of the table
      latencies.json               what was timed, so that a rerun does not time it again
      <row>/model.onnx             the seed that is best on the selection patients
      <row>/architecture.json
      <row>/seed<N>/search/        history.jsonl, checkpoint/, architecture.json
      <row>/seed<N>/search/race/   of a row with `macros`; race.png and finalists.json beside it
      <row>/seed<N>/train/         history.jsonl, checkpoint/, weights.safetensors, training.json
      <row>/seed<N>/model.onnx
      <row>/seed<N>/scores-<split>.json, scores-<split>-<subset>.json
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from latencykit.errors import UsageError

MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "weights.safetensors"
SELECTION = "selection"
"""The split that is scored first: patients of `train` by which epochs and seeds are chosen."""


@dataclass(frozen=True)
class SeedFolder:
    """The files of one row under one seed."""

    path: Path

    @property
    def search(self) -> Path:
        """The search's run folder."""
        return self.path / "search"

    @property
    def train(self) -> Path:
        """The training's run folder."""
        return self.path / "train"

    @property
    def model(self) -> Path:
        """The exported pair."""
        return self.path / MODEL_FILE

    @property
    def is_finished(self) -> bool:
        """Whether its model is here; or its scores, without weights to make it from: so results are published."""
        published = self.scores(SELECTION).exists() and not (self.train / WEIGHTS_FILE).exists()
        return self.model.exists() or published

    def scores(self, split: str) -> Path:
        """The scores of every frame of a split."""
        return self.path / f"scores-{split}.json"


@dataclass(frozen=True)
class Workspace:
    """A run's folder."""

    root: Path

    def row(self, name: str) -> Path:
        """A row's folder; raises `UsageError` for a name that is no plain folder name."""
        plain = name == Path(name).name == name.strip() and name.isprintable() and "\\" not in name
        if not name or not plain or name.startswith("."):
            raise UsageError(f"row name {name!r} is no plain folder name; use letters, digits and dashes.")
        return self.root / name

    def seed(self, row: str, seed: int) -> SeedFolder:
        """The files of a row under a seed."""
        return SeedFolder(self.row(row) / f"seed{seed}")

    @property
    def results(self) -> Path:
        """The table of all scores."""
        return self.root / "results.csv"

    @property
    def latencies(self) -> Path:
        """What was timed, by architecture, threads and pace."""
        return self.root / "latencies.json"

    @property
    def final_log(self) -> Path:
        """Every scoring of the report split, a JSON line each."""
        return self.root / "final.jsonl"
