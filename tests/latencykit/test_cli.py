"""The command line: words in, help or an exit code for each kind of failure out."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from latencykit.architecture import write_architecture
from latencykit.cli import cli
from latencykit.commands import tables
from latencykit.doctor import Reason, Verdict
from latencykit.graph import chain
from latencykit.host import read_cpu
from latencykit.kernels import CALL_OVERHEAD
from latencykit.lowering import graph_to_onnx
from latencykit.predict import predict_kernels
from latencykit.spec import Add, Softmax
from latencykit.table import Row, Table, model_id
from latencykit.table_file import load_table, save_table
from latencykit.topology import physical_cpus
from tests.latencykit.command_line import TOO_MANY, Tool, doctor_says
from tests.latencykit.made_up import FakeWorkers, steady

COMMANDS = [
    *("build", "show", "sample", "validate", "predict", "measure", "doctor", "verify"),
    *("compare", "selftest", "kit"),
]


def leaves(group: click.Group, before: str = "") -> dict[str, click.Command]:
    """Every command by its words, those of groups within the group too."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        words = f"{before}{name}"
        found |= leaves(command, f"{words} ") if isinstance(command, click.Group) else {words: command}
    return found


LEAVES = leaves(cli)


# Help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_contract_is_in_the_group_s_help(name: str, tool: Tool):
    shown = tool("--help")
    assert shown.code == 0
    line = next(line for line in shown.out.splitlines() if line.strip().startswith(f"{name} "))
    assert len(line.split()) > 3


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_every_command_s_help_shows_an_example_of_itself(name: str, tool: Tool):
    for option in ("--help", "-h"):
        shown = tool(*name.split(), option)
        assert shown.code == 0
        assert f"Example: latencykit {name}" in " ".join(shown.out.split())


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_every_command_can_speak_json(name: str):
    options = {option for parameter in LEAVES[name].params for option in parameter.opts}
    assert "--json" in options


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_every_option_that_counts_threads_counts_four_unless_told_otherwise(name: str):
    for parameter in LEAVES[name].params:
        if isinstance(parameter, click.Option) and "--threads" in parameter.opts and name != "show":
            assert str(parameter.default) == "4"


def test_the_version_is_told(tool: Tool):
    assert "0." in tool("--version").out


# Usage: 2


@pytest.mark.parametrize(
    "words",
    [
        ["surprise"],
        ["build"],
        ["build", "--out", "t.json", "--threads", "one"],
        ["build", "--out", "t.json", "--threads", "0"],
        ["build", "--out", "t.json", "--threads", ""],
        ["build", "--out", "t.json", "--strides", "1;2"],
        ["build", "--out", "t.json", "--only-added"],
        ["show"],
        ["show", "t.json", "--level", "layer"],
        ["sample", "--seed", "1", "--count", "0", "--out", "samples"],
        ["sample", "--seed", "-1", "--count", "1", "--out", "samples"],
        ["measure"],
        ["measure", "m.onnx", "--processes", "0"],
        ["measure", "m.onnx", "--load", "-1"],
        ["measure", "m.onnx", "--pace", "0"],
        ["predict", "t.json", "m.onnx", "--pace", "0"],
        ["predict", "t.json", "m.onnx", "--pace", "-30"],
        ["validate", "t.json", "--networks", "4", "--seed", "1", "--pace", "0"],
        ["sample", "--seed", "-1", "--count", "1", "--out", "samples", "--set", "mixed"],
        ["sample", "--seed", "1", "--count", "-1", "--out", "samples", "--set", "unet"],
        ["sample", "--seed", "1", "--count", "73", "--out", "samples", "--set", "unet"],
        ["sample", "--seed", "1", "--count", "1", "--out", "samples", "--set", "tails"],
        ["validate", "t.json", "--networks", "4"],
        ["validate", "t.json", "--networks", "4", "--seed", "1", "--set", "some"],
        ["validate", "t.json", "--networks", "4", "--seed", "1", "--plot", "figure.doc"],
        ["predict", "t.json", "m.onnx", "--plot", "figure"],
    ],
    ids=" ".join,
)
def test_words_that_do_not_fit_are_code_2(words: list[str], tool: Tool, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = tool(*words)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "more",
    [
        ["--networks", "1", "--seed", "7"],
        ["--networks", "4", "--seed", "20000"],
        ["--networks", "4", "--seed", "20001"],
        ["--networks", "4", "--seed", "20002"],
        ["--networks", "4", "--seed", "-1", "--set", "minimisers"],
        ["--networks", "201", "--seed", "7", "--set", "tails"],
        ["--networks", "4", "--seed", "7", "--processes", "3"],
        ["--networks", "4", "--seed", "7", "--processes", "0"],
        ["--networks", "4", "--seed", "7", "--processes", "-2"],
    ],
    ids=" ".join,
)
def test_a_validation_that_proves_nothing_is_code_2(more: list[str], tool: Tool, table: Path, space: Path):
    assert tool("validate", table, "--threads", 1, "--macro", space, *more).code == 2


