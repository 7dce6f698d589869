"""What the commands give: the JSON of the contract, and text for people."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from latencykit.architecture import read_architecture
from latencykit.bench import STEADY_PCT, UNSTEADY
from latencykit.commands.options import kernels_for
from latencykit.kernels import CALL_OVERHEAD
from latencykit.keys import Edge
from latencykit.lock import only_writer
from latencykit.macro import Macro
from latencykit.measurement import Measurement
from latencykit.predict import predict_kernels
from latencykit.runtime import Setting, runtime_version
from latencykit.selection import sampled_set
from latencykit.table import make_row
from latencykit.table_file import load_table, save_table
from tests.latencykit.command_line import TOO_MANY, Tool, build_words
from tests.latencykit.made_up import TINY, FakeWorkers


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
    assert (first["networks"], first["repeated"]) == (len(table.timings), 0) == (23 + 12, 0)
    assert [(model["threads"], model["pace_hz"], model["networks"]) for model in first["models"]] == [
        (1, None, 23), (1, 30.0, 12),
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
        patch.setattr("latencykit.journal.ATTEMPTS", 2)
        patch.setattr("latencykit.bench.STEADY_PCT", STEADY_PCT)
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
    assert data["models"][0]["networks"] == 2 * 23


@pytest.mark.usefixtures("small_builds")
def test_a_dry_run_lists_what_is_missing_and_writes_nothing(
    tool: Tool, space: Path, table: Path, tmp_path: Path, stranger
):
    out = tmp_path / "t.json"
    data = tool(*build_words(out, space, "--dry-run")).data
    assert set(data) >= {"schema", "command", "warnings", "table", "rows", "missing", "networks", "estimate_s"}
    assert data["missing"] == sum(data["rows"].values())
    assert data["networks"] == 23 + 12
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


def test_a_table_shows_its_dearest_rows_and_how_to_see_the_others(tool: Tool, table: Path):
    total = len(load_table(table).rows)
    few, all_of_them = tool("show", table, "--rows", 3).out, tool("show", table, "--rows", total).out
    assert f"{total - 3} more: --rows {total}, or --csv F" in few
    assert "more: --rows" not in all_of_them
    assert len(all_of_them.splitlines()) - len(few.splitlines()) == total - 3 - 1


def test_whoever_uses_a_table_hears_the_doubts_about_it(tool: Tool, table: Path, model: Path, tmp_path: Path):
    loaded = load_table(table)
    assert dataclasses.replace(loaded, doctor={"fit": True}).doubts == []
    doubtful = dataclasses.replace(loaded, doctor={"fit": False, "reasons": []}, validations=({"trial": True},))
    save_table(doubtful, tmp_path / "t.json")
    trial, unfit = load_table(tmp_path / "t.json").doubts
    assert "its figures are worth nothing" in trial
    assert "unfit" in unfit
    for words in (["show"], ["predict", "--threads", 1]):
        model_words = [model] if words[0] == "predict" else []
        heard = tool(words[0], tmp_path / "t.json", *model_words, *words[1:], "--json").data["warnings"]
        assert heard[:2] == [trial, unfit]


@pytest.mark.usefixtures("small_builds")
def test_a_table_that_another_process_measures_is_left_to_it(tool: Tool, space: Path, tmp_path: Path, workers):
    out = tmp_path / "new/t.json"
    with only_writer(out):
        ended = tool(*build_words(out, space))
        assert (ended.code, ended.out) == (7, "")
        assert f"another process is making {out}" in ended.err
        assert tool(*build_words(out, space), "--dry-run").code == 0
        assert not out.exists()
    assert tool(*build_words(out, space)).code == 0
    assert [path.name for path in out.parent.iterdir()] == ["t.json"]


@pytest.mark.parametrize("level", ["isolated", "kernel", "edge"])
def test_a_level_of_a_table(level: str, tool: Tool, table: Path):
    rows = tool("show", table, "--level", level, "--threads", 1, "--json").data["rows"]
    assert {row["level"] for row in rows} == {level}
    assert tool("show", table, "--level", level).code == 0


def test_a_table_for_people_names_what_is_fused(tool: Tool, table: Path):
    shown = tool("show", table, "--level", "kernel", "--rows", 1000)
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
    *("slowdown_pct", "at_build_speed"),
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
    kept = dict(*load_table(table).validations)
    assert kept.pop("macro")["cell_nodes"] == 3
    assert kept == {
        key: value for key, value in data.items() if key in VALIDATION_KEYS and key not in ("networks", "worst")
    }
    assert tool("show", table, "--json").data["validations"] == list(load_table(table).validations)
    assert tool("predict", table, model, "--threads", 1, "--json").data == before
    tool(*words, "--store")
    assert len(load_table(table).validations) == 2


def test_a_validation_on_an_unsteady_machine_warns(tool, table, space, tmp_path, monkeypatch):
    monkeypatch.setattr("latencykit.journal.ATTEMPTS", 1)
    FakeWorkers(tmp_path, monkeypatch, states=[9e6])
    words = ("validate", table, "--networks", 2, "--seed", 7, "--threads", 1, "--macro", space, "--processes", 2)
    data = tool(*words, "--json").data
    assert data["unsteady"] > 4  # the two networks and those that are timed along
    assert data["warnings"][0] == f"{data['unsteady']} samples: {UNSTEADY}"


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
