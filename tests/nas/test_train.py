import json
import math
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from latencykit.baselines import Baseline
from latencykit.errors import InputError, InterruptedRunError, RegressionError
from latencykit.sample import sample_architectures
from nas import train as module
from nas.augment import Augmentation
from nas.checkpoint import load_checkpoint
from nas.train import train
from nas.trained import load_trained

PAIR = Baseline(width=8, depth=2, stride=1, quality_width=4, image_size=32)
CLOCK = ("seconds", "images_per_s")


def timeless(out):
    records = map(json.loads, (out / "history.jsonl").read_text().splitlines())
    return [{key: value for key, value in record.items() if key not in CLOCK} for record in records]


def stops_at(count):
    """Interrupts, as a user does, after so many units."""

    @contextmanager
    def show(title, total, done=0):
        left = count

        def advance(*_, note=""):
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

        yield advance

    return show


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("train")
    config = module.TrainConfig(epochs=2, quality_epochs=2, batch_size=4, max_steps_per_epoch=2, precision="float32")
    return config, train(PAIR, data, config, 0, out), out


def test_a_training_leaves_weights_that_load_again(whole):
    _, trained, out = whole
    again = load_trained(out)
    assert again.network == PAIR
    assert again.training == trained.training
    assert not again.module.training
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again.module(image)["dice"], trained.module(image)["dice"])


def test_a_searched_network_is_trained_by_the_same_code(data, macro, train_config, tmp_path):
    architecture = sample_architectures(macro, 1, seed=0)[0]
    trained = train(architecture, data, replace(train_config, epochs=1, quality_epochs=1), 0, tmp_path)
    assert trained.network == architecture
    assert [record["phase"] for record in timeless(tmp_path)] == ["segmentation", "quality"]


@pytest.mark.parametrize("epochs", [1, 2, 3], ids=["first phase", "between the phases", "second phase"])
def test_an_interrupted_training_goes_on_to_the_same_result(whole, data, tmp_path, epochs):
    config, trained, out = whole
    with pytest.raises(InterruptedRunError, match="same command"):
        train(PAIR, data, config, 0, tmp_path, stops_at(epochs))
    assert len(timeless(tmp_path)) == epochs
    with pytest.raises(InputError, match="no finished training"):
        load_trained(tmp_path)
    resumed = train(PAIR, data, config, 0, tmp_path)
    assert timeless(tmp_path) == timeless(out)
    assert resumed.training == trained.training
    first, second = trained.module.state_dict(), resumed.module.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("began", ["float32", "bfloat16"])
def test_a_training_goes_on_in_the_precision_that_it_was_begun_in(whole, data, tmp_path, monkeypatch, began):
    config = replace(whole[0], precision="bfloat16")
    monkeypatch.setattr(module, "computed_in", lambda *_: began)
    with pytest.raises(InterruptedRunError):
        train(PAIR, data, config, 0, tmp_path, stops_at(1))
    monkeypatch.setattr(module, "computed_in", lambda *_: {"float32": "bfloat16", "bfloat16": "float32"}[began])
    assert train(PAIR, data, config, 0, tmp_path).training.precision == began


def test_a_finished_training_is_read_and_lost_weights_are_written_anew(whole, data, tmp_path, monkeypatch):
    config, trained, out = whole
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    (tmp_path / "weights.safetensors").unlink()
    assert train(PAIR, data, config, 0, tmp_path).training == trained.training
    assert (tmp_path / "weights.safetensors").read_bytes() == (out / "weights.safetensors").read_bytes()
    monkeypatch.setattr(module._Run, "facts", None)
    assert train(PAIR, data, config, 0, tmp_path).training == trained.training


def test_the_quality_phase_leaves_the_best_segmentation_as_it_is(whole, data, tmp_path):
    config, trained, _ = whole
    first = train(PAIR, data, replace(config, quality_epochs=0), 0, tmp_path).module.state_dict()
    final = trained.module.state_dict()
    segmentation = [name for name in final if "unet" in name or "logits" in name]
    quality = [name for name in final if "resnet" in name and "weight" in name]
    assert segmentation
    assert all(torch.equal(first[name], final[name]) for name in segmentation)
    assert any(not torch.equal(first[name], final[name]) for name in quality)


def test_bad_frames_are_for_the_quality_phase_alone(whole, data, tmp_path):
    """And they are chosen by, so the figures of a training say how well it knows both."""
    config, trained, out = whole
    good = replace(config, degradations=replace(config.degradations, share=0.0))
    other = train(PAIR, data, good, 0, tmp_path).training
    losses, same = ([record["loss"] for record in timeless(folder)] for folder in (out, tmp_path))
    assert losses[:2] == same[:2]
    assert all(one != two for one, two in zip(losses[2:], same[2:], strict=True))
    facts = trained.training
    assert facts.dice_constant == other.dice_constant
    assert facts.dice_constant_bad != facts.dice_constant
    assert 0 <= facts.failing_share <= 1
    began = timeless(out)[2]["began"]
    errors = [-record["score"] for record in timeless(out)[2:]]
    best = min(-began, *errors)
    assert (facts.mae_selection + facts.mae_selection_bad) / 2 == pytest.approx(best, rel=1e-4)


