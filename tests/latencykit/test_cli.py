"""The command line: words in, one JSON object or text out, an exit code for each kind of failure."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import onnx
import pytest

from latencykit.architecture import read_architecture, write_architecture
from latencykit.bench import UNSTEADY, measure_items
from latencykit.calibrate import space_needs
from latencykit.cli import cli, main
from latencykit.commands import machine, tables
from latencykit.commands.options import kernels_for
from latencykit.doctor import Reason, Verdict
from latencykit.graph import chain
from latencykit.host import read_cpu
from latencykit.kernels import CALL_OVERHEAD
from latencykit.keys import Edge
from latencykit.lowering import graph_to_onnx
from latencykit.macro import Macro
from latencykit.measurement import Measurement
from latencykit.predict import predict_kernels
from latencykit.runtime import Setting, runtime_version
from latencykit.selection import sampled_set
from latencykit.spec import Add, Conv, Softmax
from latencykit.table import Row, Table, make_row, model_id
from latencykit.table_file import load_table, save_table
from latencykit.topology import physical_cpus
from tests.latencykit.made_up import TINY, TINY_JSON, FakeWorkers, steady, unhurried

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
TOO_MANY = str(len(physical_cpus()) + 1)


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def data(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


Tool = Callable[..., Ended]


def doctor_says(monkeypatch: pytest.MonkeyPatch, verdict: Verdict) -> None:
    for module in (tables, machine):
        monkeypatch.setattr(module, "doctor", lambda: verdict)


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tool:
    """Runs `latencykit WORDS` in this process, on a machine that the doctor calls fit."""
    doctor_says(monkeypatch, Verdict(True, (), read_cpu()))

    def run(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["latencykit", *map(str, words)])
        capsys.readouterr()
        code: Any = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.json"
    path.write_text(TINY_JSON)
    return path


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeWorkers:
    return FakeWorkers(tmp_path, monkeypatch)


@pytest.fixture
def table(tiny_table: Table, tmp_path: Path) -> Path:
    """A copy of the measured table of the tiny space."""
    assert tiny_table.path is not None
    return Path(shutil.copy(tiny_table.path, tmp_path / "table.json"))


@pytest.fixture
def model(tiny_network: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "network.onnx"
    path.write_bytes(tiny_network)
    return path


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A model whose kernels the table does not hold."""
    path = tmp_path / "stranger.onnx"
    path.write_bytes(graph_to_onnx(chain([Conv(24)], [(5, 24, 24)])).SerializeToString())
    return path


