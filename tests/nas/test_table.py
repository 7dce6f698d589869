import io
import json

import pytest
from rich.console import Console

from latencykit.errors import MissingRowError
from nas.results import Result, choose_selection
from nas.table import Spread, build_table, caption, markdown_table, rich_table, spread


def line(row, seed, dice, p50_ms=10.0, split="valid", pearson_r=0.5, hd95_mm=5.0, pace_hz=30.0):
    return Result(
        row, seed, split, "all", dice, hd95_mm, 1.5, 0.04, 0.05, pearson_r, None, 4, pace_hz, p50_ms,
        p50_ms and 1.2 * p50_ms, 2_000_000, 3_000_000, 4_000, "c", "t", "d",
    )  # fmt: skip


LINES = [
    line("unet16", 0, 0.86, 82.0),
    line("unet16", 1, 0.88, 82.0),
    line("searched", 0, 0.85, 49.0),
    line("searched", 1, 0.83, 49.0),
]


def table(lines=LINES, **options):
    return build_table(lines, choose_selection(lines, "valid"), **options)


def test_the_papers_latencies_give_its_reduction():
    reference, searched = table().rows
    assert reference.latency_reduction_pct == 0
    assert searched.latency_reduction_pct == pytest.approx(40.2, abs=0.05)


def test_a_row_has_mean_standard_deviation_and_best():
    row = table().rows[0]
    assert row.dice.mean == pytest.approx(0.87)
    assert row.dice.sd == pytest.approx(0.01414, abs=1e-5)
    assert (row.dice.n, row.best_seed, row.dice_best) == (2, 1, 0.88)
    assert (row.macs_m.mean, row.macs_paper_m.mean, row.params_k.mean) == (2, 3, 4)


def test_the_best_seed_may_be_picked_on_another_split():
    lines = [*LINES, *(line(r.row, r.seed, 1 - r.dice, split="inner") for r in LINES)]
    shown = table(lines, best_by="inner")
    assert (shown.rows[0].best_seed, shown.rows[0].dice_best) == (0, 0.86)
    assert not any("optimistic" in note for note in shown.notes)
    assert any("optimistic" in note for note in table().notes)


def test_a_seed_that_was_not_scored_on_the_deciding_split_is_named():
    with pytest.raises(MissingRowError, match="unet16 seed 1 has no Dice on 'inner'"):
        table([*LINES, line("unet16", 0, 0.8, split="inner")], best_by="inner")


def test_one_seed_has_no_standard_deviation_and_nothing_has_no_spread():
    assert spread([0.5]) == Spread(0.5, None, 1)
    assert spread([None]) is None
    assert spread([0.5, None, 0.7]) == Spread(pytest.approx(0.6), pytest.approx(0.14142, abs=1e-5), 2)
    assert Spread(0.5, None, 1).text(3) == "0.500"


def test_what_was_not_measured_is_named_and_shown_as_nothing():
    shown = table([line("searched", 0, 0.85, None, hd95_mm=None, pearson_r=None)])
    assert shown.rows[0].latency_reduction_pct is None
    assert any("reference row unet16" in note for note in shown.notes)
    assert any("Not timed: searched" in note for note in shown.notes)
    assert "| 0.850 | 0.850 | 0.040 | 0.050 | - | - | - |" in markdown_table(shown)


def test_a_reference_that_was_asked_for_must_be_there():
    with pytest.raises(MissingRowError, match="no row 'unet8'"):
        table(reference="unet8")
    assert table(reference="searched").rows[0].latency_reduction_pct < 0


def test_rows_over_different_seeds_are_pointed_out():
    assert any("different seeds: unet16 0, 1; searched 0." in note for note in table(LINES[:3]).notes)


def test_paced_and_back_to_back_figures_never_mix():
    lines = [*LINES, *(line(r.row, r.seed, r.dice, 1.0, pace_hz=0.0) for r in LINES)]
    assert table(lines).rows[0].p50_ms == Spread(82.0, 0.0, 2)
    assert build_table(lines, choose_selection(lines, pace_hz=0.0)).rows[0].p50_ms == Spread(1.0, 0.0, 2)


def test_the_constants_error_stands_beside_the_predictions():
    head = markdown_table(table()).splitlines()[0]
    assert "| MAE | const. MAE | r |" in head
    assert "| MACs M | paper's M |" in head


def test_the_terminal_shows_every_row_and_the_conditions():
    console = Console(file=io.StringIO(), width=220)
    console.print(rich_table(table()))
    text = console.file.getvalue()
    assert "unet16" in text
    assert "0.870±0.014" in text
    assert "paced at 30 Hz" in text
    assert "4 threads" in caption(table())


def test_the_table_is_json():
    data = json.loads(json.dumps(table().as_dict()))
    assert data["rows"][1]["row"] == "searched"
    assert data["selection"] == {"split": "valid", "degraded": "all", "threads": 4, "pace_hz": 30.0}