def test_the_best_epoch_is_kept(data, tmp_path, train_config, monkeypatch):
    scores = iter([0.9, 0.5, 0.7])
    real = module.Learner.score

    def scored(self, *arguments, **options):
        result = real(self, *arguments, **options)
        value = next(scores, None)
        return result if value is None else replace(result, actual=result.actual * 0 + value)

    monkeypatch.setattr(module.Learner, "score", scored)
    train(PAIR, data, replace(train_config, epochs=3, quality_epochs=0), 0, tmp_path)
    saved = load_checkpoint(tmp_path / "checkpoint").tensors
    last = {name.removeprefix("weights/"): t for name, t in saved.items() if name.startswith("weights/")}
    kept = load_trained(tmp_path).module.state_dict()
    assert any(not torch.equal(kept[name], last[name]) for name in kept)
    assert [record["waited"] for record in timeless(tmp_path)] == [0, 1, 2]


def test_what_the_quality_network_must_not_see_changes_nothing(data, macro, train_config, tmp_path):
    network = sample_architectures(macro, 1, seed=0)[0]
    given = {name: torch.rand(2, 1, 32, 32) for name in ("mask", "uncertainty")}
    image = torch.rand(2, 3, 32, 32)

    def predicted(blind, changed):
        module = train(network, data, replace(train_config, quality_without=blind), 0, tmp_path / "".join(blind)).module
        shown = given | {changed: torch.rand(2, 1, 32, 32)}
        with torch.no_grad():
            return [module.eval()(image, ["dice"], given=values)["dice"] for values in (given, shown)]

    for blind, changed, same in (
        (("uncertainty",), "uncertainty", True),
        (("uncertainty",), "mask", False),
        ((), "uncertainty", False),
    ):
        one, other = predicted(blind, changed)
        assert torch.equal(one, other) == same


def test_patience_ends_a_phase(data, tmp_path, train_config, monkeypatch):
    def flat(self, frames, batch_size, probabilities=None, quality=True):
        value = torch.full((4,), 0.5).numpy()
        return module.FrameDice(value, value)

    monkeypatch.setattr(module.Learner, "score", flat)
    train(PAIR, data, replace(train_config, epochs=9, quality_epochs=9, patience=2), 0, tmp_path)
    assert [record["phase"] for record in timeless(tmp_path)] == ["segmentation"] * 3 + ["quality"] * 2


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_learns_to_segment(data, tmp_path, monkeypatch, precision):
    monkeypatch.setattr(module, "computed_in", lambda asked, device: asked)  # whatever this processor has
    still = Augmentation(0.02, 2, 0.02)
    config = module.TrainConfig(
        epochs=15,
        quality_epochs=1,
        batch_size=4,
        rate=1e-2,
        lambda_quality=0.0,
        augmentation=still,
        precision=precision,
    )
    trained = train(PAIR, data, config, 0, tmp_path)
    assert trained.training.dice_selection > 0.85
    assert trained.training.dice_constant > 0.8
    assert trained.training.precision == precision
    first = timeless(tmp_path)[0]
    assert first["mae_selection"] is None  # the quality network was left to the second phase
    assert trained.training.mae_selection < 1


def test_a_loss_that_is_nan_keeps_the_last_checkpoint(whole, data, tmp_path, monkeypatch):
    config, _, _ = whole
    with monkeypatch.context() as patch:
        patch.setattr(module, "one_cycle_rate", lambda rate, progress: math.nan if progress >= 0.5 else 1e-3)
        with pytest.raises(RegressionError, match="segmentation in epoch 1"):
            train(PAIR, data, config, 0, tmp_path)
    assert len(timeless(tmp_path)) == 1
    assert load_checkpoint(tmp_path / "checkpoint") is not None


def test_another_runs_folder_is_refused(whole, data):
    config, _, out = whole
    for network, seed in ((PAIR, 1), (replace(PAIR, width=4), 0)):
        with pytest.raises(InputError, match="another configuration"):
            train(network, data, config, seed, out)


def test_weights_of_another_network_are_refused(whole, data, tmp_path):
    _, _, out = whole
    for name in ("architecture.json", "training.json"):
        (tmp_path / name).write_bytes((out / name).read_bytes())
    (tmp_path / "architecture.json").write_text(
        (out / "architecture.json").read_text().replace('"width": 8', '"width": 4')
    )
    (tmp_path / "weights.safetensors").write_bytes((out / "weights.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"weights\.safetensors does not fit"):
        load_trained(tmp_path)
