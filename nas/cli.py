"""The command line `nas`: a subcommand a stage, each reading files and writing one artefact.

Exit codes are those of `latencykit` (`latencykit.errors`).
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latencykit.architecture import read_architecture, write_architecture
from latencykit.commands.networks import sample_command
from latencykit.console import emit, json_option, run_cli
from latencykit.errors import UnfitError, UsageError
from latencykit.runtime import Setting
from latencykit.schema import to_json
from latencykit.topology import check_threads
from nas.results import SUBSETS

if TYPE_CHECKING:
    from nas.config import RunConfig  # imports torch, which only some commands need
    from nas.data import Dataset
    from nas.derive import Rule
    from nas.metrics import FrameScores
    from nas.results import Subset

FILE = click.Path(path_type=Path)
DEMO = "demo.toml"
MOST_THREADS = 4
"""Of the ultrasound machine's processor; a demo takes as many where there are so many physical cores."""

_config = click.option("--config", type=FILE, help="A run's TOML file; the embedded demo's where absent.")
_table = click.option("--table", "table_path", type=FILE, help="Latency table; overrides the configuration's.")
_seed = click.option("--seed", default=0, show_default=True, help="Of everything random.")


def main() -> None:
    """Entry point of `nas`."""
    run_cli(cli)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="latencykit")
def cli() -> None:
    """Search a segmentation and a quality-control network under a CPU's latency."""


sample = copy(sample_command)
sample.help = (sample.help or "").replace("latencykit sample", "nas sample")
cli.add_command(sample)


