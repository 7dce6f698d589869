"""Every picture and the report of a results folder, made again from what is stored there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latencykit.architecture import read_architecture
from latencykit.baselines import Baseline
from latencykit.files import write_json, write_text
from latencykit.runtime import Session
from latencykit.schema import decode, read_json, to_json
from latencykit.table import Table as LatencyTable
from latencykit.table_file import table_checksum
from nas.cells import draw_cells
from nas.config import REPORT_SPLIT, RunConfig
from nas.contest import Contest, contest
from nas.contest import markdown as contest_markdown
from nas.data import Dataset
from nas.figures import save_figure
from nas.history_figure import history_figure, read_history
from nas.learning import ARCHITECTURE_FILE, HISTORY_FILE
from nas.metrics import FrameScores
from nas.pareto import Front, pareto_front, plot_pareto
from nas.quality_figure import Frame, qualitative_figure, quality_figure, quality_panels
from nas.report import RESULTS_NAME, Provenance, write_report
from nas.results import Subset, choose_selection, read_results
from nas.scoring import SCORING, Scored, best_seed, read_scores
from nas.table import REFERENCE_ROW, Table, build_table, markdown_table
from nas.train import training_parts
from nas.trained import TRAINING_FILE, read_training
from nas.workspace import MODEL_FILE, SELECTION, SeedFolder, Workspace

CONFIG_FILE = "run.toml"
FACTS_FILE = "facts.json"
HELD_OUT: Subset = "held_out"
CONTEST_FILE = "contest.md"
MAX_FACTS_BYTES = 1_000_000


@dataclass(frozen=True)
class Facts:
    """What a report says beside the results: kept with them, so that it can be written again without the data."""

    title: str
    split: str
    data_statement: str
    facts: dict[str, str]
    threads: int | None = None  # that the search was for


def read_facts(root: Path) -> Facts:
    """The facts of a results folder; raises `InputError` where they are missing or broken."""
    return decode(Facts, read_json(root / FACTS_FILE, MAX_FACTS_BYTES), str(root / FACTS_FILE))


SHOWN_QUANTILES = (0.02, 0.2, 0.5, 0.8, 0.98)
"""Frames of these ranks by Dice stand in the strip of predicted masks: good and bad ones, not chosen by hand."""


def make_gallery(
    config: RunConfig,
    dataset: Dataset,
    table: LatencyTable | None,
    workspace: Workspace,
    split: str,
    scores: Scored,
) -> None:
    """Draw histories, cells, quality, frames and the front, and write Table II and the report.

    Args:
        config: the run.
        dataset: its data.
        table: the latency table, None where nothing was searched.
        workspace: the results' folder, scored and timed.
        split: the split to show.
        scores: of every row, seed and split.
    """
    best = {row.name: best_seed(scores, row.name, config.seeds_of(row)) for row in config.rows}
    searched = [row.name for row in config.rows if row.kind == "search"]
    paths = {name: workspace.seed(name, best[name]).search / HISTORY_FILE for name in searched}
    if histories := {name: read_history(path) for name, path in paths.items() if path.exists()}:
        save_figure(history_figure(histories), workspace.root / "history.png")
    for name in searched:
        network = read_architecture(workspace.row(name) / ARCHITECTURE_FILE)
        file = "cells.svg" if name == searched[-1] else f"cells-{name}.svg"
        draw_cells(network, workspace.root / file, title=name)

    of_best = {row.name: scores[row.name, best[row.name], split] for row in config.rows}
    save_figure(quality_figure(quality_panels(of_best)), workspace.root / "quality.png")
    row = ([row for row in config.rows if row.kind == "search"] or config.rows)[-1]
    frames = dataset.of_split(REPORT_SPLIT)
    if split != REPORT_SPLIT:
        frames = training_parts(dataset.of_split("train"), config.train_of(row))[split]
    if (model := workspace.row(row.name) / MODEL_FILE).exists():
        shown = _frames(model, frames, of_best[row.name]["all"])
        save_figure(qualitative_figure(shown), workspace.root / "qualitative.png")
    facts = Facts(config.name, split, config.data_statement, _facts(dataset, table), config.threads[-1])
    write_json(workspace.root / FACTS_FILE, to_json(facts))
    summarise(workspace.root)


@dataclass(frozen=True)
class Summary:
    """What the stored results come to."""

    table: Table
    front: Front
    contest: Contest


def summarise(root: Path) -> Summary:
    """Write `table.md`, `pareto.png`, `contest.md` and `report.html` of a results folder from what is stored there."""
    facts = read_facts(root)
    results = read_results(root / RESULTS_NAME)
    selection = choose_selection(results, split=facts.split, threads=facts.threads)
    rows = [result.row for result in selection.of(results)]
    reference = REFERENCE_ROW if REFERENCE_ROW in rows else rows[0]
    table = build_table(results, selection, reference=reference, best_by=SELECTION)
    write_text(root / "table.md", markdown_table(table))
    stored = {row.row: read_architecture(Workspace(root).row(row.row) / ARCHITECTURE_FILE) for row in table.rows}
    hand_made = {name for name, network in stored.items() if isinstance(network, Baseline)}
    front = pareto_front(table, hand_made)
    plot_pareto(front, root / "pareto.png")
    contended = _contest(root, table, front)
    if contended.duels:
        write_text(root / CONTEST_FILE, contest_markdown(contended))
    else:
        (root / CONTEST_FILE).unlink(missing_ok=True)
    provenance = Provenance(facts.data_statement, facts.facts["data sha256"], facts.facts)
    configuration = (root / CONFIG_FILE).read_text(encoding="utf-8")
    write_report(root, table, provenance, {CONFIG_FILE: configuration}, title=facts.title)
    return Summary(table, front, contended)


def _contest(root: Path, table: Table, front: Front) -> Contest:
    """Which rows of the hand-made front are beaten; none where there is one family of rows or one patient.

    Rows whose frames were not all scored, with their patients and degraded by held-out kinds, do not take part; nor do
    ablations, whose quality networks are worse on purpose.
    """
    workspace, split = Workspace(root), table.selection.split
    good: dict[str, list[FrameScores]] = {}
    bad: dict[str, list[FrameScores]] = {}
    for row in table.rows:
        folders = [workspace.seed(row.row, seed) for seed in row.seeds]
        paths = [(folder.scores(split), folder.scores(f"{split}-{HELD_OUT}")) for folder in folders]
        if all(path.exists() for pair in paths for path in pair) and not any(map(_is_ablation, folders)):
            good[row.row], bad[row.row] = ([read_scores(path) for path in kind] for kind in zip(*paths, strict=True))
    named = Counter(one.patients for seeds in good.values() for one in seeds if len(set(one.patients)) > 1)
    patients = named.most_common(1)[0][0] if named else None  # rows scored on other frames do not take part either
    good = {row: seeds for row, seeds in good.items() if all(one.patients == patients for one in seeds)}
    return contest(front, good, {row: bad[row] for row in good})


def _is_ablation(folder: SeedFolder) -> bool:
    if not (folder.train / TRAINING_FILE).exists():
        return False
    return bool(read_training(folder.train).config.get("quality_without"))


def _facts(dataset: Dataset, table: LatencyTable | None) -> dict[str, str]:
    facts = {"data": dataset.name, "data sha256": dataset.sha256}
    if table is not None:
        verdict = "fit" if table.doctor.get("fit") else "unfit, see the table's `doctor`"
        facts |= {
            "CPU": str(table.cpu.model),
            "table": table_checksum(table),
            "machine while the table was measured": verdict,
        }
        facts["onnxruntime of the table"] = table.runtime["onnxruntime"]
    return facts


def _frames(model: Path, dataset: Dataset, scores: FrameScores) -> list[Frame]:
    order = np.argsort(scores.dice)
    indices = [int(order[round(q * (len(order) - 1))]) for q in SHOWN_QUANTILES]
    shown = []
    with Session(model, SCORING, ()) as session:
        for index in dict.fromkeys(indices):
            image = dataset.rgb(index)
            outputs = session.run({"image": image})
            shown.append(
                Frame(
                    image[0].mean(axis=0),
                    dataset.masks[index].astype(bool),
                    outputs["mask"][0, 0] > 0.5,
                    outputs["uncertainty"][0, 0],
                    float(scores.dice[index]),
                    float(scores.dice_predicted[index]),
                    f"{dataset.patients[index]} {dataset.frame[index]}{' (bad)' if dataset.degraded[index] else ''}",
                )
            )
    return shown
