import json
import re
from dataclasses import replace
from functools import partial

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from latencykit import topology
from latencykit.architecture import network_graph, read_architecture
from latencykit.cli import cli as latencykit_cli
from latencykit.lowering import onnx_to_graph
from nas import pipeline
from nas.cli import cli
from nas.commands import runs as module
from nas.config import load_run
from nas.data import load
from nas.degradations import bad_frames
from nas.pareto import pareto_front
from nas.results import choose_selection, read_results
from nas.scoring import DICE_CONSTANT_BAD_KEY, score_model
from nas.table import build_table
from tests.nas.tiny_run import BASELINE, CONFIG, MACRO, SEARCHED, files, nas, short_protocols

CONTRACT = [
    *("search", "derive", "train", "export", "evaluate", "run", "demo", "table", "cells", "pareto", "report"),
    "sample",
]
NAMES = sorted(cli.commands)


@pytest.fixture
def work(finished_run, tmp_path):
    """A copy of the finished folder."""
    return finished_run.copy(tmp_path / "out")


def object_of(ended, command):
    """The contract's JSON object of a command that ended well."""
    assert ended.code == 0, ended.err
    assert (ended.data["schema"], ended.data["command"]) == (1, command)
    assert ended.data["warnings"] == []
    return ended.data


def test_every_subcommand_of_the_contract_is_there():
    assert set(CONTRACT) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_an_example_that_parses(name):
    shown = nas(name, "--help")
    assert shown.code == 0
    (example,) = re.findall(r"Example: nas (.+?)(?:\n\n|$)", shown.out, re.DOTALL)
    words = example.split()
    assert words[0] == name
    cli.commands[name].make_context(name, words[1:])  # raises where an option or argument is unknown


@pytest.mark.parametrize("name", NAMES)
def test_every_command_takes_json(name):
    (option,) = [option for option in cli.commands[name].params if "--json" in option.opts]
    assert option.is_flag


def test_the_check_of_examples_can_fail():
    with pytest.raises(click.NoSuchOption):
        cli.commands["sample"].make_context("sample", ["--seed", "1", "--count", "1", "--out", "x", "--warp"])


def test_an_unknown_command_or_option_is_exit_2():
    assert nas("warp").code == 2
    assert nas("table", ".", "--warp").code == 2
    assert nas("search").code == 2  # without --out


def test_sample_writes_exactly_what_latencykit_writes(tmp_path):
    ours = object_of(nas("sample", "--seed", 7, "--count", 2, "--out", tmp_path / "nas", "--json"), "sample")
    words = ["sample", "--seed", "7", "--count", "2", "--out", str(tmp_path / "latencykit")]
    assert CliRunner().invoke(latencykit_cli, words).exit_code == 0
    names = ["000.json", "000.onnx", "001.json", "001.onnx"]
    assert list(files(tmp_path / "nas")) == list(files(tmp_path / "latencykit")) == names
    assert ours["files"] == [str(tmp_path / "nas" / name) for name in names]
    for name in names:
        assert (tmp_path / "nas" / name).read_bytes() == (tmp_path / "latencykit" / name).read_bytes()
    assert (tmp_path / "nas/000.json").read_bytes() != (tmp_path / "nas/001.json").read_bytes()


