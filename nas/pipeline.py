"""`nas run`: table, validation, search, training, export, scores, latencies, pictures and report, stage by stage.

What is finished is found by its files and not done again; an interrupted search or training goes on from its last
epoch.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import torch

from latencykit.architecture import Network, network_graph, read_architecture
from latencykit.baselines import Baseline
from latencykit.coverage import STRIDES, stride_macros
from latencykit.errors import InputError, UsageError
from latencykit.files import write_text
from latencykit.lock import only_writer
from latencykit.macro import Macro
from latencykit.table import Table
from latencykit.table_file import table_checksum
from nas.config import REPORT_SPLIT, Row, RunConfig
from nas.data import Dataset, load
from nas.degradations import bad_frames
from nas.engines import outcomes
from nas.export import export
from nas.finished import check_finished
from nas.flops import paper_flops
from nas.gallery import CONFIG_FILE, make_gallery
from nas.learning import ARCHITECTURE_FILE
from nas.metrics import FrameScores
from nas.prices import ensure_table, validate_table, with_kernels_of
from nas.provenance import commit
from nas.results import Result, append
from nas.scoring import (
    DICE_CONSTANT_BAD_KEY,
    DICE_CONSTANT_KEY,
    Scored,
    best_seed,
    dice_constant_of,
    log_final,
    score_model,
    stored_scores,
    subsets,
    write_scores,
)
from nas.staged import is_searched, search_row, target_of
from nas.timings import Timings, latency_table, time_rows
from nas.train import train, training_parts
from nas.trained import Trained
from nas.workspace import MODEL_FILE, SELECTION, SeedFolder, Workspace

LATENCY_TABLE = "latencies.md"
PRICES = "prices.json"
"""A run's copy of the latency table, with the kernels of the macro configurations that its rows choose among."""
PRICING_NETWORKS = 120
LIVES_ON_S = 60
"""So long the process of a node that was lost may live on, if it is one of this machine."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """One row under one seed: an independent search and training."""

    config: RunConfig
    row: Row
    seed: int
    table: Table | None
    root: Path
    torch_threads: int


def run(
    config: RunConfig,
    source: Path,
    out: Path,
    final: bool,
    jobs: int,
    say: Say,
    cluster: str | None = None,
    only: Collection[str] = (),
) -> None:
    """Do everything that a configuration asks for, all at once or a few rows at a time.

    Args:
        config: the run.
        source: its TOML file, copied to the results.
        out: the results' folder.
        final: also score the report split, once.
        jobs: rows and seeds that train side by side, each on its share of the processors.
        say: told what begins.
        cluster: a Ray cluster that searches and trains instead of this machine (`nas.engines`).
        only: rows to search and train now, all where none is named; the results are of whatever is finished.

    Raises:
        LatencyKitError: whatever a stage raises; what was done is kept.
    """
    if jobs < 1:
        raise UsageError(f"--jobs is {jobs}; at least 1 expected.")
    workspace = Workspace(out)
    for row in config.rows:
        workspace.row(row.name)
    if unknown := sorted(set(only) - {row.name for row in config.rows}):
        raise UsageError(f"--only {unknown[0]}: no such row; there are {', '.join(row.name for row in config.rows)}.")
    say(f"data: {config.data.kind}")
    dataset = load(config.data)
    check_finished(config, dataset, workspace)
    write_text(out / CONFIG_FILE, source.read_text(encoding="utf-8"))
    searched = [row for row in config.rows if row.kind == "search" and _takes_part(config, row, workspace, only)]
    for row in searched:
        if row.macros is not None:
            target_of(row, config.search_of(row))
    table: Table | None = None
    if searched:
        say(f"latency table {config.table_path(out)}, threads {', '.join(map(str, config.threads))}")
        table = run_table(config, searched, out)
        for doubt in table.doubts:
            say(f"  warning: {doubt}")
        threads, macro = config.threads[-1], priced_macros(searched[-1])[-1]
        if not validate_table(table, macro, threads, config.validation_networks, out):
            say("  the table is of another machine: not validated here; a race interpolates kernels that it lacks")
    _train_all(config, table, workspace, jobs, cluster, say, only)
    config_sha, config = config.sha256(), _finished(config, workspace)
    say("scores")
    scores = _score_all(config, dataset, workspace, final)
    _choose_best(config, workspace, scores)
    say("latencies")
    latencies = time_rows(config, workspace)
    priced_by = {row.name: table_checksum(table) for row in config.rows if row.kind == "search"} if table else {}
    _enter_results(config_sha, priced_by, workspace, scores, latencies)
    write_text(out / LATENCY_TABLE, latency_table(config, workspace, latencies))
    say("pictures and report")
    make_gallery(config, dataset, table, workspace, SELECTION if not final else REPORT_SPLIT, scores)


def _takes_part(config: RunConfig, row: Row, workspace: Workspace, only: Collection[str]) -> bool:
    """Whether a row is to be searched and trained now, or has been."""
    return not only or row.name in only or any(workspace.seed(row.name, n).is_finished for n in config.seeds_of(row))


def run_table(config: RunConfig, rows: Sequence[Row], out: Path) -> Table:
    """The table that prices searched rows: the named one or the run's own, completed where that may be.

    Rows that choose among macro configurations are priced by the kernels of these, in a copy in the run's folder.
    """
    macros = list(dict.fromkeys(macro for row in rows for macro in priced_macros(row)))
    table = ensure_table(config.table_path(out), macros, config.threads, own=config.table is None)
    spaces = dict.fromkeys(row.macros for row in rows if row.macros is not None)
    networks = [network for space in spaces for network in space.sample(PRICING_NETWORKS)]
    return with_kernels_of(table, networks, config.threads[-1:], out / PRICES) if networks else table


def priced_macros(row: Row) -> list[Macro]:
    """What a searched row needs the edge costs of; one that races begins with the kernels of the paper's space."""
    return [row.macro or Macro()] if row.macros is None else stride_macros(Macro(), STRIDES)


