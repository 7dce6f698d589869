import json
import re
from dataclasses import replace

import numpy as np
import pytest

from latencykit.architecture import network_graph
from latencykit.baselines import Baseline
from latencykit.errors import InputError, UsageError
from latencykit.lowering import graph_to_onnx
from nas.config import load_run
from nas.data import load
from nas.metrics import FrameScores
from nas.scoring import dice_constant_of, log_final, score_model, stored_scores, write_scores
from nas.trained import load_trained
from nas.workspace import Workspace
from tests.nas.tiny_run import BASELINE, SEARCHED


@pytest.fixture(scope="module")
def valid(finished_run):
    return load(load_run(finished_run.config).data).of_split("valid")


@pytest.fixture
def model(finished_run, tmp_path):
    """A copy of a trained model."""
    path = tmp_path / "model.onnx"
    path.write_bytes(Workspace(finished_run.out).seed(SEARCHED, 0).model.read_bytes())
    return path


SCORES = FrameScores(
    dice=np.array([0.8, 0.0, 0.25, 1.0]),
    hd95_mm=np.array([5.0, np.nan, 7.5, 0.0]),
    asd_mm=np.array([1.0, np.nan, 2.5, 0.0]),
    dice_predicted=np.array([0.7, 0.1, 0.3, 0.9]),
    dice_constant=0.5,
    patients=("a", "a", "b", "b"),
)


def test_scores_come_back_from_disk_undefined_ones_included(model, valid, tmp_path):
    write_scores(tmp_path / "scores.json", SCORES, model, valid)
    read = stored_scores(tmp_path / "scores.json", model, valid)
    for name in ("dice", "hd95_mm", "asd_mm", "dice_predicted"):
        np.testing.assert_array_equal(getattr(read, name), getattr(SCORES, name))
    assert (read.dice_constant, read.acceptance) == (SCORES.dice_constant, SCORES.acceptance)
    assert read.patients == SCORES.patients


def test_scores_without_patients_are_made_again_where_the_model_is_here(model, valid, tmp_path):
    path = tmp_path / "scores.json"
    write_scores(path, replace(SCORES, patients=()), model, valid)
    assert stored_scores(path, model, valid) is None
    model.unlink()
    assert stored_scores(path, model, valid) is not None


def test_scores_of_another_model_or_other_data_are_not_taken(model, valid, tmp_path):
    path = tmp_path / "scores.json"
    assert stored_scores(path, model, valid) is None
    write_scores(path, SCORES, model, valid)
    assert stored_scores(path, model, valid.subset([0, 1])) is None
    model.write_bytes(model.read_bytes() + b"\0")
    assert stored_scores(path, model, valid) is None


def test_a_broken_scores_file_is_named(model, valid, tmp_path):
    (tmp_path / "scores.json").write_text('{"model_sha": 3}')
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "scores.json"))):
        stored_scores(tmp_path / "scores.json", model, valid)


def test_what_the_run_stored_is_what_scoring_gives(finished_run, valid):
    folder = Workspace(finished_run.out).seed(SEARCHED, 0)
    again, stored = score_model(folder.model, valid), stored_scores(folder.scores("valid"), folder.model, valid)
    np.testing.assert_array_equal(again.dice, stored.dice)
    np.testing.assert_array_equal(again.dice_predicted, stored.dice_predicted)
    assert len(stored.dice) == len(valid) == 4


@pytest.mark.parametrize("row", [BASELINE, SEARCHED])
def test_a_model_brings_the_constant_predictor_of_its_training_along(finished_run, row):
    folder = Workspace(finished_run.out).seed(row, 0)
    constant = load_trained(folder.train).training.dice_constant
    assert dice_constant_of(folder.model) == constant
    assert stored_scores_constant(folder) == constant


def stored_scores_constant(folder):
    return json.loads(folder.scores("valid").read_text())["dice_constant"]


def test_a_model_without_a_constant_is_refused_with_a_remedy(tmp_path, valid):
    path = tmp_path / "random.onnx"
    path.write_bytes(graph_to_onnx(network_graph(Baseline(width=2, depth=1, stride=8))).SerializeToString())
    with pytest.raises(InputError, match=r"random\.onnx names no dice_constant; export it again with `nas export`"):
        score_model(path, valid)


def test_the_final_log_says_what_was_scored_on_what_and_when(model, valid, tmp_path):
    log = tmp_path / "final.jsonl"
    log_final(log, "row", 3, model, valid)
    (entry,) = map(json.loads, log.read_text().splitlines())
    assert (entry["row"], entry["seed"], entry["data_sha"]) == ("row", 3, valid.sha256)
    assert len(entry["model_sha"]) == 64
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", entry["time"])


def test_the_final_log_takes_the_same_model_again_and_other_rows_and_seeds(model, valid, tmp_path):
    log = tmp_path / "final.jsonl"
    for row, seed in (("row", 0), ("row", 0), ("row", 1), ("other", 0)):
        log_final(log, row, seed, model, valid)
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(entry["row"], entry["seed"]) for entry in entries] == [("row", 0), ("row", 0), ("row", 1), ("other", 0)]


def test_the_final_log_refuses_other_weights_of_a_row_and_seed_and_stays_as_it_was(model, valid, tmp_path):
    log = tmp_path / "final.jsonl"
    log_final(log, "row", 0, model, valid)
    before = log.read_text()
    model.write_bytes(model.read_bytes() + b"\0")
    with pytest.raises(UsageError, match=r"row seed 0 was scored .* start a new results folder, or delete its line"):
        log_final(log, "row", 0, model, valid)
    assert log.read_text() == before
    log_final(log, "row", 1, model, valid)


@pytest.mark.parametrize("line", ["deleted a line here", "[]", '{"row": "row"}'])
def test_a_line_that_is_no_scoring_is_named(model, valid, tmp_path, line):
    log = tmp_path / "final.jsonl"
    log.write_text(f"{line}\n")
    with pytest.raises(InputError, match=r"final\.jsonl: .*is no logged scoring"):
        log_final(log, "row", 0, model, valid)
    assert log.read_text() == f"{line}\n"