# A row is missing: 3


def test_a_model_of_other_kernels_is_code_3_and_the_command_it_names_mends_it(tool, table, stranger, workers):
    save_table(dataclasses.replace(load_table(table), sentinels=()), table)  # the made-up workers are another machine
    ended = tool("predict", table, stranger, "--threads", 1, "--json")
    assert (ended.code, ended.out) == (3, "")
    advice = ended.err.split("Measure them: latencykit ")[1].split()
    assert advice == ["build", "--out", str(table), "--threads", "1", "--only-added", "--add", str(stranger)]
    assert tool(*advice).code == 0
    data = tool("predict", table, stranger, "--threads", 1, "--json").data
    assert (data["coverage_pct"], data["calibrated"]) == (100, True)
    assert load_table(table).network(model_id(stranger.read_bytes())) is not None  # for hosts that cannot lower it


def test_a_thread_count_without_rows_is_code_3(tool: Tool, table: Path, model: Path):
    for words in (("predict", table, model, "--threads", 2), ("show", table, "--threads", 2)):
        ended = tool(*words)
        assert ended.code == 3
        assert "--threads 2" in ended.err


def test_a_pace_that_a_table_is_not_calibrated_for_is_code_3_and_names_measure(tool: Tool, table: Path, model: Path):
    ended = tool("predict", table, model, "--threads", 1, "--pace", 25)
    assert (ended.code, ended.out) == (3, "")
    assert "latencykit measure MODEL --pace 25" in ended.err
    assert f"latencykit build --out {table} --threads 1" in ended.err
    words = ("validate", table, "--networks", 2, "--seed", 7, "--threads", 1, "--processes", 2, "--pace", 25)
    assert tool(*words).code == 3


def replaced_figure(row: Row, median_us: float) -> Row:
    return dataclasses.replace(row, measurement=steady(median_us)) if row.measurement else row


def test_an_unknown_kernel_is_guessed_on_request_or_code_3_where_there_are_too_few_of_its_kind(tool, table, tmp_path):
    """The table holds sums of other sizes, and nothing like a softmax."""
    loaded = load_table(table)
    told = [replaced_figure(row, 2.0 if row.key == CALL_OVERHEAD else 2 + row.bytes / 1000) for row in loaded.rows]
    save_table(dataclasses.replace(loaded, rows=tuple(told)), table)  # figures that no busy machine can mix up
    path = tmp_path / "sum.onnx"
    path.write_bytes(graph_to_onnx(chain([Add()], [(2, 24, 24)] * 2)).SerializeToString())
    words = ("predict", table, path, "--threads", 1, "--json")
    assert tool(*words).code == 3
    ended = tool(*words, "--interpolate")
    assert ended.code == 0, ended.err
    assert ended.data["coverage_pct"] < 100
    origins = {kernel["origin"] for kernel in ended.data["kernels"]}
    assert "interpolated" in origins
    guess = next(kernel for kernel in ended.data["kernels"] if kernel["origin"] == "interpolated")
    assert guess["error_pct"] > 0
    (warning,) = ended.data["warnings"]
    assert (
        f"interpolated; measure them: latencykit build --out {table} --threads 1 --only-added --add {path}" in warning
    )
    shown = tool(*words[:-1], "--interpolate")
    assert "(interpolated)" in shown.out
    strange = tmp_path / "strange.onnx"
    strange.write_bytes(graph_to_onnx(chain([Softmax()], [(48, 24, 24)])).SerializeToString())
    refused = tool("predict", table, strange, "--threads", 1, "--interpolate")
    assert refused.code == 3
    assert "are needed to interpolate" in refused.err


