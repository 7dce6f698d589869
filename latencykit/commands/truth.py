"""`validate`: is the estimate true?"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import click

from latencykit.agreement import Validation
from latencykit.bench import UNSTEADY, VALIDATION_PROTOCOL
from latencykit.commands.options import (
    FILE,
    macro_of,
    macro_option,
    pace_option,
    setting_of,
    stride_option,
    table_of_this_machine,
)
from latencykit.console import emit, json_option, threads_option
from latencykit.figures import figure_format, save_figure, validation_figure
from latencykit.progress import progress
from latencykit.report import validation_grid, validation_json, validation_summary
from latencykit.schema import to_json
from latencykit.selection import choose_networks
from latencykit.table_file import load_table, save_table
from latencykit.validate import journal_path, timed_networks, validate, validation_protocol

OTHER_SPEED_PCT, UNSTEADY_PCT = 5.0, 5.0
"""From here on a validation warns of the machine."""
SETS = ("uniform", "tails", "minimisers", "mixed", "unet", "all")


def doubts(found: Validation) -> list[str]:
    """What makes a validation say as much of the machine as of the table."""
    warnings = [f"{found.unsteady} samples: {UNSTEADY}"] if found.unsteady else []
    if found.slowdown_pct is not None and abs(found.slowdown_pct) > OTHER_SPEED_PCT:
        speed = _speed(found.slowdown_pct)
        warnings.append(f"the machine is {speed} than in the build: judge the table by the figures at that speed")
    if found.repeat.mape_pct > UNSTEADY_PCT:
        warnings.append(
            f"one half of the timings is {found.repeat.mape_pct:.1f} % off the other, too much to judge a table by: "
            "free the machine (latencykit doctor) and validate again"
        )
    return warnings


def _speed(slowdown_pct: float) -> str:
    return f"{abs(slowdown_pct):.1f} % {'slower' if slowdown_pct > 0 else 'faster'}"


@click.command("validate")
@click.argument("table", type=FILE)
@click.option("--networks", required=True, type=int, help="How many networks; `all` adds tails and minimisers to them.")
@click.option("--seed", required=True, type=int)
@threads_option
@stride_option
@macro_option
@pace_option
@click.option("--set", "chosen_from", type=click.Choice(SETS), default="uniform", show_default=True)
@click.option(
    "--processes", default=VALIDATION_PROTOCOL.processes, show_default=True, help="Even; halves are compared."
)
@click.option("--plot", type=FILE, help="Scatter plot, PNG or SVG.")
@click.option("--store", is_flag=True, help="Keep the figures in the table.")
@json_option
def validate_command(
    table: Path, networks: int, seed: int, threads: int, stride: int | None, macro_path: Path | None,
    pace: float | None, chosen_from: str, processes: int, plot: Path | None, store: bool, as_json: bool,
) -> None:  # fmt: skip
    """Compare a table's predictions with end-to-end timing of networks that it was not made with.

    The networks of the sets mixed and unet lie outside of the paper's space: add their kernels before (latencykit
    sample --set mixed, latencykit build --add). Killed, the same command goes on where it was.

    Calibration networks are timed along: a machine that is slower than it was in the build is told from a table that is
    wrong.

    Example: latencykit validate luts/mine.json --networks 40 --seed 7 --threads 2 --plot validation.png
    """
    if plot:
        figure_format(plot)
    loaded = table_of_this_machine(table)
    setting, macro = setting_of(loaded, threads), macro_of(macro_path, stride)
    protocol = validation_protocol(pace, processes)
    chosen = choose_networks(loaded, setting, macro, networks, seed, chosen_from, pace)  # type: ignore[arg-type]
    journal = journal_path(table, setting, chosen, protocol) if os.access(table.parent, os.W_OK) else None
    total = timed_networks(loaded, setting, chosen, pace) * processes
    with progress("time networks end to end", total) as advance:
        found = validate(loaded, setting, chosen, protocol=protocol, journal=journal, advance=advance)
    if plot:
        save_figure(validation_figure(found), plot)
    asked = {"set": chosen_from, "seed": seed, "stride": stride, "processes": processes}
    if store:
        summary = {**asked, **({"macro": to_json(macro)} if macro_path else {}), **validation_summary(found)}
        now = load_table(table)  # what others wrote meanwhile stays
        save_table(replace(now, validations=(*now.validations, summary)), table)
    rhythm = f"{pace:g} calls a second" if pace else "back to back"
    head = f"{len(chosen)} networks ({chosen_from}), {setting}, {rhythm}, seed {seed}"
    if found.slowdown_pct is not None:
        head += f"; the machine is {_speed(found.slowdown_pct)} than in the build, by calibration networks timed along"
    warnings = [*loaded.doubts, *doubts(found)]
    emit(as_json, "validate", {**asked, **validation_json(found)}, [head, validation_grid(found)], warnings)
    if journal:
        journal.unlink()
