import json
import math
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from latencykit.architecture import read_architecture
from latencykit.errors import InputError, InterruptedRunError, RegressionError
from latencykit.space import CELL_TYPES
from nas import search as module
from nas.checkpoint import load_checkpoint
from nas.search import search
from nas.search_state import SearchState, derive_run

KEYS = {
    "epoch", "phase", "temperature", "loss", "cross_entropy", "mse", "expected_ms", "derived_ms", "entropy",
    "op_counts", "dice_selection", "dice_derived", "seconds", "images_per_s",
}  # fmt: skip
CLOCK = ("seconds", "images_per_s")


def timeless(history):
    return [{key: value for key, value in record.items() if key not in CLOCK} for record in history]


def stops_at(count):
    """Interrupts, as a user does, after so many units."""

    @contextmanager
    def show(title, total, done=0):
        left = count

        def advance(*_, note=""):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt

        yield advance

    return show


@pytest.fixture(scope="module")
def whole(data, macro, costs, tmp_path_factory):
    out = tmp_path_factory.mktemp("search")
    config = module.SearchConfig(epochs=3, warmup_epochs=1, batch_size=4, max_steps_per_epoch=2)
    return config, search(config, data, macro, costs, 0, out), out


def test_a_search_leaves_architecture_history_and_checkpoint(whole):
    config, result, out = whole
    assert read_architecture(out / "architecture.json") == result.architecture
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert history == list(result.history)
    assert load_checkpoint(out / "checkpoint").state["epoch"] == config.epochs


def test_every_epochs_record_is_complete_and_finite(whole, costs):
    _, result, _ = whole
    for record in result.history:
        assert set(record) >= KEYS
        assert set(record["entropy"]) == set(CELL_TYPES)
        assert sum(record["op_counts"].values()) == 9 + 9 + 6 + 6
        numbers = [value for value in record.values() if isinstance(value, float)]
        assert all(map(math.isfinite, numbers))
        assert record["images_per_s"] > 0
    assert [record["phase"] for record in result.history] == ["warmup", "search", "search"]
    assert result.history[-1]["temperature"] == pytest.approx(0.09)
    assert result.history[-1]["derived_ms"] == pytest.approx(costs.total_ms(result.architecture))


def test_the_warm_up_trains_weights_only(whole):
    first, second, third = (record["entropy"] for record in whole[1].history)
    assert first == pytest.approx(dict.fromkeys(CELL_TYPES, 1), abs=1e-3)
    assert all(third[cell_type] < second[cell_type] < first[cell_type] for cell_type in CELL_TYPES)