# Not comparable: 4


def altered(table: Path, **facts: Any) -> Table:
    loaded = load_table(table)
    found = dataclasses.replace(loaded, cpu=dataclasses.replace(loaded.cpu, **facts))
    save_table(found, table)
    return found


def test_a_validation_against_the_table_of_another_cpu_is_code_4(tool: Tool, table: Path):
    altered(table, model="Another CPU")
    ended = tool("validate", table, "--networks", 2, "--seed", 7, "--threads", 1)
    assert (ended.code, ended.out) == (4, "")
    assert "Another CPU" in ended.err


def test_the_table_of_another_cpu_predicts_what_runs_the_same_kernels_and_says_whose(tool, table: Path, model: Path):
    here = tool("predict", table, model, "--threads", 1, "--json").data
    mine = load_table(table).cpu.model
    altered(table, model="Another CPU", physical_cores=64)
    warnings = [f"what it takes on Another CPU, the table's CPU; this one is {mine}"]
    assert tool("predict", table, model, "--threads", 1, "--json").data == here | {"warnings": warnings}


def test_the_table_of_another_instruction_set_is_code_4_unless_it_brought_the_model_along(
    tool, table, model, space, tmp_path
):
    foreign = altered(table, isa=("sve2",), model="Another CPU")
    ended = tool("predict", table, model, "--threads", 1)
    assert (ended.code, ended.out) == (4, "")
    assert "sve2" in ended.err
    assert "latencykit kit make" in ended.err
    brought = foreign.networks[3]
    write_architecture(tmp_path / "brought.json", brought.network)
    data = tool("predict", table, tmp_path / "brought.json", "--threads", 1, "--json").data
    expected = predict_kernels(foreign, foreign.setting(1), brought.kernels)
    assert data["latency_ms"] == pytest.approx(expected.latency_us / 1000)


def test_the_table_of_another_runtime_is_code_4(tool: Tool, table: Path, model: Path):
    loaded = load_table(table)
    save_table(dataclasses.replace(loaded, runtime={"onnxruntime": "1.0.0"}), table)
    for words in (("predict", table, model), ("validate", table, "--networks", 2, "--seed", 7)):
        ended = tool(*words, "--threads", 1)
        assert (ended.code, ended.out) == (4, "")
        assert "onnxruntime 1.0.0" in ended.err


def test_the_table_of_another_cpu_can_still_be_looked_at(tool: Tool):
    for schema in (1, 2):
        frozen = Path(__file__).parent / f"fixtures/table_schema{schema}.json"
        assert tool("show", frozen).code == 0
        assert tool("verify", frozen).code == 0


# Threads refused, unfit: 5


def test_more_threads_than_cores_are_code_5_and_the_message_says_how_many_there_are(tool, model, space, tmp_path):
    for words in (
        ("measure", model, "--threads", TOO_MANY),
        ("build", "--out", tmp_path / "t.json", "--space", space, "--threads", TOO_MANY),
        ("build", "--out", tmp_path / "t.json", "--space", space, "--threads", f"1,{TOO_MANY}", "--force"),
    ):
        ended = tool(*words)
        assert (ended.code, ended.out) == (5, "")
        assert f"--threads {len(physical_cpus())}" in ended.err
    assert not (tmp_path / "t.json").exists()


def test_four_threads_on_fewer_cores_are_refused_before_the_doctor_is_asked(tool, space, tmp_path, monkeypatch):
    def refused() -> Verdict:
        raise AssertionError("the doctor was asked first")

    monkeypatch.setattr("latencykit.topology.physical_cpus", lambda *_: (0, 1))
    monkeypatch.setattr(tables, "doctor", refused)
    ended = tool("build", "--out", tmp_path / "t.json", "--space", space)
    assert ended.code == 5
    assert "4 threads were asked for" in ended.err
    assert "--threads 2" in ended.err


