import json
import re
import shutil
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import pytest

from latencykit import edges
from latencykit.end_to_end import MeasuredModel
from latencykit.lowering import onnx_to_graph
from latencykit.measurement import Measurement
from latencykit.runtime import Session, Setting
from latencykit.schema import decode
from latencykit.table_file import load_table, table_checksum
from nas import pipeline, prices, staged, timings
from nas.config import load_run
from nas.data import load
from nas.degradations import bad_frames
from nas.metrics import FrameScores
from nas.provenance import file_sha256
from nas.results import COLUMNS, SUBSETS, read_results
from nas.scoring import subsets as subsets_of
from nas.timings import RowTiming
from nas.train import training_parts
from nas.trained import load_trained
from nas.workspace import Workspace
from tests.nas.tiny_run import BASELINE, CONFIG, SEARCHED, TASKS, files, nas, short_protocols

CONTRACT = [
    *("table.json", "validation.png", "history.png", "cells.svg", "results.csv", "pareto.png", "report.html"),
    *(f"{BASELINE}/model.onnx", f"{SEARCHED}/model.onnx"),
]
REDRAWN = {
    *("history.png", "cells.svg", "results.csv", "pareto.png", "report.html", "table.md", "run.toml", "facts.json"),
    *("quality.png", "qualitative.png", "validation.png", "latencies.md", "contest.md"),
    *(f"{row}/{name}" for row in (BASELINE, SEARCHED) for name in ("model.onnx", "architecture.json")),
}
"""Pictures and what the rows' best seeds are copied to: made from what is stored, at every run."""
COLUMNS_OF_THE_CONTRACT = [
    *("row", "seed", "split", "degraded", "dice", "hd95_mm", "asd_mm", "mae", "mae_constant", "pearson_r", "auroc"),
    *("threads", "pace_hz", "p50_ms", "p99_ms", "macs", "macs_paper", "params", "config_sha", "table_sha", "commit"),
]
loaded = cache(load)


@pytest.fixture(scope="module")
def dataset(finished_run):
    return loaded(load_run(finished_run.config).data)


@pytest.fixture
def work(finished_run, tmp_path):
    """A copy of the finished folder to run in again."""
    return finished_run.copy(tmp_path / "out")


@pytest.fixture
def again(finished_run, work, monkeypatch):
    """Runs into the copy; `done` lists the stages that had to be done.

    End-to-end timings are made up and pictures are not drawn, except with `drawn=True`.
    """
    done = []

    def timed(paths, setting, pace_hz, processes, advance):
        return [MeasuredModel(str(path), Measurement(((1000.0,),)), (), None) for path in paths]

    def spy(module, name, note):
        original = getattr(module, name)

        def spied(*args, **options):
            done.append(note(args))
            return original(*args, **options)

        monkeypatch.setattr(module, name, spied)

    def run(*words, config=finished_run.config, drawn=False):
        done.clear()
        with pytest.MonkeyPatch.context() as patch:
            if not drawn:
                patch.setattr(pipeline, "make_gallery", lambda *_: None)
            ended = nas("run", config, "--out", work, "--json", *words)
        run.done = sorted(done)
        return ended

    with short_protocols():
        spy(staged, "search", lambda args: "search")
        spy(pipeline, "train", lambda args: f"train {args[4].parent.relative_to(work)}")
        spy(pipeline, "score_model", lambda args: f"score {args[0].parent.relative_to(work)}")
        spy(prices, "build", lambda args: "build")
        spy(prices, "validate", lambda args: "validate")
        spy(prices, "space_needs", lambda args: "lower")
        spy(edges, "lower_samples", lambda args: "lower")
        monkeypatch.setattr(timings, "measure_models", timed)
        monkeypatch.setattr(pipeline, "load", loaded)
        yield run


def unchanged(before, after):
    """Files that a run must leave alone, and did."""
    return {name: time for name, time in before.items() if name not in REDRAWN} == {
        name: time for name, time in after.items() if name not in REDRAWN
    }


