from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from latencykit.agreement import ValidatedNetwork, summarise
from latencykit.errors import UsageError
from latencykit.figures import FORMATS, figure_format, prediction_figure, save_figure, validation_figure
from latencykit.predict import predict_kernels
from tests.latencykit.made_up import ONE, made_up_table, relu_kernel

MAGIC = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


@pytest.mark.parametrize("name", ["figure", "figure.txt", "figure.", ".png", "figure.png.bak"])
def test_a_path_that_names_no_format_is_refused(name: str, tmp_path: Path):
    with pytest.raises(UsageError, match=r"expected one of \.png, \.svg, \.pdf"):
        figure_format(tmp_path / name)
    with pytest.raises(UsageError):
        save_figure(Figure(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [*FORMATS, "PNG"])
def test_a_figure_is_written_in_the_format_of_its_suffix(suffix: str, tmp_path: Path):
    save_figure(Figure(), tmp_path / f"new/figure.{suffix}")
    assert (tmp_path / f"new/figure.{suffix}").read_bytes().startswith(MAGIC[suffix.lower()])
    assert len(list((tmp_path / "new").iterdir())) == 1


def validated(index: int, ms: float, **changes: Any) -> ValidatedNetwork:
    facts = {
        "chosen_from": "uniform", "half_a_ms": ms, "half_b_ms": 1.01 * ms, "interval_ms": (ms, ms),
        "raw_ms": {"isolated": 2 * ms, "kernel": ms}, "calibrated_ms": {"kernel": 1.1 * ms, "edge": 1.2 * ms},
    } | changes  # fmt: skip
    return ValidatedNetwork(str(index), macs=index, measured_ms=ms, **facts)


def points(axes: Axes) -> list[int]:
    return [len(found.get_offsets()) for found in axes.collections if isinstance(found, PathCollection)]


@pytest.mark.parametrize("equal", [False, True])
def test_a_validation_shows_every_network_at_each_level_raw_and_calibrated(equal: bool, tmp_path: Path):
    figures = [10.0] * 4 if equal else [10.0, 12.0, 15.0, 11.0]
    figure = validation_figure(summarise(ONE, None, [validated(i, ms) for i, ms in enumerate(figures)]))
    raw, calibrated, strips = figure.axes
    assert points(raw) == points(calibrated) == [4, 4]
    assert points(strips) == [4] * 5
    for axes in (raw, calibrated):
        assert axes.get_xlabel() == "measured end to end, ms"
        assert axes.get_xlim() == axes.get_ylim() == raw.get_xlim()
    assert [axes.get_title(loc="left") for axes in (raw, calibrated)] == ["raw: 4 networks", "calibrated: 4 networks"]
    assert [label.get_text() for label in strips.get_xticklabels()] == [
        "isolated\nraw", "kernel\nraw", "kernel\ncalibrated", "edge\ncalibrated", "measured\nagain",
    ]  # fmt: skip
    labels = [" ".join(t.get_text() for t in axes.get_legend().get_texts()) for axes in (raw, calibrated)]
    assert "sum of isolated operations: MAPE 100.0 %" in labels[0]
    assert "sum of kernels: MAPE 10.0 %" in labels[1]
    assert "edge costs: MAPE 20.0 %" in labels[1]
    assert ("tau -" in labels[0]) == equal
    assert "back to back" in figure.get_suptitle()
    save_figure(figure, tmp_path / "v.png")


def test_a_validation_without_calibration_has_an_empty_panel_and_its_rhythm_above(tmp_path: Path):
    networks = [validated(i, 10.0 + i, calibrated_ms={}, raw_ms={"kernel": 9.0 + i}) for i in range(3)]
    figure = validation_figure(summarise(ONE, 30.0, networks))
    assert [points(axes) for axes in figure.axes] == [[3], [], [3, 3]]
    assert figure.axes[1].get_legend() is None
    assert figure.get_suptitle() == "1 thread, pinned, 30 calls a second"
    save_figure(figure, tmp_path / "v.svg")


def test_a_prediction_is_one_bar_a_kernel_and_one_for_the_rest(tmp_path: Path):
    keys = [relu_kernel(n + 1) for n in range(6)]
    table = made_up_table({key: 5.0 + n for n, key in enumerate(keys)})
    prediction = predict_kernels(table, ONE, [*keys, keys[0]])
    axes = prediction_figure(prediction, "a network", most=4).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(labels) == 5
    assert labels[-1] == "2 further kernels"
    assert axes.get_title(loc="left") == "a network"
    assert sum(bar.get_width() for bar in axes.patches) * 1000 == pytest.approx(prediction.latency_us - 2)
    assert len(prediction_figure(prediction, "a network").axes[0].patches) == 6
    save_figure(prediction_figure(prediction, "a network"), tmp_path / "p.svg")


def test_kernels_of_one_name_have_a_bar_each():
    keys = [relu_kernel(2), relu_kernel(4)]
    prediction = predict_kernels(made_up_table(dict.fromkeys(keys, 5.0)), ONE, keys)
    assert len(prediction_figure(prediction, "").axes[0].patches) == 2