def test_an_unfit_machine_is_code_5_unless_forced(tool: Tool, stranger: Path, tmp_path: Path, workers, monkeypatch):
    reasons = (Reason("other-load", 180.0, "at most 10 % of a core", "stop other programs", True),)
    doctor_says(monkeypatch, Verdict(False, reasons, read_cpu()))
    out = tmp_path / "t.json"
    words = ["build", "--out", out, "--threads", 1, "--only-added", "--add", stranger, "--json"]
    ended = tool(*words)
    assert (ended.code, ended.out) == (5, "")
    assert "stop other programs; or pass --force" in ended.err
    assert not out.exists()
    forced = tool(*words, "--force")
    assert forced.code == 0
    assert forced.data["warnings"][0] == "other-load is 180.0: stop other programs"
    assert load_table(out).doctor["fit"] is False


def test_the_doctor_s_verdict_is_the_exit_code(tool: Tool, monkeypatch: pytest.MonkeyPatch):
    fit = tool("doctor", "--json")
    assert fit.code == 0
    assert set(fit.data) == {"schema", "command", "warnings", "fit", "reasons", "cpu"}
    assert (fit.data["fit"], fit.data["reasons"]) == (True, [])
    reasons = (Reason("other-load", 180.0, "at most 10 % of a core", "stop other programs", True),)
    doctor_says(monkeypatch, Verdict(False, reasons, read_cpu()))
    unfit = tool("doctor", "--json")
    assert unfit.code == 5
    assert set(unfit.data["reasons"][0]) >= {"code", "value", "expected", "remedy"}
    shown = tool("doctor")
    assert "UNFIT" in shown.out
    assert "!! other-load: 180.0, expected at most 10 % of a core. stop other programs" in shown.out


# Bad input: 6


def test_files_that_are_not_what_they_must_be_are_code_6(tool: Tool, table: Path, model: Path, tmp_path: Path):
    bad = tmp_path / "bad.json"
    bad.write_text("my thesis")
    missing = tmp_path / "missing"
    for words in (
        ("verify", bad),
        ("verify", missing),
        ("show", bad),
        ("predict", bad, model),
        ("predict", table, bad, "--threads", 1),
        ("predict", table, missing, "--threads", 1),
        ("measure", bad, "--threads", 1),
        ("measure", model, missing, "--threads", 1),
        ("validate", bad, "--networks", 2, "--seed", 1),
        ("sample", "--seed", 1, "--count", 1, "--out", tmp_path / "s", "--macro", bad),
        ("sample", "--seed", 1, "--count", 1, "--out", tmp_path / "s", "--stride", 3),
        ("build", "--out", bad, "--threads", 1, "--only-added", "--add", model),
        ("build", "--out", tmp_path / "t.json", "--threads", 1, "--only-added", "--add", bad),
        ("build", "--out", tmp_path / "t.json", "--threads", 1, "--space", missing),
    ):
        ended = tool(*words)
        assert (ended.code, ended.out) == (6, ""), words
        assert "Traceback" not in ended.err
    assert bad.read_text() == "my thesis"
    assert not (tmp_path / "t.json").exists()


def test_a_table_that_was_tampered_with_is_code_6(tool: Tool, table: Path):
    table.write_text(table.read_text().replace('"macs":0', '"macs":1', 1))
    ended = tool("verify", table, "--json")
    assert (ended.code, ended.out) == (6, "")
    assert "checksum" in ended.err


def test_a_place_that_cannot_be_written_is_code_6(tool: Tool, table: Path, tmp_path: Path):
    (tmp_path / "a file").write_text("")
    ended = tool("show", table, "--csv", tmp_path / "a file" / "rows.csv")
    assert ended.code == 6
    assert "Traceback" not in ended.err


# Interrupted: 7


def test_a_stopped_build_is_code_7_and_goes_on(tool: Tool, stranger: Path, tmp_path: Path, monkeypatch):
    out = tmp_path / "t.json"
    words = ["build", "--out", out, "--threads", 1, "--only-added", "--add", stranger, "--json"]
    FakeWorkers(tmp_path, monkeypatch)
    real = tables.build

    def stopped(*args: Any, advance: Callable[[str], None], **kwargs: Any) -> object:
        def stop(name: str) -> None:
            raise KeyboardInterrupt

        return real(*args, advance=stop, **kwargs)

    monkeypatch.setattr(tables, "build", stopped)
    ended = tool(*words)
    assert (ended.code, ended.out) == (7, "")
    assert "the same command resumes" in ended.err
    monkeypatch.setattr(tables, "build", real)
    assert tool(*words).code == 0
    assert out.exists()