def test_hand_made_and_searched_rows_contend(finished_run, tmp_path):
    text = (finished_run.out / "contest.md").read_text()
    assert f"| {BASELINE} | {SEARCHED} | " in text
    ended = nas("pareto", finished_run.copy(tmp_path / "out"), "--json")
    (duel,) = ended.data["contest"]
    assert (duel["hand_made"], duel["searched"]) == (BASELINE, SEARCHED)
    assert duel["dice"]["low"] <= duel["dice"]["mean"] <= duel["dice"]["high"]


@pytest.mark.parametrize("left_out", ["not scored", "of other frames", "ablation"])
def test_a_row_that_cannot_contend_is_left_out_and_the_rest_is_made(work, left_out):
    seed = Workspace(work).seed(SEARCHED, 0)
    if left_out == "not scored":
        seed.scores("valid-held_out").unlink()
    elif left_out == "of other frames":
        for name in ("valid", "valid-held_out"):
            stored = json.loads(seed.scores(name).read_text())
            seed.scores(name).write_text(json.dumps(stored | {"patients": []}))
    else:
        facts = json.loads((seed.train / "training.json").read_text())
        facts["config"]["quality_without"] = ["uncertainty"]
        (seed.train / "training.json").write_text(json.dumps(facts))
    ended = nas("pareto", work, "--json")
    assert (ended.code, ended.data["contest"]) == (0, [])
    assert len(ended.data["points"]) == 2
    assert SEARCHED in ended.data["left_out"]
    assert not (work / "contest.md").exists()  # the one of before


def test_every_latency_is_shown_beside_its_floor(finished_run):
    text = (finished_run.out / "latencies.md").read_text()
    cells = re.search(rf"\| {BASELINE} \| (.+) \|", text).group(1).split(" | ")
    kept = json.loads((finished_run.out / "latencies.json").read_text())
    network = file_sha256(Workspace(finished_run.out).row(BASELINE) / "architecture.json")[:16]
    assert len(cells) == len(kept) == 2  # one thread count, two rhythms
    for cell, timed in zip(cells, decode(dict[str, dict[str, Measurement]], kept, "").values(), strict=True):
        whole, floor, own = map(float, re.findall(r"-?[0-9.]+", cell))
        floors = [one for name, one in timed.items() if "floor" in name]
        assert whole == pytest.approx(timed[network].median_us / 1000, abs=6e-4)
        assert floor in [pytest.approx(one.median_us / 1000, abs=6e-4) for one in floors]
        assert own == pytest.approx(whole - floor, abs=2e-3)


def test_every_file_of_the_contract_is_there_and_said_so(finished_run):
    made = {path: (finished_run.out / path).stat().st_size for path in CONTRACT}
    assert min(made.values()) > 100
    assert {str(finished_run.out / path) for path in CONTRACT} <= set(finished_run.finished.data["files"])


def test_the_columns_are_the_contracts(finished_run):
    assert list(COLUMNS) == COLUMNS_OF_THE_CONTRACT
    assert (finished_run.out / "results.csv").read_text().splitlines()[0].split(",") == COLUMNS_OF_THE_CONTRACT


def test_there_is_a_line_for_each_row_seed_split_subset_and_pace(finished_run, dataset):
    config = load_run(finished_run.config)
    expected = set()
    for row, seed in config.tasks():
        selection = training_parts(dataset.of_split("train"), config.train_of(row))["selection"]
        for split, frames in (("selection", selection), ("valid", dataset.of_split("valid"))):
            subsets = ["all", "seen", "held_out"]
            subsets += ["degraded"] if frames.degraded.any() else []
            subsets += ["clean"] if frames.degraded.any() and not frames.degraded.all() else []
            expected |= {(row.name, seed, split, s, 1, pace) for s in subsets for pace in (0.0, 30.0)}
    results = read_results(finished_run.out / "results.csv")
    assert {result.key for result in results} == expected
    assert {(result.row, result.seed) for result in results} == set(TASKS)
    assert {result.degraded for result in results if result.split == "valid"} == set(SUBSETS)


