import json
import subprocess
import sys

import pytest

from latencykit.errors import InputError
from nas.figures import save_figure
from nas.history_figure import history_figure, read_history


def epoch(number, phase="search", **changes):
    return {
        "epoch": number, "phase": phase, "temperature": 5 * 0.9**number, "loss": 0.5, "cross_entropy": 0.4, "mse": 0.01,
        "expected_ms": 12.0, "derived_ms": 9.0, "entropy": {"down": 0.9, "up": 0.8}, "dice_selection": 0.8,
        "op_counts": {"conv": 3, "down_conv": 2, "zero": 1}, "seconds": 10.0, "images_per_s": 90.0, **changes,
    }  # fmt: skip


def history(tmp_path, lines):
    path = tmp_path / "history.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


WARM = {"temperature": None, "derived_ms": None, "entropy": {}, "op_counts": {}}


def test_a_history_is_read_and_keys_that_no_picture_needs_are_passed_over(tmp_path):
    epochs = read_history(history(tmp_path, [epoch(0, "warmup", **WARM), epoch(1, something_new=1)]))
    assert [(e.epoch, e.phase, e.derived_ms) for e in epochs] == [(0, "warmup", None), (1, "search", 9.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no epoch"),
        ('{"epoch": 0, "phase": "search"}\n{"epoch": 1', "line 2"),
        ("[1]", "an object expected"),
        ('{"phase": "search"}', "epoch"),
        ('{"epoch": 0, "phase": "nap"}', "line 1: Invalid enum value"),
        ('{"epoch": 0, "phase": "search", "loss": "low"}', r"\$\.loss"),
    ],
)
def test_a_broken_history_is_refused_with_file_and_line(tmp_path, text, message):
    path = tmp_path / "history.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_history(path)
    assert str(path) in str(caught.value)


def test_one_run_has_six_panels_with_the_warm_up_shaded(tmp_path):
    epochs = read_history(history(tmp_path, [epoch(0, "warmup", **WARM), epoch(1), epoch(2)]))
    figure = history_figure({"searched": epochs})
    assert len(figure.axes) == 6
    assert all("warm-up" in [text.get_text() for text in axes.texts] for axes in figure.axes)
    save_figure(figure, tmp_path / "history.png")


def test_several_runs_stand_side_by_side_on_one_scale(tmp_path):
    epochs = read_history(history(tmp_path, [epoch(0), epoch(1)]))
    figure = history_figure({"a": epochs, "b": epochs[:1]})
    assert len(figure.axes) == 12
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    save_figure(figure, tmp_path / "history.png")


def test_a_history_of_warm_up_alone_and_losses_of_0_are_drawn(tmp_path):
    epochs = read_history(history(tmp_path, [epoch(0, "warmup", **WARM, loss=0.0)]))
    save_figure(history_figure({"a": epochs}), tmp_path / "history.png")


def test_drawing_leaves_pyplot_alone():
    code = (
        "import sys, pathlib; from nas.history_figure import Epoch, history_figure; "
        "history_figure({'a': [Epoch(0, 'search', loss=1.0)]}); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
