"""`table`, `cells`, `pareto`, `report`, `contact-sheet`: what was found, to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from latencykit.architecture import read_architecture
from latencykit.console import emit, json_option
from latencykit.schema import to_json
from nas.commands.options import FILE, load_config, seed_option
from nas.results import SUBSETS

if TYPE_CHECKING:
    from nas.results import Subset


@click.command("table")
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


@click.command("cells")
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


@click.command("pareto")
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


@click.command("report")
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


@click.command("contact-sheet")
@click.option("--config", "configs", multiple=True, type=FILE, help="Runs whose data to show; the demo's where absent.")
@click.option("--out", required=True, type=FILE, help="The PNG.")
@seed_option
@json_option
def contact_sheet_command(configs: tuple[Path, ...], out: Path, seed: int, as_json: bool) -> None:
    """Show random frames with their masks, and statistics of several data sets side by side.

    Example: nas contact-sheet --config a.toml --config b.toml --out sheet.png
    """
    from nas.data import contact_sheet, load

    contact_sheet([load(load_config(config).data) for config in configs or (None,)], out, seed)
    emit(as_json, "contact-sheet", {"picture": str(out)}, [str(out)])