def test_every_line_says_where_it_comes_from(finished_run):
    results = read_results(finished_run.out / "results.csv")
    assert {r.config_sha for r in results} == {load_run(finished_run.config).sha256()}
    table_sha = table_checksum(load_table(finished_run.out / "table.json"))
    assert {(r.row, r.table_sha) for r in results} == {(BASELINE, ""), (SEARCHED, table_sha)}
    assert (finished_run.out / "run.toml").read_text() == CONFIG
    assert all(r.p50_ms and r.p99_ms and r.p99_ms >= r.p50_ms for r in results)


def test_the_lines_hold_the_scores_of_their_frames(finished_run, dataset):
    results = read_results(finished_run.out / "results.csv")
    degraded = dataset.of_split("valid").degraded
    for row, seed in TASKS:
        stored = json.loads(Workspace(finished_run.out).seed(row, seed).scores("valid").read_text())
        dice = np.array(stored["dice"])
        for subset, chosen in (("all", slice(None)), ("clean", ~degraded), ("degraded", degraded)):
            lines = [r for r in results if (r.row, r.seed, r.split, r.degraded) == (row, seed, "valid", subset)]
            assert [r.dice for r in lines] == pytest.approx([dice[chosen].mean()] * 2)
            errors = np.abs(np.array(stored["dice_predicted"]) - dice)[chosen]
            assert [r.mae for r in lines] == pytest.approx([errors.mean()] * 2)


@pytest.mark.parametrize("row", [BASELINE, SEARCHED])
def test_the_model_has_the_contracts_inputs_and_outputs(finished_run, dataset, row):
    path = finished_run.out / row / "model.onnx"
    graph = onnx.load(path).graph

    def shapes(values):
        return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}

    assert shapes(graph.input) == {"image": [1, 3, 256, 256]}
    expected = {"mask": [1, 1, 256, 256], "uncertainty": [1, 1, 256, 256], "dice": [1, 1]}
    assert shapes(graph.output) == expected
    images = [dataset.rgb(0), np.zeros((1, 3, 256, 256), np.float32), np.ones((1, 3, 256, 256), np.float32)]
    with Session(path, Setting(threads=1, pinned=False), ()) as session:
        for image in images:
            outputs = session.run({"image": image})
            assert {name: list(value.shape) for name, value in outputs.items()} == expected
            for value in outputs.values():
                assert value.dtype == np.float32
                assert -1e-6 <= value.min() <= value.max() <= 1 + 1e-6


def test_the_rows_model_is_its_best_seeds_on_the_selection_patients(finished_run):
    results = read_results(finished_run.out / "results.csv")
    dice = {r.seed: r.dice for r in results if (r.row, r.split) == (BASELINE, "selection")}
    assert len(set(dice.values())) == 2
    best = max(dice, key=dice.__getitem__)
    models = {seed: Workspace(finished_run.out).seed(BASELINE, seed).model.read_bytes() for seed in dice}
    assert (finished_run.out / BASELINE / "model.onnx").read_bytes() == models[best]
    assert len(set(models.values())) == 2


def test_without_final_the_report_split_is_not_scored(finished_run):
    assert "final.jsonl" not in finished_run.unfinished_files
    assert not [name for name in finished_run.unfinished_files if "valid" in name and not name.startswith("validation")]
    splits = {line.split(",")[2] for line in finished_run.unfinished_results.splitlines()[1:]}
    assert splits == {"selection"}


def test_final_scores_the_report_split_once_for_each_row_and_seed_and_logs_it(finished_run, dataset):
    entries = [json.loads(line) for line in (finished_run.out / "final.jsonl").read_text().splitlines()]
    valid, degradations = dataset.of_split("valid"), load_run(finished_run.config).train.degradations
    bad = [bad_frames(valid, degradations, kinds) for kinds in degradations.sets.values()]
    for frames in (valid, *bad):
        logged = [entry for entry in entries if entry["data_sha"] == frames.sha256]
        assert sorted((entry["row"], entry["seed"]) for entry in logged) == sorted(TASKS)
    assert len(entries) == 3 * len(TASKS)
    for entry in entries:
        assert entry["model_sha"] == file_sha256(Workspace(finished_run.out).seed(entry["row"], entry["seed"]).model)