@pytest.mark.parametrize("steps", [4, 9], ids=["at an epoch's end", "within an epoch"])
def test_an_interrupted_search_goes_on_to_the_same_result(whole, data, macro, costs, tmp_path, steps):
    config, expected, out = whole
    with pytest.raises(InterruptedRunError, match="same command") as caught:
        search(config, data, macro, costs, 0, tmp_path, stops_at(steps))
    assert caught.value.exit_code == 7
    assert not (tmp_path / "architecture.json").exists()
    done = (tmp_path / "history.jsonl").read_text().splitlines()
    assert len(done) == steps // 4
    resumed = search(config, data, macro, costs, 0, tmp_path)
    assert timeless(resumed.history) == timeless(expected.history)
    assert (tmp_path / "history.jsonl").read_text().splitlines()[: len(done)] == done
    assert resumed.architecture == expected.architecture
    one, other = (load_checkpoint(folder / "checkpoint").tensors for folder in (out, tmp_path))
    assert set(one) == set(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_finished_search_is_not_run_again(whole, data, macro, costs):
    config, expected, out = whole
    assert search(config, data, macro, costs, 0, out, stops_at(0)).history == expected.history


def test_seeds_are_independent_searches(whole, data, macro, costs, tmp_path, search_config):
    other = search(replace(search_config, epochs=2), data, macro, costs, 1, tmp_path)
    assert other.history[0]["loss"] != whole[1].history[0]["loss"]


@pytest.mark.parametrize("change", ["seed", "config", "costs", "macro"])
def test_another_runs_folder_is_refused(whole, data, macro, costs, change):
    config, _, out = whole
    arguments = {"config": config, "dataset": data, "macro": macro, "costs": costs, "seed": 0, "out": out}
    changes = {
        "seed": 1,
        "config": replace(config, lambda_latency=0.5),
        "costs": replace(costs, fixed_ms=9.0),
        "macro": replace(macro, activation_place="node"),
    }
    with pytest.raises(InputError, match="another configuration"):
        search(**arguments | {change: changes[change]})


@pytest.mark.parametrize(
    "options",
    [
        {"sampling": "softmax", "architecture_data": "same"},  # the mode nearest to the paper's words
        {"paths": "sampled"},
        {"auxiliary_skip": 1.0, "stop_gradient": True},
        {"precision": "bfloat16", "dice_weight": 1.0},
        {"derive": "two-strongest", "target_ms": 5.0},
    ],
    ids=str,
)
def test_every_option_searches(data, macro, costs, tmp_path, search_config, options):
    config = replace(search_config, epochs=2, **options)
    result = search(config, data, macro, costs, 0, tmp_path)
    assert all(value < 1 for value in result.history[-1]["entropy"].values())
    assert result.architecture == derive_run(tmp_path, config.derive)


def test_images_may_be_smaller_while_searching_and_what_is_derived_is_of_the_full_size(
    data, macro, costs, tmp_path, search_config
):
    config = replace(search_config, epochs=2, image_divisor=2)
    result = search(config, data, macro, costs, 0, tmp_path)
    assert result.architecture.macro == macro
    assert result.history[-1]["derived_ms"] == costs.total_ms(result.architecture)
    state = SearchState(config, data, macro, costs, 0, tmp_path)
    side = macro.image_size // 2
    assert {frames.images.shape[-1] for frames in state.frames.values()} == {side}
    assert {shape[1:] for shape in state.learner.module.graph.inputs.values()} == {(side, side)}
    with pytest.raises(InputError, match="expected a divisor"):
        search(replace(config, image_divisor=3), data, macro, costs, 0, tmp_path / "other")


def test_latency_alone_drives_every_edge_to_what_costs_least(data, macro, costs, tmp_path, search_config):
    config = replace(search_config, epochs=5, lambda_latency=1000.0, architecture_reach=20, sampling="softmax")
    result = search(config, data, macro, costs, 0, tmp_path)
    chosen = result.architecture.choices
    assert set(chosen["contracting"][:1]) <= {"max_pool", "avg_pool"}
    assert not {"conv", "dilated_conv"} & {name for names in chosen.values() for name in names}
    assert result.history[-1]["expected_ms"] < result.history[0]["expected_ms"] - 5


@pytest.mark.parametrize("share", [0.2, 0.65])
def test_a_target_is_landed_on(data, macro, costs, tmp_path, search_config, share):
    cheapest, dearest = (
        costs.fixed_ms + sum(float(reduce(costs.edges_ms[t], 1).sum()) for t in CELL_TYPES)
        for reduce in (np.min, np.max)
    )
    target = cheapest + share * (dearest - cheapest)
    options = {"epochs": 11, "max_steps_per_epoch": 4, "target_ms": target, "paths": "sampled"}
    result = search(replace(search_config, **options), data, macro, costs, 0, tmp_path)
    assert result.history[-1]["derived_ms"] == pytest.approx(target, rel=0.15)


def test_a_loss_that_is_nan_keeps_the_last_checkpoint(whole, data, macro, costs, tmp_path, monkeypatch):
    config, expected, _ = whole
    real = module.segmentation_loss
    calls = iter(range(1000))

    def breaks(logits, masks, dice_weight):
        loss, cross_entropy = real(logits, masks, dice_weight)
        return (loss * math.nan if next(calls) >= 4 else loss), cross_entropy

    monkeypatch.setattr(module, "segmentation_loss", breaks)
    with pytest.raises(RegressionError, match=r"epoch 1.*checkpoint"):
        search(config, data, macro, costs, 0, tmp_path)
    monkeypatch.undo()
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 1
    assert timeless(search(config, data, macro, costs, 0, tmp_path).history) == timeless(expected.history)


def test_patients_serve_one_purpose_each(data, macro, costs, tmp_path, search_config):
    state = SearchState(search_config, data, macro, costs, 0, tmp_path)
    assert {name: len(frames) for name, frames in state.frames.items()}.keys() == {
        "weights", "architecture", "quality", "selection",
    }  # fmt: skip
    assert sum(len(frames) for frames in state.frames.values()) == len(data)
    same = SearchState(replace(search_config, architecture_data="same"), data, macro, costs, 0, tmp_path)
    assert same.frames["architecture"] is same.frames["weights"]


def test_no_optimiser_has_the_others_parameters(data, macro, costs, tmp_path, search_config):
    state = SearchState(search_config, data, macro, costs, 0, tmp_path)
    weights, logits = (
        {id(p) for group in optimiser.param_groups for p in group["params"]}
        for optimiser in (state.weight_optimiser, state.architecture_optimiser)
    )
    assert weights == {id(p) for p in state.learner.module.parameters()}
    assert logits == {id(p) for p in state.alphas.parameters()}
    assert not weights & logits


def test_a_folder_without_a_search_derives_nothing(tmp_path):
    with pytest.raises(InputError, match="nas search"):
        derive_run(tmp_path, "argmax")
