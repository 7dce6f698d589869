"""`sample`: as `latencykit sample`, or networks of what a configuration's row chooses among."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from latencykit.commands.networks import sample_command as latencykit_sample
from latencykit.commands.networks import write_samples
from latencykit.console import emit
from latencykit.errors import UsageError
from latencykit.macro import Macro
from latencykit.sample import sample_architectures
from nas.commands.options import FILE, load_config, row_option, searched_row


@click.command("sample", params=[*latencykit_sample.params])
@click.option("--config", type=FILE, help="A run's TOML file, whose searched row says what to draw from.")
@row_option
def sample_command(config: Path | None, row_name: str | None, **asked: Any) -> None:
    """Draw random networks and write each as JSON and ONNX.

    With --config they are of what its row chooses among: a table that knows them prices that row's candidates. A kit
    takes them to another machine (latencykit kit make --models samples).

    Example: nas sample --config run.toml --seed 7 --count 5 --out samples
    """
    if config is None:
        if row_name is not None:
            raise UsageError(f"--row {row_name} is one of a configuration; pass --config, too.")
        click.get_current_context().invoke(latencykit_sample, **asked)
        return
    if asked["macro_path"] or asked["stride"] is not None or asked["chosen_from"] != "uniform":
        raise UsageError("--config names a space, as --macro, --stride and --set do; pass one or the other.")
    row, count, seed = searched_row(load_config(config), row_name), asked["count"], asked["seed"]
    networks = row.macros.sample(count, seed) if row.macros else sample_architectures(row.macro or Macro(), count, seed)
    written = write_samples(seed, networks, asked["out"])
    emit(asked["as_json"], "sample", {"files": written}, written)