def test_patients_of_the_report_split_never_enter_search_training_or_selection(finished_run, dataset):
    given, reported = dataset.of_split("train"), set(dataset.of_split("valid").patients.tolist())
    assert len(finished_run.searched) == 1
    assert len(finished_run.trained) == len(TASKS)
    for handed in (*finished_run.searched, *finished_run.trained):
        assert handed.sha256 == given.sha256
        assert not reported & set(handed.patients.tolist())
    assert len(reported) == 2
    for row, seed in TASKS:
        folder = Workspace(finished_run.out).seed(row, seed)
        assert load_trained(folder.train).training.data_sha256 == given.sha256
        graph, _ = onnx_to_graph(onnx.load(folder.model), "model")
        assert graph.metadata["data_sha256"] == given.sha256


def test_the_second_command_with_final_searched_and_trained_nothing_again(finished_run):
    now, before = files(finished_run.out), finished_run.unfinished_files
    assert "search and train: 0 of 3 to do" in finished_run.finished.err
    new = set(now) - set(before)
    scored = ("valid", "valid-seen", "valid-held_out")
    assert new == {
        "final.jsonl",
        "contest.md",
        *(f"{row}/seed{seed}/scores-{name}.json" for row, seed in TASKS for name in scored),
    }
    assert unchanged(before, {name: time for name, time in now.items() if name not in new})


def untimed(lines):
    return [replace(line, p50_ms=None, p99_ms=None, commit="") for line in lines]


def test_a_finished_run_done_again_trains_and_scores_nothing_and_gives_the_same_scores(again, work):
    before, results = files(work), read_results(work / "results.csv")
    assert again("--final").code == 0
    assert again.done == []
    assert files(work).keys() == before.keys()
    assert unchanged(before, files(work))
    assert untimed(read_results(work / "results.csv")) == untimed(results)


SEED = f"{SEARCHED}/seed0"


@pytest.mark.parametrize(
    ("lost", "stages"),
    [
        (f"{SEED}/model.onnx", [f"train {SEED}"]),
        (f"{SEED}/train/training.json", []),
        (f"{SEED}/scores-selection.json", [f"score {SEED}"]),
        (f"{SEED}/scores-valid-held_out.json", [f"score {SEED}"]),
        (f"{BASELINE}/seed1/scores-valid.json", [f"score {BASELINE}/seed1"]),
        ("validation.png", ["validate"]),
        ("validation.json", ["validate"]),
        ("results.csv", []),
        (f"{BASELINE}/model.onnx", []),
    ],
)
def test_a_lost_artefact_is_made_again_and_nothing_before_it(again, work, lost, stages):
    before = files(work)
    models = {path: path.read_bytes() for path in work.rglob("model.onnx")}
    path = work / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert again("--final").code == 0
    assert again.done == stages
    after = files(work)
    needed = set(before) if not lost.endswith("training.json") else set(before) - {lost}
    assert needed <= set(after)
    free = {*REDRAWN, *(("validation.json",) if "validate" in stages else ())}
    ours = (lost, "final", *((f"{SEED}/train",) if f"train {SEED}" in stages else ()))
    kept = {name: time for name, time in before.items() if name not in free and not name.startswith(ours)}
    assert {name for name, time in kept.items() if after[name] != time} == set()
    assert {path: path.read_bytes() for path in work.rglob("model.onnx")} == models


def test_lost_pictures_and_tables_are_made_again_from_what_is_stored(again, work):
    lost = [*("cells.svg", "history.png", "quality.png", "qualitative.png", "pareto.png"), *("report.html", "table.md")]
    cells = (work / "cells.svg").read_bytes()
    for name in lost:
        (work / name).unlink()
    assert again("--final", drawn=True).code == 0
    assert again.done == []
    assert min((work / name).stat().st_size for name in lost) > 100
    assert (work / "cells.svg").read_bytes() == cells


def test_a_report_split_scored_again_with_the_same_model_is_logged_again(again, work):
    Workspace(work).seed(BASELINE, 1).scores("valid").unlink()
    assert again("--final").code == 0
    entries = [json.loads(line) for line in (work / "final.jsonl").read_text().splitlines()]
    assert [(e["row"], e["seed"]) for e in entries[9:]] == [(BASELINE, 1)]


