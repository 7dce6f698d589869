"""Options that several commands take."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

import click

from latencykit.errors import UsageError

if TYPE_CHECKING:
    from nas.config import Row, RunConfig  # imports torch

FILE = click.Path(path_type=Path)
DEMO = "demo.toml"

config_option = click.option("--config", type=FILE, help="A run's TOML file; the embedded demo's where absent.")
table_option = click.option("--table", "table_path", type=FILE, help="Latency table; overrides the configuration's.")
row_option = click.option(
    "--row", "row_name", help="Which of the configuration's searched rows; the first where absent."
)
seed_option = click.option("--seed", default=0, show_default=True, help="Of everything random.")


def load_config(config: Path | None, table: Path | None = None) -> RunConfig:
    """A run's configuration, the embedded demo's where none is named, with another table where one is."""
    from nas.config import load_run

    if config is None:
        with as_file(files("nas") / DEMO) as source:
            loaded = load_run(source)
    else:
        loaded = load_run(config)
    return loaded if table is None else replace(loaded, table=str(table))


def searched_row(run: RunConfig, name: str | None) -> Row:
    """A searched row of a configuration, the first where none is named."""
    rows = [row for row in run.rows if row.kind == "search" and name in (None, row.name)]
    if not rows:
        raise UsageError(f"the configuration has no searched row {name or ''}; pass another --row.")
    return rows[0]
