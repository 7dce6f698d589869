import json

import numpy as np
import pytest
import torch

from latencykit.baselines import Baseline, baseline_graph
from nas.augment import Augmentation
from nas.frames import Frames
from nas.learning import HISTORY_FILE, FrameDice, Learner, Means, write_history
from nas.modules import GraphModule
from nas.objective import quality_loss

PAIR = Baseline(width=4, depth=2, stride=2, quality_width=4, image_size=32)


def learner(precision="float32", stop_gradient=False):
    module = GraphModule(baseline_graph(PAIR), torch.Generator().manual_seed(0))
    return Learner(module, precision, "cpu", stop_gradient)


@pytest.fixture
def batch(data):
    frames = Frames(data, 32)
    return learner().load(frames, np.arange(4), Augmentation(), 0, (0, 0))


@pytest.mark.parametrize(("stopped", "reached"), [(False, True), (True, False)])
def test_the_quality_loss_reaches_the_segmentation_unless_it_is_stopped(batch, stopped, reached):
    pair = learner(stop_gradient=stopped)
    logits, dice = pair.forward(batch[0])
    quality_loss(dice, logits, batch[1]).backward()
    gradients = [parameter.grad for parameter in pair.module.segmentation_parameters()]
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients) == reached
    assert pair.module.operations["quality/linear"].linear.weight.grad.abs().sum() > 0


def test_stopping_the_gradient_changes_no_value(batch):
    plain, stopped = learner(), learner(stop_gradient=True)
    for pair in (plain, stopped):
        pair.module.train_parts(segmentation=False, quality=False)
    assert torch.equal(plain.forward(batch[0])[1], stopped.forward(batch[0])[1])


def test_a_frozen_segmentation_gets_neither_gradient_nor_statistics(batch):
    pair = learner()
    before = {name: value.clone() for name, value in pair.module.state_dict().items()}
    pair.module.train_parts(segmentation=False, quality=True)
    pair.frozen_quality_loss(*batch).backward()
    assert all(parameter.grad is None for parameter in pair.module.segmentation_parameters())
    assert all(parameter.grad is not None for parameter in pair.module.quality_parameters())
    changed = {name for name, value in pair.module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("resnet" in name or "quality" in name for name in changed)


def test_bfloat16_runs_with_channels_last_and_float32_without(batch):
    assert (
        learner("bfloat16")
        .module.operations["resnet/stem"]
        .conv.weight.is_contiguous(memory_format=torch.channels_last)
    )
    assert learner("float32").module.operations["resnet/stem"].conv.weight.is_contiguous()
    logits, dice = learner("bfloat16").forward(batch[0])
    assert dice.dtype == torch.float32
    assert torch.allclose(logits.float(), learner().forward(batch[0])[0], atol=0.3)


def test_scores_are_made_in_evaluation_mode_and_say_nan_where_nothing_was_asked(data):
    pair, frames = learner(), Frames(data, 32)
    before = {name: value.clone() for name, value in pair.module.state_dict().items()}
    scores = pair.score(frames, 7)
    assert scores.actual.shape == scores.predicted.shape == (len(data),)
    assert np.allclose(scores.actual, pair.score(frames, 16).actual)
    assert np.isnan(pair.score(frames, 7, quality=False).predicted).all()
    assert all(torch.equal(value, before[name]) for name, value in pair.module.state_dict().items())


def test_dice_and_its_error_are_means_over_frames():
    scores = FrameDice(np.array([0.5, 1.0], np.float32), np.array([0.75, 0.75], np.float32))
    assert (scores.dice, scores.mae) == (0.75, 0.25)


def test_means_count_each_name_alone():
    means = Means()
    means.add(a=1.0, b=torch.tensor(2.0))
    means.add(a=3.0)
    assert means.as_dict() == {"a": 2, "b": 2}


def test_the_history_is_written_whole_and_refuses_nan(tmp_path):
    write_history(tmp_path, [{"epoch": 0}, {"epoch": 1}])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_history(tmp_path, [{"loss": float("nan")}])
    lines = (tmp_path / HISTORY_FILE).read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1]