@pytest.fixture
def small_builds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Builds of a space lower few networks and time them hardly."""
    monkeypatch.setattr(tables, "space_needs", partial(space_needs, fit_networks=10, sampled=11))
    with unhurried():
        yield


def build_words(out: Path, space: Path, *more: object) -> tuple[object, ...]:
    return ("build", "--out", out, "--space", space, "--strides", "1", "--threads", "1", "--json", *more)


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


def test_the_table_of_another_cpu_predicts_what_runs_the_same_kernels(tool: Tool, table: Path, model: Path):
    here = tool("predict", table, model, "--threads", 1, "--json").data
    altered(table, model="Another CPU", physical_cores=64)
    assert tool("predict", table, model, "--threads", 1, "--json").data == here


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


# Results


@pytest.mark.usefixtures("small_builds")
def test_a_build_in_json(tool: Tool, space: Path, tmp_path: Path, workers: FakeWorkers):
    out = tmp_path / "new/t.json"
    first = tool(*build_words(out, space)).data
    assert set(first) == {
        *("schema", "command", "warnings", "table", "rows", "measured", "reused", "wall_s", "timed_pct"),
        *("networks", "repeated", "models"),
    }
    assert (first["command"], first["table"], first["reused"]) == ("build", str(out), 0)
    assert set(first["rows"]) == {"isolated", "kernel", "edge"}
    table = load_table(out)
    assert sum(first["rows"].values()) == len(table.rows)
    assert first["measured"] == first["rows"]["isolated"] + first["rows"]["kernel"]
    assert (first["networks"], first["repeated"]) == (len(table.timings), 0) == (16 + 8, 0)
    assert [(model["threads"], model["pace_hz"], model["networks"]) for model in first["models"]] == [
        (1, None, 16), (1, 30.0, 8),
    ]  # fmt: skip
    assert set(first["models"][0]) == {"threads", "pace_hz", "networks", "residual_pct", "spread_pct"}
    assert first["timed_pct"] > 0
    assert table.has_edges(table.setting(1), TINY, None)
    assert table.has_edges(table.setting(1), TINY, 30.0)
    shown = tool(*build_words(out, space)[:-1])
    assert f"{out}: 0 rows measured, {first['measured']} reused, 0 timings" in shown.out
    assert "calibrated at 1 thread, pinned, back to back: off by" in shown.out
    assert "calibrated at 1 thread, pinned, 30 calls a second" in shown.out


@pytest.mark.usefixtures("small_builds")
def test_a_build_says_what_it_took_again(tool: Tool, stranger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    FakeWorkers(tmp_path, monkeypatch, states=[50.0, 80.0, 50.0])
    words = ["build", "--out", tmp_path / "t.json", "--threads", 1, "--only-added", "--add", stranger, "--json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(measure_items.__kwdefaults__, "attempts", 2)
        data = tool(*words).data
    assert data["repeated"] == data["measured"]
    assert (
        f"{data['repeated']} samples were taken again: the machine was in another state meanwhile" in data["warnings"]
    )


@pytest.mark.usefixtures("small_builds")
def test_a_build_of_several_strides_covers_each(tool: Tool, space: Path, tmp_path: Path, workers: FakeWorkers):
    out = tmp_path / "t.json"
    words = build_words(out, space)
    data = tool(*words[:6], "1,2", *words[7:]).data
    table = load_table(out)
    macros = {row.key.macro for row in table.rows if isinstance(row.key, Edge)}
    assert {macro.segmentation_stride for macro in macros} == {1, 2}
    assert data["models"][0]["networks"] == 2 * 16


@pytest.mark.usefixtures("small_builds")
def test_a_dry_run_lists_what_is_missing_and_writes_nothing(
    tool: Tool, space: Path, table: Path, tmp_path: Path, stranger
):
    out = tmp_path / "t.json"
    data = tool(*build_words(out, space, "--dry-run")).data
    assert set(data) >= {"schema", "command", "warnings", "table", "rows", "missing", "networks", "estimate_s"}
    assert data["missing"] == sum(data["rows"].values())
    assert data["networks"] == 16 + 8
    assert data["estimate_s"] > 0
    assert not out.exists()
    before = table.read_bytes()
    shown = tool("build", "--out", table, "--threads", 1, "--only-added", "--add", stranger, "--dry-run")
    assert shown.code == 0
    assert "Conv 3x3" in shown.out
    assert "[relu]" in shown.out
    assert "0 timings of networks" in shown.out
    assert table.read_bytes() == before


def test_a_dry_run_for_another_machine_needs_no_cores(tool: Tool, stranger: Path, tmp_path: Path):
    words = ["build", "--out", tmp_path / "t.json", "--threads", TOO_MANY, "--only-added", "--add", stranger]
    assert tool(*words, "--dry-run", "--json").code == 0


def test_a_table_of_one_model_alone_predicts_that_model(tool: Tool, stranger: Path, tmp_path: Path, workers):
    out = tmp_path / "t.json"
    assert tool("build", "--out", out, "--threads", 1, "--only-added", "--add", stranger).code == 0
    assert load_table(out).rows[0].key == CALL_OVERHEAD
    assert tool("predict", out, stranger, "--threads", 1, "--json").data["coverage_pct"] == 100


def test_a_table_in_json_and_csv(tool: Tool, table: Path, tmp_path: Path):
    ended = tool("show", table, "--csv", tmp_path / "rows.csv", "--json")
    data, loaded = ended.data, load_table(table)
    assert set(data) == {
        *("schema", "command", "warnings", "cpu", "runtime", "settings", "rows"),
        *("checksum", "models", "validations"),
    }
    assert data["checksum"] == json.loads(table.read_text())["checksum"]
    assert [model["pace_hz"] for model in data["models"]] == [None, 30.0]
    assert {row["level"] for row in data["rows"]} == {"isolated", "kernel", "edge"}
    assert data["cpu"]["model"] == loaded.cpu.model
    assert data["runtime"]["onnxruntime"] == runtime_version()
    assert [setting["threads"] for setting in data["settings"]] == [1]
    assert len(data["rows"]) == len(loaded.rows)
    assert set(data["rows"][0]) >= {"level", "threads", "label", "median_us", "low_us", "high_us"}
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1 + len(loaded.rows)


@pytest.mark.parametrize("level", ["isolated", "kernel", "edge"])
def test_a_level_of_a_table(level: str, tool: Tool, table: Path):
    rows = tool("show", table, "--level", level, "--threads", 1, "--json").data["rows"]
    assert {row["level"] for row in rows} == {level}
    assert tool("show", table, "--level", level).code == 0


def test_a_table_for_people_names_what_is_fused(tool: Tool, table: Path):
    shown = tool("show", table)
    assert shown.code == 0
    assert "[relu]" in shown.out
    assert shown.out.splitlines()[0].startswith(f"{load_table(table).cpu.model}, onnxruntime {runtime_version()}")
    assert "calibrated at 1 thread, pinned, back to back: off by" in shown.out.splitlines()[1]


def test_a_whole_table_is_verified(tool: Tool, table: Path):
    data = tool("verify", table, "--json").data
    assert set(data) == {"schema", "command", "warnings", "file", "checksum", "rows"}
    assert data["checksum"] == json.loads(table.read_text())["checksum"]


def test_samples_are_architectures_and_models_and_the_same_again(tool: Tool, space: Path, tmp_path: Path):
    for folder in ("a", "b"):
        words = ("sample", "--seed", 7, "--count", 2, "--out", tmp_path / folder, "--macro", space, "--json")
        data = tool(*words).data
        assert set(data) == {"schema", "command", "warnings", "files"}
        names = [Path(name).name for name in data["files"]]
        assert names == ["000.json", "000.onnx", "001.json", "001.onnx"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    onnx.checker.check_model(onnx.load(tmp_path / "a/000.onnx"))


def test_the_stride_of_samples_can_be_given(tool: Tool, space: Path, tmp_path: Path):
    words = ("sample", "--seed", 7, "--count", 1, "--out", tmp_path / "s", "--macro", space, "--stride", 2)
    assert tool(*words).code == 0
    macro = json.loads((tmp_path / "s/000.json").read_text())["macro"]
    assert (macro["segmentation_stride"], macro["quality_stride"], macro["image_size"]) == (2, 2, 32)


@pytest.mark.parametrize("name", ["mixed", "unet"])
def test_samples_of_other_sets_are_what_validation_draws(name: str, tool: Tool, tmp_path: Path):
    words = ("sample", "--seed", 7, "--count", 2, "--out", tmp_path / name, "--set", name)
    assert tool(*words).code == 0
    found = [read_architecture(tmp_path / name / f"{index:03d}.json") for index in range(2)]
    assert found == sampled_set(name, Macro(), 2, 7)


def test_a_prediction_in_json(tool: Tool, table: Path, model: Path):
    data = tool("predict", table, model, "--threads", 1, "--json").data
    expected = {"latency_ms", "raw_ms", "ci_ms", "coverage_pct", "kernels", "by_threads", "fastest_threads"}
    work = {"macs", "parameters", "bytes"}
    assert set(data) >= {"schema", "command", "warnings"} | expected
    assert set(data["kernels"][0]) >= {"key", "ms", "share_pct", "fused", "origin"}
    assert set(data) == {"schema", "command", "warnings", "threads", "pace_hz", "calibrated", *expected, *work}
    assert data["ci_ms"][0] <= data["latency_ms"] <= data["ci_ms"][1]
    assert data["by_threads"] == {"1": data["latency_ms"]}
    assert data["fastest_threads"] == 1
    assert (data["calibrated"], data["pace_hz"], data["warnings"]) == (True, 0, [])
    assert data["coverage_pct"] == 100
    assert all(data[name] > 0 for name in work)
    assert sum(kernel["share_pct"] for kernel in data["kernels"]) <= 100


def test_a_paced_prediction_is_of_the_paced_model(tool: Tool, table: Path, model: Path):
    data, paced = (tool("predict", table, model, "--threads", 1, *more, "--json").data for more in ((), ("--pace", 30)))
    assert paced["pace_hz"] == 30
    assert paced["raw_ms"] == data["raw_ms"]
    loaded = load_table(table)
    kernels = kernels_for(loaded, model)
    expected = predict_kernels(loaded, loaded.setting(1), kernels, pace_hz=30.0)
    assert paced["latency_ms"] == pytest.approx(expected.latency_us / 1000)


def test_the_fastest_thread_count_is_named_among_those_that_hold_the_network(tool: Tool, table: Path, model: Path):
    loaded = load_table(table)
    rows = [
        make_row(row.key, Setting(2), Measurement(tuple(tuple(2 * v for v in p) for p in row.measurement.samples_us)))
        for row in loaded.rows
        if row.level == "kernel" and row.measurement
    ]
    slower = dataclasses.replace(loaded, models=()).with_rows(rows)
    save_table(slower, table)
    data = tool("predict", table, model, "--threads", 2, "--json").data
    assert set(data["by_threads"]) == {"1", "2"}
    assert data["fastest_threads"] == 1
    assert data["latency_ms"] == data["by_threads"]["2"] > data["by_threads"]["1"]
    save_table(dataclasses.replace(loaded, models=()).with_rows(rows[:5]), table)
    data = tool("predict", table, model, "--threads", 1, "--json").data
    assert set(data["by_threads"]) == {"1"}


def test_a_table_that_is_not_calibrated_says_so_and_how_to_complete_it(tool: Tool, table: Path, model: Path):
    save_table(dataclasses.replace(load_table(table), models=()), table)
    data = tool("predict", table, model, "--threads", 1, "--json").data
    assert data["calibrated"] is False
    assert data["latency_ms"] == data["raw_ms"]
    (warning,) = data["warnings"]
    assert f"not calibrated against whole networks; complete it: latencykit build --out {table} --threads 1" in warning


def test_an_architecture_file_is_predicted_like_its_model(tool: Tool, table: Path, space: Path, tmp_path: Path):
    tool("sample", "--seed", 7, "--count", 1, "--out", tmp_path / "s", "--macro", space)
    by_suffix = [
        tool("predict", table, tmp_path / f"s/000.{suffix}", "--threads", 1, "--json").data
        for suffix in ("json", "onnx")
    ]
    assert by_suffix[0]["latency_ms"] == by_suffix[1]["latency_ms"]
    assert by_suffix[0]["kernels"] == by_suffix[1]["kernels"]


def test_a_prediction_for_people_with_a_figure(tool: Tool, table: Path, model: Path, tmp_path: Path):
    shown = tool("predict", table, model, "--threads", 1, "--plot", tmp_path / "p.svg")
    assert shown.code == 0
    assert " ms (" in shown.out
    assert "kernel sum " in shown.out
    assert "warning: " not in shown.err
    assert (tmp_path / "p.svg").exists()


def test_measured_models_in_json(tool: Tool, model: Path, stranger: Path, workers: FakeWorkers):
    words = ("measure", model, stranger, "--threads", 1, "--processes", 2, "--json")
    data = tool(*words).data
    assert set(data) >= {"schema", "command", "warnings", "models"}
    assert [entry["path"] for entry in data["models"]] == [str(model), str(stranger)]
    for entry in data["models"]:
        assert set(entry) >= {"path", "p50_ms", "p99_ms", "ci_ms", "affinity", "memory_bytes"}
    assert len(workers.orders) == 4


@pytest.mark.real_clock
def test_a_model_is_really_measured_under_load_and_at_a_pace(tool: Tool, model: Path):
    words = ("measure", model, "--threads", 1, "--processes", 1, "--pace", 200, "--load", 1, "--json")
    data = tool(*words).data
    assert (data["pace_hz"], data["load"], data["threads"]) == (200, 1, 1)
    assert data["models"][0]["p99_ms"] >= data["models"][0]["p50_ms"] > 0


VALIDATION_KEYS = {
    *("n", "threads", "levels", "constant", "macs", "repeat", "interval_coverage_pct", "networks", "worst"),
    *("set", "seed", "stride", "processes", "pace_hz", "unsteady", "tau_ratio", "edge_against_kernel_pct", "sets"),
}


def test_a_validation_in_json_with_a_figure(tool: Tool, table: Path, space: Path, tmp_path: Path, workers: FakeWorkers):
    words = ("validate", table, "--networks", 3, "--seed", 7, "--threads", 1, "--macro", space, "--processes", 2)
    ended = tool(*words, "--plot", tmp_path / "v.png", "--json")
    assert ended.code == 0, ended.err
    data = ended.data
    assert set(data) == {"schema", "command", "warnings"} | VALIDATION_KEYS
    assert data["n"] == len(data["networks"]) == 3
    assert (data["set"], data["seed"], data["stride"], data["processes"], data["pace_hz"]) == ("uniform", 7, None, 2, 0)
    assert set(data["levels"]) == {"isolated", "kernel", "edge"}
    for level, fits in data["levels"].items():
        assert set(fits) == {"raw", "calibrated"}
        assert (fits["raw"] is None) == (level == "edge")
        assert set(fits["calibrated"]) == {
            *("bias_pct", "mape_pct", "within_5_pct", "within_10_pct", "kendall_tau", "spearman"),
        }
    assert set(data["constant"]) == {"mape_pct"}
    assert set(data["networks"][0]) >= {"id", "measured_ms", "predicted_ms"}
    assert set(data["sets"]) == {"uniform"}
    assert (tmp_path / "v.png").exists()
    shown = tool(*words).out
    assert "kernel level, raw" in shown
    assert "kernel level, calibrated" in shown
    assert "edge level, calibrated" in shown


def test_a_validation_of_all_sets_has_figures_for_each(tool, table, space, workers, monkeypatch):
    monkeypatch.setattr("latencykit.selection.TAIL_POOL", 100)
    words = ("validate", table, "--networks", 4, "--seed", 7, "--threads", 1, "--macro", space, "--processes", 2)
    data = tool(*words, "--set", "all", "--pace", 30, "--json").data
    assert {name: part["n"] for name, part in data["sets"].items()} == {"uniform": 4, "tails": 2, "minimisers": 2}
    assert (data["n"], data["pace_hz"]) == (8, 30)
    assert {network["set"] for network in data["networks"]} == {"uniform", "tails", "minimisers"}
    shown = tool(*words, "--set", "all").out
    assert "kernel level, tails" in shown
    assert "kernel level, minimisers" in shown


def test_a_stored_validation_is_in_the_table_and_what_the_table_predicts_is_the_same(
    tool, table, space, model, workers
):
    before = tool("predict", table, model, "--threads", 1, "--json").data
    words = ("validate", table, "--networks", 3, "--seed", 7, "--threads", 1, "--macro", space, "--processes", 2)
    assert tool(*words, "--json").code == 0
    assert load_table(table).validations == ()
    data = tool(*words, "--store", "--json").data
    assert tool("verify", table).code == 0
    (kept,) = load_table(table).validations
    assert kept == {
        key: value for key, value in data.items() if key in VALIDATION_KEYS and key not in ("networks", "worst")
    }
    assert tool("show", table, "--json").data["validations"] == [kept]
    assert tool("predict", table, model, "--threads", 1, "--json").data == before
    tool(*words, "--store")
    assert len(load_table(table).validations) == 2


def test_a_validation_on_an_unsteady_machine_warns(tool, table, space, tmp_path, monkeypatch):
    monkeypatch.setitem(measure_items.__kwdefaults__, "attempts", 1)
    FakeWorkers(tmp_path, monkeypatch, states=[9000.0])
    words = ("validate", table, "--networks", 2, "--seed", 7, "--threads", 1, "--macro", space, "--processes", 2)
    data = tool(*words, "--json").data
    assert data["unsteady"] == 4
    assert data["warnings"] == [f"4 samples: {UNSTEADY}"]


def test_a_validation_of_a_table_without_the_networks_kernels_is_code_3(tool: Tool, table: Path, workers: FakeWorkers):
    words = ("validate", table, "--networks", 2, "--seed", 7, "--threads", 1, "--set", "unet", "--processes", 2)
    ended = tool(*words)
    assert (ended.code, ended.out) == (3, "")
    assert workers.orders == []


def test_progress_is_on_standard_error_and_the_result_alone_on_standard_output(tmp_path: Path, space: Path):
    words = ["sample", "--seed", "1", "--count", "2", "--out", str(tmp_path / "s"), "--macro", str(space), "--json"]
    script = "import latencykit.lines as p; p.FIRST_LINE_S = 0; import sys; from latencykit.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
    assert ended.stdout.count("\n") == 1
    assert json.loads(ended.stdout)["command"] == "sample"
    assert "write: 2/2" in ended.stderr
