"""`doctor`: what this machine is."""

from __future__ import annotations

import sys

import click

from latencykit.console import emit, json_option
from latencykit.doctor import doctor
from latencykit.errors import UnfitError
from latencykit.host import cpu_id
from latencykit.schema import to_json


@click.command("doctor")
@json_option
def doctor_command(as_json: bool) -> None:
    """Say whether this machine is fit to measure on, and what to do where it is not.

    Example: latencykit doctor
    """
    verdict = doctor()
    fitness = "fit" if verdict.fit else "UNFIT"
    shown = [f"{verdict.cpu.model}: {fitness}; a table of it would be named {cpu_id(verdict.cpu)}.json"]
    for reason in verdict.reasons:
        mark = "!!" if reason.fatal else " -"
        shown.append(f"{mark} {reason.code}: {reason.value}, expected {reason.expected}. {reason.remedy}")
    data = {"fit": verdict.fit, "reasons": to_json(verdict.reasons), "cpu": to_json(verdict.cpu)}
    emit(as_json, "doctor", data, shown)
    if not verdict.fit:
        sys.exit(UnfitError.exit_code)
