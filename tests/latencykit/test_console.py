import json
import os
import subprocess
import sys

import click
import pytest
from rich.table import Table as Grid

from latencykit import errors
from latencykit.console import JSON_SCHEMA, emit, run_cli

ERRORS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


def run(body, monkeypatch: pytest.MonkeyPatch, *args: str) -> int | str | None:
    """The exit code of a command line of one command."""
    monkeypatch.setattr(sys, "argv", ["tool", *args])
    try:
        run_cli(click.command()(body))
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_each_error_ends_with_its_code_and_its_message_on_standard_error(error, monkeypatch, capsys):
    def body() -> None:
        raise error("what, got, expected, next")

    assert run(body, monkeypatch) == error.exit_code
    output, complaint = capsys.readouterr()
    assert (output, complaint) == ("", "error: what, got, expected, next\n")


def test_the_codes_are_those_of_the_contract():
    assert sorted({error.exit_code for error in ERRORS}) == [2, 3, 4, 5, 6, 7, 8, 70]


def test_a_command_that_ends_well_has_code_0(monkeypatch: pytest.MonkeyPatch):
    assert run(lambda: None, monkeypatch) == 0


def test_a_word_that_is_no_option_is_usage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert run(lambda: None, monkeypatch, "--surprise") == 2
    assert "--surprise" in capsys.readouterr().err


def test_help_has_code_0(monkeypatch: pytest.MonkeyPatch):
    assert run(lambda: None, monkeypatch, "--help") == 0


@pytest.mark.parametrize("stop", [KeyboardInterrupt, click.Abort])
def test_ctrl_c_is_code_7_and_says_that_the_same_command_goes_on(stop, monkeypatch, capsys):
    def body() -> None:
        raise stop

    assert run(body, monkeypatch) == 7
    assert "the same command goes on" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_bad_input_without_a_traceback(monkeypatch, capsys):
    def body() -> None:
        raise PermissionError(13, "Permission denied", "luts/mine.json")

    assert run(body, monkeypatch) == 6
    complaint = capsys.readouterr().err
    assert "luts/mine.json" in complaint
    assert "Traceback" not in complaint


def test_what_nobody_foresaw_is_code_70_with_a_traceback(monkeypatch, capsys):
    def body() -> None:
        raise ZeroDivisionError("surprise")

    assert run(body, monkeypatch) == 70
    assert "ZeroDivisionError: surprise" in capsys.readouterr().err


def test_json_is_one_object_on_one_line_with_the_warnings_inside(capsys: pytest.CaptureFixture[str]):
    emit(True, "show", {"rows": [1]}, ["for people"], ["noisy"])
    output, complaint = capsys.readouterr()
    assert json.loads(output) == {"schema": JSON_SCHEMA, "command": "show", "warnings": ["noisy"], "rows": [1]}
    assert output.count("\n") == 1
    assert complaint == ""


def test_people_get_text_and_warnings_apart(capsys: pytest.CaptureFixture[str]):
    emit(False, "show", {"rows": [1]}, ["for people"], ["noisy", "old"])
    output, complaint = capsys.readouterr()
    assert output == "for people\n"
    assert complaint == "warning: noisy\nwarning: old\n"


def test_brackets_and_colons_are_printed_as_they_stand(capsys: pytest.CaptureFixture[str]):
    grid = Grid("[what]")
    grid.add_row("Conv [sum+relu] [/x]")
    emit(False, "show", {}, ["[bold]a[/bold] :smile: [/home]", grid])
    output = capsys.readouterr().out
    assert "[bold]a[/bold] :smile: [/home]" in output
    assert "Conv [sum+relu] [/x]" in output


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
@pytest.mark.parametrize("as_json", [True, False])
def test_a_reader_who_has_seen_enough_is_no_error(as_json: bool):
    script = (
        "import click; from latencykit.console import emit, run_cli; "
        f"run_cli(click.command()(lambda: emit({as_json}, 'show', {{'rows': 'x' * 200_000}}, ['x' * 200_000])))"
    )
    writing = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert writing.stdout is not None
    assert writing.stdout.read(1)
    writing.stdout.close()
    complaint = writing.stderr.read()
    writing.stderr.close()
    assert (writing.wait(), complaint) == (0, "")


def test_an_error_that_quotes_a_file_drives_no_terminal(monkeypatch: pytest.MonkeyPatch, capsys):
    def body() -> None:
        raise errors.InputError("first\nthen \x1b[31mred\u202e")

    assert run(body, monkeypatch) == 6
    assert capsys.readouterr().err == "error: first\nthen ?[31mred?\n"
