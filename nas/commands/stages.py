"""`search`, `derive`, `train`, `export`, `evaluate`: a stage each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latencykit.architecture import read_architecture, write_architecture
from latencykit.console import emit, json_option
from latencykit.errors import UsageError
from latencykit.runtime import Setting
from latencykit.schema import to_json
from nas.commands.options import FILE, config_option, load_config, row_option, searched_row, seed_option, table_option

if TYPE_CHECKING:
    from nas.data import Dataset
    from nas.derive import Rule
    from nas.metrics import FrameScores
    from nas.results import Subset


@click.command("search")
@config_option
@row_option
@click.option("--target-ms", type=float, help="Steer the search to this latency.")
@table_option
@seed_option
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

    run = load_config(config, table_path)
    row = searched_row(run, row_name)
    settings = run.search_of(row)
    if target_ms is not None:
        settings = replace(settings, target_ms=target_ms)
    if row.macros is not None:
        target_of(row, settings)  # before anything is measured
    click.get_current_context().with_resource(joined(settings.device))
    table = first_alone(lambda: run_table(run, [row], out))
    found = search_row(run, row, settings, table, load(run.data).of_split("train"), seed, out)
    if not is_first():
        return
    pictures = [out / RACE_PICTURE] if found.race else []
    if found.history:
        save_figure(history_figure({row.name: read_history(out / "history.jsonl")}), out / "history.png")
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


@click.command("derive")
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


@click.command("train")
@click.argument("architecture", type=FILE)
@config_option
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

    run = load_config(config)
    click.get_current_context().with_resource(joined(run.train.device))
    trained = train(read_architecture(architecture), load(run.data).of_split("train"), run.train, seed, out)
    if not is_first():
        return
    facts = trained.training
    data = {"run": str(out), "dice_selection": facts.dice_selection, "mae_selection": facts.mae_selection}
    emit(as_json, "train", data, [f"{out}: Dice {facts.dice_selection:.4f} on the selection patients"])


@click.command("export")
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


@click.command("evaluate")
@click.argument("model", type=FILE)
@config_option
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

    run = load_config(config)
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
