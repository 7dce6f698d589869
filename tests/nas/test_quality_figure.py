import numpy as np
import pytest

from latencykit.errors import InputError
from nas.figures import save_figure
from nas.metrics import FrameScores
from nas.quality_figure import Frame, qualitative_figure, quality_figure, quality_panels


def frame(true, predicted):
    noise = np.random.default_rng(0).random((32, 32))
    return Frame(noise, true, predicted, noise, 0.8, 0.75, "patient 7")


def test_frames_with_empty_and_full_masks_are_drawn(tmp_path):
    empty, full = np.zeros((32, 32), bool), np.ones((32, 32), bool)
    half = np.arange(32)[:, None] * np.ones(32) < 16
    figure = qualitative_figure([frame(half, half), frame(half, empty), frame(empty, full)])
    assert "Dice 0.800\npredicted 0.750" in [axes.get_xlabel() for axes in figure.axes]
    save_figure(figure, tmp_path / "qualitative.png")
    with pytest.raises(InputError, match="no frame"):
        qualitative_figure([])


def scores(count=20):
    dice = np.linspace(0.6, 0.9, count)
    return FrameScores(dice, dice, dice, np.clip(dice + 0.05, 0, 1), 0.8, 0.7)


def test_the_quality_plot_states_r_and_both_errors(tmp_path):
    figure = quality_figure({"searched": scores()})
    text = figure.axes[0].texts[0].get_text()
    assert "MAE 0.050" in text
    assert "constant's 0.0" in text
    assert "r 1.00" in text
    save_figure(figure, tmp_path / "quality.png")


def test_each_row_s_frames_have_panels_as_they_are_and_degraded():
    a, b = scores(), scores(10)
    panels = quality_panels({"one": {"all": a, "clean": b, "held_out": b, "seen": a}, "two": {"all": b}})
    assert list(panels) == ["one", "one, degraded", "one, kinds held out", "two"]
    assert [len(found.dice) for found in panels.values()] == [20, 20, 10, 10]


def test_an_undefined_correlation_is_said_to_be_so_and_many_rows_are_panels(tmp_path):
    one = FrameScores(*[np.array([0.5])] * 4, 0.8)
    figure = quality_figure({"a": one, "b": scores(), "c": scores(), "d": scores()})
    assert "r undefined" in figure.axes[0].texts[0].get_text()
    assert len([axes for axes in figure.axes if axes.axison]) == 4
    save_figure(figure, tmp_path / "quality.png")
    with pytest.raises(InputError, match="no row"):
        quality_figure({})
