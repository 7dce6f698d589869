import math
from itertools import pairwise

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from latencykit.errors import MissingRowError
from nas.pareto import pareto_figure, pareto_front, plot_pareto
from nas.results import Result, Selection
from nas.table import build_table

SELECTION = Selection("valid", "all", 2, 30.0)


def line(row, seed, dice, p50_ms):
    return Result(
        row, seed, "valid", "all", dice, 5.0, 1.5, 0.04, 0.05, 0.6, 0.8, 2, 30.0, p50_ms, p50_ms and p50_ms * 1.2,
        10**6, 10**6, 10**3, "c", "t", "d",
    )  # fmt: skip


def front_of(rows, **options):
    lines = [line(row, seed, dice + 0.002 * seed, ms) for row, (dice, ms) in rows.items() for seed in (0, 1)]
    return pareto_front(build_table(lines, SELECTION), [row for row in rows if row.startswith("unet")], **options)


ROWS = {"unet16": (0.86, 24.0), "unet8": (0.85, 25.0), "unet8-s4": (0.85, 2.0), "searched": (0.87, 4.0)}
CROWD = {f"unet{i}-s4": (0.86 + 0.0004 * (i % 3), 2.0 * 1.08**i) for i in range(9)} | {"searched-a": (0.8605, 2.3)}


def test_the_front_is_what_nothing_beats():
    front = front_of(ROWS)
    assert [p.row for p in front.points] == ["unet8-s4", "searched", "unet16", "unet8"]
    assert [p.row for p in front.points if p.on_front] == ["unet8-s4", "searched"]


def test_rows_that_are_alike_are_both_on_the_front():
    assert all(p.on_front for p in front_of({"a": (0.8, 2.0), "b": (0.8, 2.0)}).points)


def test_the_hypervolume_of_one_row_is_its_rectangle():
    front = front_of({"searched": (0.799, 2.0)}, reference_ms=100.0, reference_dice=0.5)
    assert front.hypervolume == pytest.approx(math.log(50) * 0.3)
    assert front.hypervolume_by_family == {"searched": pytest.approx(front.hypervolume)}


def test_halving_the_latency_gains_the_same_everywhere():
    volumes = [front_of({"a": (0.799, ms)}, reference_ms=100.0).hypervolume for ms in (40.0, 20.0, 10.0)]
    gains = [b - a for a, b in pairwise(volumes)]
    assert gains[0] == pytest.approx(gains[1])


def test_a_row_beyond_the_reference_counts_nothing():
    assert front_of({"a": (0.799, 300.0)}).hypervolume == 0
    assert front_of({"a": (0.4, 3.0)}).hypervolume == 0


def test_the_families_are_told_apart():
    front = front_of(ROWS)
    assert {p.row for p in front.points if p.family == "searched"} == {"searched"}
    assert front.hypervolume >= max(front.hypervolume_by_family.values())


def test_rows_without_a_latency_are_named_and_none_at_all_is_refused():
    lines = [line("unet16", 0, 0.8, 5.0), line("searched", 0, 0.9, None)]
    assert pareto_front(build_table(lines, SELECTION), ["unet16"]).untimed == ("searched",)
    with pytest.raises(MissingRowError, match="no row was timed"):
        pareto_front(build_table(lines[1:], SELECTION), [])


@pytest.mark.parametrize("rows", [ROWS, CROWD])
def test_labels_do_not_cover_each_other(rows):
    figure = pareto_figure(front_of(rows))
    renderer = FigureCanvasAgg(figure).get_renderer()
    labels = [text for text in figure.axes[0].texts if text.get_text()]
    assert {text.get_text() for text in labels} == set(rows)
    boxes = [text.get_window_extent(renderer) for text in labels]
    frame = figure.axes[0].get_window_extent(renderer)
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:index])
        assert frame.x0 <= box.x0 <= box.x1 <= frame.x1


@pytest.mark.parametrize(("slowest_ms", "drawn"), [(5.0, False), (82.0, True)])
def test_the_50_ms_line_is_drawn_only_within_the_range(slowest_ms, drawn):
    figure = pareto_figure(front_of({"unet8": (0.8, 4.0), "unet16": (0.86, slowest_ms)}))
    assert any("50 ms" in text.get_text() for text in figure.axes[0].get_legend().get_texts()) == drawn


@pytest.mark.parametrize(
    "rows", [{"a": (0.8, 2.0)}, {"a": (0.8, 0.02), "b": (0.9, 900.0)}, {"a": (0.8, 7.1), "b": (0.8, 7.2)}]
)
def test_one_row_and_wide_and_narrow_ranges_are_drawn_with_ticks(rows, tmp_path):
    plot_pareto(front_of(rows), tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert len(pareto_figure(front_of(rows)).axes[0].get_xticks()) > 2