def test_another_model_of_a_scored_row_and_seed_is_refused_with_a_remedy(again, work):
    folder = Workspace(work).seed(BASELINE, 0)
    model = onnx.load(folder.model)
    model.doc_string = "another"
    onnx.save(model, folder.model)
    log, results = (work / "final.jsonl").read_bytes(), (work / "results.csv").read_bytes()
    ended = again("--final")
    assert ended.code == 2
    assert f"{BASELINE} seed 0 was scored on the report split before" in ended.err
    assert "start a new results folder, or delete its line" in ended.err
    assert ((work / "final.jsonl").read_bytes(), (work / "results.csv").read_bytes()) == (log, results)
    assert f"score {BASELINE}/seed0" in again.done  # of the selection patients, which may be scored at will
    lines = log.decode().splitlines()
    (work / "final.jsonl").write_text("".join(f"{e}\n" for e in lines if _row_and_seed(e) != (BASELINE, 0)))
    assert again("--final").code == 0


def _row_and_seed(line):
    entry = json.loads(line)
    return entry["row"], entry["seed"]


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("\nquality_epochs = 1", "\nquality_epochs = 2", "train"),
        ("lambda_latency = 0.1", "lambda_latency = 0.2", "search"),
        ("quality_widths = [4, 4]", "quality_widths = [4, 8]", "macro"),
        ("width = 4", "width = 8", "baseline"),
        ("patients = 10", "patients = 11", "data"),
    ],
)
def test_finished_models_of_other_settings_are_refused(again, work, tmp_path, old, new, what):
    assert CONFIG.count(old) >= 1
    changed = tmp_path / "changed.toml"
    changed.write_text(CONFIG.replace(old, new, 1))
    before = files(work)
    ended = again(config=changed)
    assert ended.code == 6
    assert f"({what}" in ended.err
    assert "choose another --out, or delete that folder" in ended.err
    assert files(work) == before


