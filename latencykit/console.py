"""How both command lines end and print: errors to exit codes, one JSON object or text for people."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import Console, RenderableType

from latencykit.errors import InputError, InterruptedRunError, LatencyKitError, UsageError

JSON_SCHEMA = 1
TABLE_WIDTH = 190
"""Columns that the widest grid takes; a narrower terminal wraps its lines, which reads better than wrapped cells."""

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
threads_option = click.option(
    "--threads", default=4, show_default=True, type=click.IntRange(min=1), help="Threads, the calling one included."
)


def run_cli(command: click.Command) -> None:
    """Run a command; turn this project's errors into a message on standard error and an exit code.

    A file or folder that cannot be read or written is bad input; what nobody foresaw keeps its traceback and is 70.
    """
    try:
        command.main(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(UsageError.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _complain("stopped; what was done is kept, the same command goes on", InterruptedRunError.exit_code)
    except LatencyKitError as error:
        _complain(str(error), error.exit_code)
    except OSError as error:
        _complain(str(error), InputError.exit_code)
    except Exception:  # the outermost boundary
        traceback.print_exc()
        sys.exit(LatencyKitError.exit_code)


def _complain(message: str, code: int) -> None:
    text = "".join(c if c.isprintable() or c == "\n" else "?" for c in message)  # it may quote a file from outside
    click.echo(f"error: {text}", err=True)
    sys.exit(code)


def emit(
    as_json: bool, command: str, data: Mapping[str, Any], shown: Sequence[RenderableType], warnings: Sequence[str] = ()
) -> None:
    """Print a result: the contract's JSON object, or for people, the warnings then on standard error."""
    try:
        _print(as_json, command, data, shown, warnings)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has seen enough; nothing further is to be written to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print(
    as_json: bool, command: str, data: Mapping[str, Any], shown: Sequence[RenderableType], warnings: Sequence[str]
) -> None:
    if as_json:
        click.echo(json.dumps({"schema": JSON_SCHEMA, "command": command, "warnings": list(warnings), **data}))
        return
    console = Console(
        highlight=False, width=max(Console().width, TABLE_WIDTH), soft_wrap=True, markup=False, emoji=False
    )  # kernels' names hold [brackets]
    for part in shown:
        console.print(part)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
