"""The command line `nas`: a subcommand a stage, each reading files and writing one artefact.

Exit codes are those of `latencykit` (`latencykit.errors`).
"""

from __future__ import annotations

import click

from latencykit.console import run_cli
from nas.commands.results import cells_command, contact_sheet_command, pareto_command, report_command, table_command
from nas.commands.runs import demo_command, run_command
from nas.commands.sample import sample_command
from nas.commands.stages import derive_command, evaluate_command, export_command, search_command, train_command


def main() -> None:
    """Entry point of `nas`."""
    run_cli(cli)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="latencykit")
def cli() -> None:
    """Search a segmentation and a quality-control network under a CPU's latency."""


for command in (
    *(run_command, demo_command),
    *(sample_command, search_command, derive_command, train_command, export_command, evaluate_command),
    *(table_command, cells_command, pareto_command, report_command, contact_sheet_command),
):
    cli.add_command(command)