def test_models_published_without_checkpoints_and_training_facts_are_taken(again, work):
    for name in ("checkpoint", "training.json"):
        for path in [*work.rglob(name)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert again().code == 0
    assert again.done == []


@pytest.fixture
def published(work):
    """The results without the seeds' models and weights."""
    for seed in work.glob("*/seed*"):
        (seed / "model.onnx").unlink()
        (seed / "train/weights.safetensors").unlink()
        shutil.rmtree(seed / "train/checkpoint")
    return work


def test_results_published_without_models_are_taken_timed_and_shown(again, published):
    before = untimed(read_results(published / "results.csv"))
    (published / "latencies.json").unlink()
    assert again("--final", drawn=True).code == 0
    assert again.done == []
    results = read_results(published / "results.csv")
    assert untimed(results) == before
    assert {line.p50_ms for line in results} == {1.0}  # all of them


def test_what_was_published_without_its_model_is_not_scored_on_other_frames(again, published):
    (published / SEED / "scores-valid.json").unlink()
    ended = again("--final")
    assert ended.code == 6
    assert f"{SEED}/model.onnx is not here" in ended.err
    assert again.done == []


@pytest.mark.parametrize("name", ["../up", "a/b", "/root", ".."])
def test_a_row_name_that_is_a_path_is_refused_before_anything_is_written(tmp_path, name):
    config = tmp_path / "bad.toml"
    config.write_text(CONFIG.replace(f'name = "{SEARCHED}"', f'name = "{name}"'))
    ended = nas("run", config, "--out", tmp_path / "out")
    assert ended.code == 2
    assert f"row name {name!r} is no plain folder name" in ended.err
    assert list(tmp_path.iterdir()) == [config]


@pytest.mark.parametrize("words", [["run"], ["search", "--config"]])
def test_a_row_that_chooses_at_no_target_is_refused_before_anything_is_measured(tmp_path, words):
    config = tmp_path / "raced.toml"
    config.write_text(CONFIG[: CONFIG.rindex("macro = ")] + "macros = {}\n")
    ended = nas(*words, config, "--out", tmp_path / "out")
    assert ended.code == 6
    assert f"row '{SEARCHED}' chooses among `macros`; it needs a target" in ended.err
    assert not list((tmp_path / "out").glob("*.json*"))


def test_no_jobs_are_refused(finished_run, tmp_path):
    ended = nas("run", finished_run.config, "--out", tmp_path / "out", "--jobs", 0)
    assert (ended.code, list(tmp_path.iterdir())) == (2, [])
    assert "--jobs is 0; at least 1 expected" in ended.err


def test_jobs_are_done_in_processes_of_their_own(again, work):
    model = Workspace(work).seed(BASELINE, 1).model
    before = model.read_bytes()
    model.unlink()
    ended = again("--final", "--jobs", 2)
    assert ended.code == 0
    assert again.done == []  # not in this process
    assert "search and train: 1 of 3 to do" in ended.err
    assert f"{BASELINE} seed 1: selection Dice" in ended.err
    assert model.read_bytes() == before


def test_rows_may_be_done_a_few_at_a_time(again, work, monkeypatch):
    shutil.rmtree(work / SEARCHED)
    (work / "results.csv").unlink()
    shutil.rmtree(work / BASELINE / "seed1")
    with monkeypatch.context() as patched:
        patched.setattr(pipeline, "ensure_table", None)  # hand-made pairs need no table, whatever else is in the file
        assert again("--only", BASELINE, drawn=True).code == 0
    assert again.done == [f"score {BASELINE}/seed1"] * 3 + [f"train {BASELINE}/seed1"]
    assert {(line.row, line.seed) for line in read_results(work / "results.csv")} == {(BASELINE, 0), (BASELINE, 1)}
    assert again("--only", SEARCHED).code == 0
    assert "search" in again.done
    results = read_results(work / "results.csv")
    assert {(line.row, line.seed) for line in results} == set(TASKS)
    assert len({line.config_sha for line in results}) == 1


def test_a_row_that_is_none_is_not_done(again):
    ended = again("--only", "unet")
    assert ended.code == 2
    assert f"--only unet: no such row; there are {BASELINE}, {SEARCHED}" in ended.err


def test_a_run_of_hand_made_pairs_alone_needs_no_latency_table(tmp_path, monkeypatch):
    config = tmp_path / "plain.toml"
    config.write_text(CONFIG[: CONFIG.rindex("[[rows]]")].replace("seeds = [0, 1]", "seeds = [1]"))
    with short_protocols():
        monkeypatch.setattr(pipeline, "ensure_table", None)
        ended = nas("run", config, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert {r.table_sha for r in read_results(tmp_path / "out" / "results.csv")} == {""}
    assert not {"table.json", "validation.png", "history.png", "cells.svg"} & set(files(tmp_path / "out"))
    assert BASELINE in ended.out
    assert "report.html" in ended.out


@pytest.mark.parametrize(
    ("degraded", "subsets"),
    [
        ([True] * 4, {"all", "degraded"}),
        ([False] * 4, {"all"}),
        ([True, False, False, True], {"all", "degraded", "clean"}),
    ],
)
def test_only_subsets_that_hold_frames_get_lines(finished_run, tmp_path, degraded, subsets):
    work = Workspace(finished_run.copy(tmp_path / "out"))
    work.results.unlink()
    scores = FrameScores(*(np.array([0.5, 0.6, 0.7, 0.8]) for _ in range(4)), dice_constant=0.6)
    timed = RowTiming(Measurement(((1000.0, 2000.0, 3000.0),)), Measurement(((100.0,),)))
    pipeline._enter_results(
        load_run(finished_run.config).sha256(),
        {},
        work,
        {(SEARCHED, 0, "valid"): subsets_of(scores, np.array(degraded))},
        {(work.seed(SEARCHED, 0).model, 1, 30.0): timed, (work.seed(BASELINE, 0).model, 1, 30.0): timed},
    )
    results = read_results(work.results)
    assert {r.degraded for r in results} == subsets
    assert {(r.row, r.seed, r.p50_ms, r.pace_hz) for r in results} == {(SEARCHED, 0, 2.0, 30.0)}
    assert next(r for r in results if r.degraded == "all").dice == pytest.approx(0.65)
