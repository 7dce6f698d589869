"""`run`, `demo`: all stages from one configuration."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

import click

from latencykit.console import emit, json_option
from latencykit.errors import UnfitError
from latencykit.topology import check_threads
from nas.commands.options import DEMO, FILE, load_config, table_option

MOST_THREADS = 4
"""Of the ultrasound machine's processor; a demo takes as many where there are so many physical cores."""


@click.command("run")
@click.argument("config", type=FILE)
@click.option("--out", type=FILE, help="The results' folder; out/<name of the configuration> where absent.")
@table_option
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

    loaded = load_config(config, table_path)
    target = out or Path("out") / loaded.name
    run(loaded, config, target, final, jobs, _say, cluster, only)
    _show_run(target, as_json, "run")


@click.command("demo")
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
        loaded = replace(load_config(source), threads=(threads,))
        run(loaded, source, out, True, jobs, _say)
    _show_run(out, as_json, "demo")


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
