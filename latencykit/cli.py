"""The command line `latencykit`. Results on standard output, progress on standard error.

Exit codes: 0 fine, 2 usage, 3 a row is missing, 4 not comparable, 5 threads refused or machine unfit, 6 bad input,
7 interrupted and resumable, 8 regression, 70 internal (`latencykit.errors`).
"""

from __future__ import annotations

import click

from latencykit.commands.compare import compare_command, selftest_command
from latencykit.commands.kit import kit_command
from latencykit.commands.machine import doctor_command
from latencykit.commands.networks import measure_command, predict_command, sample_command
from latencykit.commands.tables import build_command, show_command, verify_command
from latencykit.commands.truth import validate_command
from latencykit.console import run_cli


def main() -> None:
    """Entry point of `latencykit`."""
    run_cli(cli)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="latencykit")
def cli() -> None:
    """Latency tables for neural networks on a CPU: measure, prove, predict."""


for command in (
    *(build_command, show_command, verify_command),
    *(sample_command, predict_command, measure_command),
    *(validate_command, compare_command, selftest_command, doctor_command, kit_command),
):
    cli.add_command(command)