def _train_all(
    config: RunConfig,
    table: Table | None,
    workspace: Workspace,
    jobs: int,
    cluster: str | None,
    say: Say,
    only: Collection[str],
) -> None:
    """Search and train every row under every seed, `jobs` at a time, each on its share of the processors."""
    share = max(1, torch.get_num_threads() // jobs)
    tasks = [
        Task(config, row, seed, table if row.kind == "search" else None, workspace.root.resolve(), share)
        for row, seed in config.tasks()
        if not workspace.seed(row.name, seed).is_finished and (not only or row.name in only)
    ]
    say(f"search and train: {len(tasks)} of {len(config.tasks())} to do")
    for done, outcome in enumerate(outcomes(tasks, _do_task, jobs, cluster, share), start=1):
        say(f"  {outcome} ({done}/{len(tasks)})")


def _finished(config: RunConfig, workspace: Workspace) -> RunConfig:
    """The rows and seeds of a configuration that are searched and trained."""
    rows = []
    for row in config.rows:
        seeds = tuple(seed for seed in config.seeds_of(row) if workspace.seed(row.name, seed).is_finished)
        if seeds:
            rows.append(replace(row, seeds=seeds))
    return replace(config, rows=tuple(rows))


_loaded = lru_cache(maxsize=1)(load)
"""A process that works on several rows reads the data once."""


def _do_task(task: Task) -> str:
    """Search (where the row is searched), train, export; returns a line that says what came of it."""
    torch.set_num_threads(task.torch_threads)
    folder = Workspace(task.root).seed(task.row.name, task.seed)
    with only_writer(folder.model, LIVES_ON_S):
        return _searched_and_trained(task, folder)


def _searched_and_trained(task: Task, folder: SeedFolder) -> str:
    dataset = _loaded(task.config.data).of_split("train")
    network: Network
    if task.table is None:
        network = task.row.baseline or Baseline()
    else:
        if not is_searched(task.row, folder.search):
            settings = task.config.search_of(task.row)
            search_row(task.config, task.row, settings, task.table, dataset, task.seed, folder.search)
        network = read_architecture(folder.search / ARCHITECTURE_FILE)
    trained = train(network, dataset, task.config.train_of(task.row), task.seed, folder.train)
    export_trained(trained, folder.model)
    return f"{task.row.name} seed {task.seed}: selection Dice {trained.training.dice_selection:.3f}"


def export_trained(trained: Trained, path: Path) -> None:
    """Export with what its scores need, and where the weights come from, in the graph's metadata."""
    training = trained.training
    facts = {
        DICE_CONSTANT_KEY: repr(training.dice_constant),
        DICE_CONSTANT_BAD_KEY: repr(training.dice_constant_bad),
        "seed": str(training.seed),
        "data": training.data,
        "data_sha256": training.data_sha256,
    }
    export(trained.module, path, facts)


def _score_all(config: RunConfig, dataset: Dataset, workspace: Workspace, final: bool) -> Scored:
    """Score every row under every seed on the selection patients, and on the report split with `final`.

    Beside the frames as they are, each is scored degraded by a kind that the quality network's training sees and by one
    that is held out (`nas.degradations`).
    """
    train_set, report_set = dataset.of_split("train"), dataset.of_split(REPORT_SPLIT)
    found: Scored = {}
    for row, seed in config.tasks():
        folder, settings = workspace.seed(row.name, seed), config.train_of(row)
        selection = training_parts(train_set, settings)[SELECTION]
        for split, frames in ({SELECTION: selection} | ({REPORT_SPLIT: report_set} if final else {})).items():
            log = None if split == SELECTION else partial(log_final, workspace.final_log, row.name, seed)
            good = _scores(folder, split, frames, DICE_CONSTANT_KEY, log)
            found[row.name, seed, split] = of_split = subsets(good, frames.degraded)
            for subset, kinds in settings.degradations.sets.items():
                spoilt = bad_frames(frames, settings.degradations, kinds)
                of_split[subset] = _scores(folder, f"{split}-{subset}", spoilt, DICE_CONSTANT_BAD_KEY, log)
    return found


def _scores(
    folder: SeedFolder, name: str, frames: Dataset, constant_key: str, log: Callable[[Path, Dataset], None] | None
) -> FrameScores:
    """The stored scores of a model, or new ones, which are entered into a log before."""
    path, model = folder.scores(name), folder.model
    scores = stored_scores(path, model, frames)
    if scores is None and not model.exists():
        raise InputError(
            f"{model} is not here, and its scores of {name} are none of these frames: run where it was trained, or "
            f"delete {folder.path} to train it anew."
        )
    if scores is None:
        dice_constant_of(model, constant_key)  # a model without one is not scored, so nothing is logged
        if log is not None:
            log(model, frames)
        scores = score_model(model, frames, constant_key)
        write_scores(path, scores, model, frames)
    return scores


def _choose_best(config: RunConfig, workspace: Workspace, scores: Scored) -> None:
    """Copy the model of each row's best seed on the selection patients to the row's folder."""
    for row in config.rows:
        folder = workspace.seed(row.name, best_seed(scores, row.name, config.seeds_of(row)))
        if folder.model.exists():
            shutil.copyfile(folder.model, workspace.row(row.name) / MODEL_FILE)
        shutil.copyfile(folder.train / "architecture.json", workspace.row(row.name) / "architecture.json")


def _enter_results(
    config_sha: str,
    priced_by: Mapping[str, str],
    workspace: Workspace,
    scores: Scored,
    latencies: Timings,
) -> None:
    """Enter everything into `results.csv`, a line for each row, seed, split, subset, thread count and pace.

    `priced_by` has the checksum of the latency table by searched row.
    """
    lines = []
    here = commit()
    for (name, seed, split), by_subset in scores.items():
        folder = workspace.seed(name, seed)
        graph = network_graph(read_architecture(folder.train / "architecture.json"))
        for subset, subset_scores in by_subset.items():
            summary = subset_scores.summary()
            for (model, threads, pace_hz), timing in latencies.items():
                if model != folder.model:
                    continue
                lines.append(
                    Result(
                        row=name, seed=seed, split=split, degraded=subset,
                        dice=summary.dice, hd95_mm=summary.hd95_mm, asd_mm=summary.asd_mm, mae=summary.mae,
                        mae_constant=summary.mae_constant, pearson_r=summary.pearson_r, auroc=summary.auroc,
                        threads=threads, pace_hz=pace_hz,
                        p50_ms=timing.pair.median_us / 1000,
                        p99_ms=timing.pair.percentile_us(99) / 1000,
                        macs=graph.macs, macs_paper=paper_flops(graph), params=graph.parameters,
                        config_sha=config_sha, table_sha=priced_by.get(name, ""), commit=here,
                    )
                )  # fmt: skip
    append(workspace.results, lines)
