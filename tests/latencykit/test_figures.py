from pathlib import Path

import pytest
from matplotlib.figure import Figure

from latencykit.errors import UsageError
from latencykit.figures import FORMATS, figure_format, prediction_figure, save_figure, validation_figure
from latencykit.predict import predict_kernels
from latencykit.validate import ValidatedNetwork, summarise
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


@pytest.mark.parametrize("equal", [False, True])
def test_a_validation_shows_every_network_at_each_level(equal: bool, tmp_path: Path):
    networks = [
        ValidatedNetwork(str(i), i, ms, ms, ms * 1.01, {"isolated": 2 * ms, "kernel": ms}, (ms, ms))
        for i, ms in enumerate([10.0] * 4 if equal else [10.0, 12.0, 15.0, 11.0])
    ]
    figure = validation_figure(summarise(ONE, networks))
    left, right = figure.axes
    assert [len(points.get_offsets()) for points in left.collections if hasattr(points, "get_offsets")][:2] == [4, 4]
    assert left.get_xlabel() == "measured end to end, ms"
    assert left.get_xlim() == left.get_ylim()
    assert [label.get_text() for label in right.get_xticklabels()] == ["isolated", "kernels", "measured\nagain"]
    labels = " ".join(entry.get_text() for entry in left.get_legend().get_texts())
    assert "MAPE 100.0 %" in labels
    assert ("tau -" in labels) == equal
    save_figure(figure, tmp_path / "v.png")


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