@cli.command("search")
@_config
@click.option("--row", "row_name", help="Which of the configuration's searched rows; the first where absent.")
@click.option("--target-ms", type=float, help="Steer the search to this latency.")
@_table
@_seed
@click.option("--out", required=True, type=FILE, help="The search's run folder.")
@json_option
def search_command(
    config: Path | None,
    row_name: str | None,
    target_ms: float | None,
    table_path: Path | None,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """Search an architecture on the patients of `train`; started again, it goes on where it was.

    Several processes share the work: torchrun --nproc-per-node 2 -m nas search ...

    Example: nas search --config run.toml --target-ms 2.0 --out runs/two-ms
    """
    from nas.data import load
    from nas.distributed import first_alone, is_first, joined
    from nas.figures import save_figure
    from nas.history_figure import history_figure, read_history
    from nas.pipeline import run_table
    from nas.staged import RACE_PICTURE, search_row, target_of

    run = _load(config, table_path)
    rows = [row for row in run.rows if row.kind == "search" and row_name in (None, row.name)]
    if not rows:
        raise UsageError(f"the configuration has no searched row {row_name or ''}; pass another --row.")
    settings = run.search_of(rows[0])
    if target_ms is not None:
        settings = replace(settings, target_ms=target_ms)
    if rows[0].macros is not None:
        target_of(rows[0], settings)  # before anything is measured
    click.get_current_context().with_resource(joined(settings.device))
    table = first_alone(lambda: run_table(run, rows[:1], out))
    found = search_row(run, rows[0], settings, table, load(run.data).of_split("train"), seed, out)
    if not is_first():
        return
    pictures = [out / RACE_PICTURE] if found.race else []
    if found.history:
        save_figure(history_figure({rows[0].name: read_history(out / "history.jsonl")}), out / "history.png")
        pictures.append(out / "history.png")
    threads = run.threads[-1]
    data = {
        "run": str(out), "architecture": str(out / "architecture.json"), "epochs": len(found.history),
        "derived_ms": found.latency_ms, "expected_ms": found.history[-1]["expected_ms"] if found.history else None,
        "table": table.name, "threads": threads, "pace_hz": found.pace_hz or 0,
    }  # fmt: skip
    rhythm = f"{found.pace_hz:g} calls a second" if found.pace_hz else "back to back"
    line = (
        f"{out}/architecture.json: {found.latency_ms:.3f} ms by {table.name}, {Setting(threads)}, {rhythm}; "
        f"{', '.join(map(str, pictures))}"
    )
    emit(as_json, "search", data, [line], table.doubts)


@cli.command("derive")
@click.argument("run", type=FILE)
@click.option("--rule", type=click.Choice(["argmax", "two-strongest"]), default="argmax", show_default=True)
@click.option("--out", type=FILE, help="Where to write the architecture; RUN/architecture.json where absent.")
@json_option
def derive_command(run: Path, rule: Rule, out: Path | None, as_json: bool) -> None:
    """Choose one operation an edge from a search's architecture parameters.

    Example: nas derive runs/two-ms --rule two-strongest --out two.json
    """
    from nas.search_state import derive_run

    architecture = derive_run(run, rule)
    target = out or run / "architecture.json"
    write_architecture(target, architecture)
    emit(as_json, "derive", {"architecture": str(target), "choices": to_json(architecture.choices)}, [str(target)])


@cli.command("train")
@click.argument("architecture", type=FILE)
@_config
@click.option("--seed", required=True, type=int, help="Of everything random.")
@click.option("--out", required=True, type=FILE, help="The training's run folder.")
@json_option
def train_command(architecture: Path, config: Path | None, seed: int, out: Path, as_json: bool) -> None:
    """Train a network pair, searched or hand-made, on the patients of `train`.

    Example: nas train runs/two-ms/architecture.json --seed 0 --out runs/trained
    """
    from nas.data import load
    from nas.distributed import is_first, joined
    from nas.train import train

    run = _load(config)
    click.get_current_context().with_resource(joined(run.train.device))
    trained = train(read_architecture(architecture), load(run.data).of_split("train"), run.train, seed, out)
    if not is_first():
        return
    facts = trained.training
    data = {"run": str(out), "dice_selection": facts.dice_selection, "mae_selection": facts.mae_selection}
    emit(as_json, "train", data, [f"{out}: Dice {facts.dice_selection:.4f} on the selection patients"])


@cli.command("export")
@click.argument("run", type=FILE)
@click.option("--out", required=True, type=FILE, help="The ONNX file.")
@json_option
def export_command(run: Path, out: Path, as_json: bool) -> None:
    """Write a trained pair as one ONNX file: image in, mask, uncertainty and predicted Dice out.

    Example: nas export runs/trained --out two-ms.onnx
    """
    from nas.pipeline import export_trained
    from nas.trained import load_trained

    export_trained(load_trained(run), out)
    emit(as_json, "export", {"model": str(out), "bytes": out.stat().st_size}, [str(out)])


@cli.command("evaluate")
@click.argument("model", type=FILE)
@_config
@click.option("--split", required=True, help="train or valid.")
@click.option("--final", is_flag=True, help="Allow the report split; the scoring is logged beside the model.")
@click.option(
    "--degraded", is_flag=True, help="Also score the frames degraded, by kinds seen in training and held out."
)
@json_option
def evaluate_command(model: Path, config: Path | None, split: str, final: bool, degraded: bool, as_json: bool) -> None:
    """Score an exported pair: Dice, HD95 and surface distance, and what its predicted Dice is worth.

    Example: nas evaluate two-ms.onnx --split valid --final
    """
    from latencykit.lowering import onnx_to_graph
    from latencykit.outside import check_outside
    from nas.config import REPORT_SPLIT
    from nas.data import load
    from nas.degradations import bad_frames
    from nas.figures import save_figure
    from nas.quality_figure import quality_figure, quality_panels
    from nas.scoring import (
        DICE_CONSTANT_BAD_KEY,
        DICE_CONSTANT_KEY,
        dice_constant_of,
        log_final,
        score_model,
        seed_of,
    )

    run = _load(config)
    if split == REPORT_SPLIT and not final:
        raise UsageError(f"{split!r} is the report split, scored once, at the end: pass --final for that.")
    dataset = load(run.data)
    frames = dataset.of_split(split)
    asked: dict[Subset, tuple[Dataset, str]] = {"all": (frames, DICE_CONSTANT_KEY)}
    if degraded:
        for name, kinds in run.train.degradations.sets.items():
            asked[name] = bad_frames(frames, run.train.degradations, kinds), DICE_CONSTANT_BAD_KEY
    for _, key in asked.values():
        dice_constant_of(model, key)
    scores: dict[Subset, FrameScores] = {}
    for subset, (shown, key) in asked.items():
        if split == REPORT_SPLIT:
            log_final(model.with_suffix(".final.jsonl"), model.name, seed_of(model), model, shown)
        scores[subset] = score_model(model, shown, key)
    picture = model.with_suffix(f".{split}.png")
    save_figure(quality_figure(quality_panels({model.stem: scores})), picture)
    graph, _ = onnx_to_graph(check_outside(model), str(model))
    costs = {"macs": graph.macs, "params": graph.parameters}
    data = {"model": str(model), "split": split, "picture": str(picture), **scores["all"].summary().as_dict(), **costs}
    lines = [f"{key}: {value}" for key, value in data.items()]
    bad = {name: found.summary().as_dict() for name, found in scores.items() if name != "all"}
    lines += [f"{name} {key}: {value}" for name, found in bad.items() for key, value in found.items()]
    emit(as_json, "evaluate", data | {"degraded": bad}, lines)


@cli.command("run")
@click.argument("config", type=FILE)
@click.option("--out", type=FILE, help="The results' folder; out/<name of the configuration> where absent.")
@_table
@click.option(
    "--only", multiple=True, help="Search and train just this row now (repeatable); results: all that is there."
)
@click.option("--final", is_flag=True, help="Also score the report split, once.")
@click.option("--jobs", default=1, show_default=True, help="Rows and seeds that train side by side.")
@click.option("--cluster", help="Search and train on a Ray cluster: auto, host:port, or local for one of this machine.")
@json_option
def run_command(
    config: Path, out: Path | None, table_path: Path | None, only: tuple[str, ...], final: bool, jobs: int,
    cluster: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Do all of it from one configuration: table, validation, search, training, export, scores, latencies, report.

    Example: nas run run.toml --out results --final --jobs 2
    """
    from nas.pipeline import run

    loaded = _load(config, table_path)
    target = out or Path("out") / loaded.name
    run(loaded, config, target, final, jobs, _say, cluster, only)
    _show_run(target, as_json, "run")


@cli.command("demo")
@click.option("--out", default=Path("out/demo"), show_default=True, type=FILE)
@click.option("--jobs", default=2, show_default=True, help="Rows and seeds that train side by side.")
@json_option
def demo_command(out: Path, jobs: int, as_json: bool) -> None:
    """Run the embedded demo: a small real search on phantoms, with this machine's own latency table.

    Example: nas demo --out out/demo
    """
    from nas.pipeline import run

    threads = _usable_threads(MOST_THREADS)
    _say(f"demo: {threads} threads, of this machine's physical cores and at most {MOST_THREADS}")
    with as_file(files("nas") / DEMO) as source:
        loaded = replace(_load(source), threads=(threads,))
        run(loaded, source, out, True, jobs, _say)
    _show_run(out, as_json, "demo")


@cli.command("table")
@click.argument("directory", type=FILE)
@click.option("--split", help="valid or selection; where there are several, the report split.")
@click.option("--threads", type=int, help="Thread count of the latencies; the search's where absent.")
@click.option("--pace", "pace_hz", type=float, help="Calls a second of the latencies; 0 is back to back.")
@click.option("--subset", type=click.Choice(SUBSETS), default="all", show_default=True)
@click.option("--reference", help="Row that the latency reduction is relative to.")
@click.option("--markdown", is_flag=True, help="As Markdown.")
@json_option
def table_command(
    directory: Path, split: str | None, threads: int | None, pace_hz: float | None, subset: Subset,
    reference: str | None, markdown: bool, as_json: bool,
) -> None:  # fmt: skip
    """Print Table II from stored results.

    Example: nas table benchmarks/results/camus
    """
    from nas.gallery import FACTS_FILE, read_facts
    from nas.results import choose_selection, read_results
    from nas.table import REFERENCE_ROW, build_table, markdown_table, rich_table

    results = read_results(directory / "results.csv")
    splits = {result.split for result in results}
    split = split or next(iter(sorted(splits - {"selection"})), "selection")
    if threads is None and (directory / FACTS_FILE).exists():
        threads = read_facts(directory).threads
    selection = choose_selection(results, split, subset, threads, pace_hz)
    rows = [result.row for result in selection.of(results)]
    table = build_table(
        results,
        selection,
        reference=reference or (REFERENCE_ROW if REFERENCE_ROW in rows else rows[0]),
        best_by="selection" if "selection" in splits else None,
    )
    emit(as_json, "table", table.as_dict(), [markdown_table(table) if markdown else rich_table(table)])


@cli.command("cells")
@click.argument("architecture", type=FILE)
@click.option("--out", type=FILE, help="SVG or PNG; beside the architecture where absent.")
@json_option
def cells_command(architecture: Path, out: Path | None, as_json: bool) -> None:
    """Draw the four cells of a searched architecture (Fig. 4).

    Example: nas cells out/demo/nas-latency/architecture.json --out cells.svg
    """
    from nas.cells import draw_cells

    target = out or architecture.with_name("cells.svg")
    draw_cells(read_architecture(architecture), target)
    emit(as_json, "cells", {"picture": str(target)}, [str(target)])


@cli.command("pareto")
@click.argument("directory", type=FILE)
@json_option
def pareto_command(directory: Path, as_json: bool) -> None:
    """Draw latency against Dice from stored results, with the front and its hypervolume.

    Also says which rows of the hand-made front are beaten by a searched one, with paired differences (contest.md).

    Example: nas pareto benchmarks/results/camus
    """
    from nas.contest import markdown
    from nas.gallery import summarise

    summary = summarise(directory)
    front, contest = summary.front, summary.contest
    picture = directory / "pareto.png"
    data = {"picture": str(picture), **to_json(front), "contest": to_json(contest.duels), "left_out": contest.left_out}
    lines = [f"{p.row}: {p.latency_ms:.2f} ms, Dice {p.dice:.4f}" for p in front.points if p.on_front]
    lines += [f"hypervolume {front.hypervolume:.4f}; {picture}", *([markdown(contest)] if contest.duels else [])]
    emit(as_json, "pareto", data, lines)


@cli.command("report")
@click.argument("directory", type=FILE)
@json_option
def report_command(directory: Path, as_json: bool) -> None:
    """Write one offline HTML file with the table and all pictures of a results folder.

    Example: nas report benchmarks/results/camus
    """
    from nas.gallery import summarise

    summarise(directory)
    target = directory / "report.html"
    emit(as_json, "report", {"report": str(target)}, [str(target)])


@cli.command("contact-sheet")
@click.option("--config", "configs", multiple=True, type=FILE, help="Runs whose data to show; the demo's where absent.")
@click.option("--out", required=True, type=FILE, help="The PNG.")
@_seed
@json_option
def contact_sheet_command(configs: tuple[Path, ...], out: Path, seed: int, as_json: bool) -> None:
    """Show random frames with their masks, and statistics of several data sets side by side.

    Example: nas contact-sheet --config a.toml --config b.toml --out sheet.png
    """
    from nas.data import contact_sheet, load

    contact_sheet([load(_load(config).data) for config in configs or (None,)], out, seed)
    emit(as_json, "contact-sheet", {"picture": str(out)}, [str(out)])


def _load(config: Path | None, table: Path | None = None) -> RunConfig:
    from nas.config import load_run

    if config is None:
        with as_file(files("nas") / DEMO) as source:
            loaded = load_run(source)
    else:
        loaded = load_run(config)
    return loaded if table is None else replace(loaded, table=str(table))


def _usable_threads(most: int) -> int:
    """The most threads, up to `most`, that a measurement may use on this machine, its control group's quota heeded."""
    for threads in range(most, 1, -1):
        try:
            check_threads(threads)
        except UnfitError:
            continue
        return threads
    return 1


def _say(text: str) -> None:
    click.echo(text, err=True)


def _show_run(out: Path, as_json: bool, command: str) -> None:
    made = sorted(str(path) for path in out.glob("*") if path.is_file()) + sorted(map(str, out.glob("*/model.onnx")))
    table = (out / "table.md").read_text(encoding="utf-8")
    emit(as_json, command, {"out": str(out), "files": made}, [table, "made:", *(f"  {path}" for path in made)])