def test_sample_draws_what_a_row_chooses_among(tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(
        '[[rows]]\nname = "stride"\nkind = "search"\nmacro = { segmentation_stride = 4, quality_stride = 4 }\n'
        '[[rows]]\nname = "raced"\nkind = "search"\nsearch = { target_ms = 2.0 }\n'
        "macros = { segmentation_stride = [8], cell_nodes = [1], quality_stride = [8] }\n"
        '[[rows]]\nname = "hand-made"\nkind = "baseline"\nbaseline = { width = 4 }\n'
    )
    words = ("sample", "--config", config, "--seed", 3, "--count", 3, "--out")
    assert nas(*words, tmp_path / "first").code == 0
    assert {read_architecture(path).macro.segmentation_stride for path in (tmp_path / "first").glob("*.json")} == {4}
    assert nas(*words, tmp_path / "raced", "--row", "raced").code == 0
    found = [read_architecture(tmp_path / "raced" / f"00{index}.json") for index in range(3)]
    assert {(network.macro.segmentation_stride, network.macro.cell_nodes) for network in found} == {(8, 1)}
    assert len({network.macro for network in found}) > 1
    for wrong, said in (
        (["--row", "hand-made"], "no searched row hand-made"),
        (["--stride", 4], "--config names a space"),
        (["--set", "mixed"], "--config names a space"),
        (["--row", "raced", "--count", 0], "0 networks of seed 3"),
        (["--count", 0], "0 networks of seed 3"),
    ):
        ended = nas(*words, tmp_path / "wrong", *wrong)
        assert (ended.code, said in ended.err) == (2, True)
    ended = nas("sample", "--row", "raced", "--seed", 3, "--count", 3, "--out", tmp_path / "wrong")
    assert (ended.code, "pass --config" in ended.err) == (2, True)
    assert not (tmp_path / "wrong").exists()


def test_sample_heeds_the_macro_file_and_the_stride(tmp_path):
    (tmp_path / "macro.json").write_text(json.dumps({"segmentation_widths": [2, 4, 8], "quality_widths": [4, 4]}))
    words = ("--seed", 1, "--count", 1, "--out", tmp_path, "--macro", tmp_path / "macro.json", "--stride", 8)
    assert nas("sample", *words).code == 0
    assert read_architecture(tmp_path / "000.json").macro == MACRO


@pytest.fixture(scope="module")
def chain(finished_run, tmp_path_factory):
    """search, derive, train, export and evaluate, one after the other; what each said, and their folder."""
    folder = tmp_path_factory.mktemp("chain")
    config, run, trained = ("--config", finished_run.config), folder / "run", folder / "trained"
    table, model = finished_run.out / "table.json", folder / "pair.onnx"
    with short_protocols():
        said = {
            "search": nas("search", *config, "--table", table, "--target-ms", 0.3, "--out", run, "--json"),
            "derive": nas("derive", run, "--rule", "two-strongest", "--out", folder / "two.json", "--json"),
            "train": nas("train", run / "architecture.json", *config, "--seed", 3, "--out", trained, "--json"),
            "export": nas("export", trained, "--out", model, "--json"),
            "evaluate": nas("evaluate", model, *config, "--split", "train", "--json"),
            "cells": nas("cells", run / "architecture.json", "--json"),
        }
    return folder, {command: object_of(ended, command) for command, ended in said.items()}


def test_search_steers_to_a_target_and_writes_its_run_folder(chain):
    folder, said = chain
    run = folder / "run"
    records = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [0, 1]
    assert records[-1]["multiplier"] != 0  # the target has been heeded
    assert (run / "checkpoint" / "state.json").exists()
    assert (run / "history.png").read_bytes().startswith(b"\x89PNG")
    assert read_architecture(run / "architecture.json").macro == MACRO
    assert said["search"]["epochs"] == 2
    assert said["search"]["derived_ms"] == records[-1]["derived_ms"] > 0
    assert said["search"]["architecture"] == str(run / "architecture.json")


def test_derive_chooses_again_by_another_rule(chain):
    folder, said = chain
    two = read_architecture(folder / "two.json")
    assert said["derive"]["choices"] == {kind: list(names) for kind, names in two.choices.items()}
    assert two.macro == MACRO


def test_derive_without_out_writes_into_the_run(chain, tmp_path):
    folder, _ = chain
    before = (folder / "run/architecture.json").read_bytes()
    ended = nas("derive", folder / "run", "--json")
    assert object_of(ended, "derive")["architecture"] == str(folder / "run" / "architecture.json")
    assert (folder / "run/architecture.json").read_bytes() == before


def test_train_and_export_keep_the_architecture_and_the_seed(chain):
    folder, said = chain
    assert 0 <= said["train"]["dice_selection"] <= 1
    model = folder / "pair.onnx"
    assert said["export"] | {"model": str(model), "bytes": model.stat().st_size} == said["export"]
    graph, _ = onnx_to_graph(onnx.load(model), "pair")
    assert graph.metadata["seed"] == "3"
    assert graph.nodes == network_graph(read_architecture(folder / "run/architecture.json")).nodes


def test_evaluate_scores_a_split_and_draws_the_predicted_dice(chain):
    folder, said = chain
    found = said["evaluate"]
    assert (found["split"], found["frames"]) == ("train", 16)
    assert 0 <= found["dice"] <= 1
    assert found["picture"] == str(folder / "pair.train.png")
    assert (folder / "pair.train.png").read_bytes().startswith(b"\x89PNG")
    assert not list(folder.glob("*.final.jsonl"))


def test_evaluate_scores_the_frames_degraded_too_where_asked(chain, finished_run, tmp_path):
    folder, said = chain
    model = tmp_path / "pair.onnx"
    model.write_bytes((folder / "pair.onnx").read_bytes())
    words = ("evaluate", model, "--config", finished_run.config, "--split", "train", "--degraded", "--json")
    found = object_of(nas(*words), "evaluate")
    assert said["evaluate"]["degraded"] == {}
    assert found["dice"] == said["evaluate"]["dice"]
    assert found["degraded"].keys() == {"seen", "held_out"}
    run = load_run(finished_run.config)
    train, degradations = load(run.data).of_split("train"), run.train.degradations
    for subset, kinds in degradations.sets.items():
        there = score_model(model, bad_frames(train, degradations, kinds), DICE_CONSTANT_BAD_KEY).summary()
        assert found["degraded"][subset] == json.loads(json.dumps(there.as_dict()))
        assert (there.frames, there.mae != found["mae"]) == (16, True)


def test_cells_are_drawn_beside_the_architecture(chain):
    folder, said = chain
    assert said["cells"]["picture"] == str(folder / "run" / "cells.svg")
    assert "<svg" in (folder / "run/cells.svg").read_text()


def test_a_search_done_again_goes_on_where_it_was(chain, finished_run):
    folder, said = chain
    before = (folder / "run/checkpoint/state.json").stat().st_mtime_ns
    words = ("--config", finished_run.config, "--table", finished_run.out / "table.json", "--target-ms", 0.3)
    with short_protocols():
        again = nas("search", *words, "--out", folder / "run", "--json")
    assert object_of(again, "search") == said["search"]
    assert (folder / "run/checkpoint/state.json").stat().st_mtime_ns == before


def test_a_search_of_a_row_that_is_not_searched_is_refused(finished_run, tmp_path):
    words = ("--config", finished_run.config, "--out", tmp_path / "run")
    for row in (BASELINE, "unknown"):
        ended = nas("search", *words, "--row", row)
        assert (ended.code, list(tmp_path.iterdir())) == (2, [])
        assert f"no searched row {row}; pass another --row" in ended.err


def test_the_report_split_is_not_evaluated_without_final(chain, finished_run):
    folder, _ = chain
    before = files(folder)
    ended = nas("evaluate", folder / "pair.onnx", "--config", finished_run.config, "--split", "valid")
    assert ended.code == 2
    assert "'valid' is the report split, scored once, at the end: pass --final" in ended.err
    assert files(folder) == before


def test_the_report_split_is_evaluated_with_final_and_logged_once_per_model(chain, finished_run, tmp_path):
    folder, _ = chain
    model = tmp_path / "pair.onnx"
    model.write_bytes((folder / "pair.onnx").read_bytes())
    words = ("evaluate", model, "--config", finished_run.config, "--split", "valid", "--final", "--json")
    assert object_of(nas(*words), "evaluate")["frames"] == 4
    assert len((tmp_path / "pair.final.jsonl").read_text().splitlines()) == 1
    other = onnx.load(model)
    other.doc_string = "another"
    onnx.save(other, model)
    ended = nas(*words)
    assert ended.code == 2
    assert "start a new results folder, or delete its line" in ended.err
    assert len((tmp_path / "pair.final.jsonl").read_text().splitlines()) == 1


def test_a_split_that_does_not_exist_is_refused_by_name(chain, finished_run):
    folder, _ = chain
    ended = nas("evaluate", folder / "pair.onnx", "--config", finished_run.config, "--split", "test")
    assert ended.code in (2, 6)
    assert "'test'" in ended.err


@pytest.mark.parametrize(
    "words",
    [
        ("run", "absent.toml"),
        ("train", "absent.json", "--seed", "0", "--out", "run"),
        ("export", "absent", "--out", "a.onnx"),
        ("derive", "absent"),
        ("cells", "absent.json"),
        ("table", "absent"),
        ("pareto", "absent"),
        ("report", "absent"),
        ("evaluate", "absent.onnx", "--split", "train"),
        ("sample", "--seed", "1", "--count", "1", "--out", "samples", "--macro", "absent.json"),
    ],
    ids=lambda words: words[0],
)
def test_what_is_absent_is_named_and_exit_6(words, finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = ("--config", finished_run.config) if words[0] in ("train", "evaluate") else ()
    ended = nas(*words, *config)
    assert ended.code == 6
    assert "absent" in ended.err
    assert "Traceback" not in ended.err
    assert list(tmp_path.iterdir()) == []


def test_table_reproduces_the_runs_table(finished_run):
    found = object_of(nas("table", finished_run.out, "--json"), "table")
    results = read_results(finished_run.out / "results.csv")
    table = build_table(results, choose_selection(results, "valid"), reference=BASELINE, best_by="selection")
    plain = json.loads(json.dumps(table.as_dict()))
    assert {key: found[key] for key in plain} == plain
    shown = nas("table", finished_run.out, "--markdown").out
    assert shown.strip() == (finished_run.out / "table.md").read_text().strip()


def test_table_shows_what_is_asked_for(finished_run):
    words = ("--split", "selection", "--threads", 1, "--pace", 0, "--reference", SEARCHED, "--json")
    found = object_of(nas("table", finished_run.out, *words), "table")
    assert found["selection"] == {"split": "selection", "degraded": "all", "threads": 1, "pace_hz": 0.0}
    assert (found["reference"], found["rows"][1]["latency_reduction_pct"]) == (SEARCHED, 0)


@pytest.mark.parametrize("subset", ["clean", "degraded"])
def test_table_shows_a_subset(finished_run, subset):
    found = object_of(nas("table", finished_run.out, "--subset", subset, "--json"), "table")
    results = read_results(finished_run.out / "results.csv")
    lines = [r.dice for r in results if (r.row, r.degraded, r.pace_hz) == (BASELINE, subset, 30) and r.split == "valid"]
    assert found["rows"][0]["dice"]["mean"] == pytest.approx(np.mean(lines))


def test_table_for_people_names_rows_and_what_the_figures_are_of(finished_run):
    shown = nas("table", finished_run.out)
    assert shown.code == 0
    for text in (BASELINE, SEARCHED, "split valid, all frames, 1 thread, paced at 30 Hz", "over different seeds"):
        assert text in shown.out
    assert shown.out.count("over different seeds") == 1


def test_a_table_that_was_not_measured_is_exit_3(finished_run):
    assert nas("table", finished_run.out, "--threads", 2).code == 3
    assert nas("table", finished_run.out, "--reference", "unknown").code == 3


def test_pareto_draws_the_front_of_what_is_stored(work):
    before = (work / "pareto.png").read_bytes()
    (work / "pareto.png").unlink()
    found = object_of(nas("pareto", work, "--json"), "pareto")
    assert (work / "pareto.png").read_bytes() == before
    results = read_results(work / "results.csv")
    selection = choose_selection(results, "valid")
    front = pareto_front(build_table(results, selection, reference=BASELINE, best_by="selection"), [BASELINE])
    assert found["hypervolume"] == front.hypervolume
    assert [(p["row"], p["dice"], p["on_front"]) for p in found["points"]] == [
        (p.row, p.dice, p.on_front) for p in front.points
    ]
    shown = nas("pareto", work).out
    assert all((f"{p.row}:" in shown) == p.on_front for p in front.points)


def test_report_writes_the_same_page_again(work):
    before = (work / "report.html").read_bytes()
    (work / "report.html").unlink()
    assert object_of(nas("report", work, "--json"), "report")["report"] == str(work / "report.html")
    assert (work / "report.html").read_bytes() == before


def test_cells_of_a_results_folder_are_drawn_where_asked(finished_run, tmp_path):
    target = tmp_path / "cells.png"
    architecture = finished_run.out / SEARCHED / "architecture.json"
    assert object_of(nas("cells", architecture, "--out", target, "--json"), "cells")["picture"] == str(target)
    assert target.read_bytes().startswith(b"\x89PNG")
    assert not (architecture.parent / "cells.svg").exists()


def test_contact_sheet_shows_the_data(finished_run, tmp_path):
    words = ("contact-sheet", "--config", finished_run.config, "--out", tmp_path / "sheet.png", "--json")
    assert object_of(nas(*words), "contact-sheet")["picture"] == str(tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_run_says_what_it_made(finished_run):
    found = object_of(finished_run.finished, "run")
    assert found["out"] == str(finished_run.out)
    assert all(path.startswith(f"{finished_run.out}/") for path in found["files"])


def test_run_names_its_folder_after_the_configuration_unless_told(finished_run, tmp_path, monkeypatch):
    asked = []

    def fake(config, source, out, final, jobs, say, cluster, only):
        asked.append((config.name, config.table, source, str(out), final, jobs, cluster, only))
        out.mkdir(parents=True)
        (out / "table.md").write_text("a table")

    monkeypatch.setattr(pipeline, "run", fake)
    monkeypatch.chdir(tmp_path)
    shown = nas("run", finished_run.config, "--table", "t.json", "--jobs", 3, "--cluster", "auto", "--only", "a")
    assert "a table" in shown.out
    assert asked == [("tiny", "t.json", finished_run.config, "out/tiny", False, 3, "auto", ("a",))]


@pytest.mark.parametrize(
    ("cores", "quota", "threads"), [(1, None, 1), (2, None, 2), (4, None, 4), (16, None, 4), (8, 2.5, 2), (0, None, 1)]
)
def test_the_demo_takes_the_physical_cores_at_most_four_and_says_so(tmp_path, monkeypatch, cores, quota, threads):
    asked = []

    def fake(config, source, out, final, jobs, say):
        assert source.read_text().startswith("# The embedded demo")
        asked.append((config.name, config.threads, out, final, jobs))
        out.mkdir(parents=True)
        (out / "table.md").write_text("a table")

    cgroup = topology.read_cgroup()
    monkeypatch.setattr(topology, "physical_cpus", lambda *_: tuple(range(cores)))
    monkeypatch.setattr(topology, "ask_core_count", lambda: None)
    monkeypatch.setattr(topology, "read_cgroup", lambda _: replace(cgroup, quota_cpus=quota))
    monkeypatch.setattr(pipeline, "run", fake)
    ended = nas("demo", "--out", tmp_path / "demo", "--json")
    assert object_of(ended, "demo")["out"] == str(tmp_path / "demo")
    assert asked == [("demo", (threads,), tmp_path / "demo", True, 2)]
    assert f"demo: {threads} thread" in ended.err
    assert str(module.MOST_THREADS) in ended.err


def test_a_table_is_taken_from_where_the_option_says(finished_run, tmp_path, monkeypatch):
    """Else a search would measure one into its own folder."""
    asked = []

    class StopHereError(Exception):
        pass

    def stop(path, macros, threads, own):
        asked.append((path, list(macros), threads, own))
        raise StopHereError

    monkeypatch.setattr(pipeline, "ensure_table", stop)
    words = partial(nas, "search", "--config", finished_run.config, "--out", tmp_path / "run")
    assert words().code == 70
    assert words("--table", tmp_path / "other.json").code == 70
    assert asked == [
        (tmp_path / "run/table.json", [MACRO], (1,), True), (tmp_path / "other.json", [MACRO], (1,), False)
    ]  # fmt: skip


def test_the_tiny_configuration_is_what_these_tests_think(finished_run):
    assert finished_run.config.read_text() == CONFIG
