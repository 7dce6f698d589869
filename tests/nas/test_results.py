import math
from dataclasses import replace

import pytest

from latencykit.errors import InputError, MissingRowError
from nas.results import (
    COLUMNS,
    Result,
    Selection,
    append,
    choose_selection,
    merge,
    read_results,
    results_frame,
    write_results,
)

LINE = Result(
    "unet16", 0, "valid", "all", 0.8691, 5.25, 1.5, 0.041, 0.052, 0.61, 0.8, 4, 30.0, 25.5, 29.0, 3_034_000_000,
    3_631_710_336, 900_000, "c0ffee", "7ab1e", "deadbeef",
)  # fmt: skip


def test_the_columns_are_the_contracts_in_its_order(tmp_path):
    write_results(tmp_path / "results.csv", [LINE])
    assert (tmp_path / "results.csv").read_text().splitlines()[0] == (
        "row,seed,split,degraded,dice,hd95_mm,asd_mm,mae,mae_constant,pearson_r,auroc,threads,pace_hz,p50_ms,p99_ms,"
        "macs,macs_paper,params,config_sha,table_sha,commit"
    )


def test_what_is_written_is_read_back_exactly(tmp_path):
    lines = [
        LINE,
        replace(LINE, seed=1, dice=1 / 3, pace_hz=1000 / 33),
        replace(LINE, seed=2, hd95_mm=None, asd_mm=None, pearson_r=None, auroc=None, p50_ms=None, p99_ms=None),
        replace(LINE, row='with, comma and "quotes"', table_sha="", pace_hz=0.0),
    ]
    write_results(tmp_path / "results.csv", lines)
    assert read_results(tmp_path / "results.csv") == lines


def test_a_line_with_the_same_key_is_replaced_where_it_stood():
    others = [LINE, replace(LINE, seed=1)]
    better = replace(LINE, dice=0.9)
    assert merge(others, [better]) == [better, others[1]]


@pytest.mark.parametrize(
    "change",
    [{"row": "unet8"}, {"seed": 1}, {"split": "train"}, {"degraded": "clean"}, {"threads": 2}, {"pace_hz": 0.0}],
)
def test_any_part_of_the_key_makes_another_line(change):
    assert len(merge([LINE], [replace(LINE, **change)])) == 2


def test_appending_starts_a_file_and_goes_on_with_it(tmp_path):
    path = tmp_path / "out" / "results.csv"
    append(path, [LINE])
    assert append(path, [replace(LINE, seed=1), replace(LINE, dice=0.5)]) == read_results(path)
    assert [(r.seed, r.dice) for r in read_results(path)] == [(0, 0.5), (1, LINE.dice)]


def test_an_append_that_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("something else\n")
    with pytest.raises(InputError, match="line 1"):
        append(path, [LINE])
    assert path.read_text() == "something else\n"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_one_key_twice_is_refused(tmp_path):
    with pytest.raises(InputError, match="share row, seed"):
        write_results(tmp_path / "results.csv", [LINE, replace(LINE, dice=0.5)])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.8691", "good", "dice is 'good'"),
        ("0.8691", "1.5", "dice is 1.5; expected 0 to 1"),
        ("0.8691", "nan", "dice is nan"),
        ("0.8691", "", "dice is ''"),
        ("25.5", "inf", "p50_ms is inf"),
        ("25.5", "0", "p50_ms is 0"),
        (",all,", ",some,", "degraded is 'some'"),
        ("deadbeef", "deadbeef,more", "21 cells expected, found 22"),
        (",4,30,", ",0,30,", "threads is 0"),
        (",4,30,", ",4.5,30,", "threads is '4.5'"),
        ("unet16", "", "row is ''"),
        ("unet16", '"unet16', "line"),
    ],
)
def test_a_wrong_cell_is_refused_with_file_and_line(tmp_path, old, new, message):
    path = tmp_path / "results.csv"
    write_results(path, [replace(LINE, row="first"), LINE])
    head, first, second = path.read_text().splitlines()
    assert old in second
    path.write_text("\n".join((head, first, second.replace(old, new, 1))) + "\n")
    with pytest.raises(InputError, match=message) as caught:
        read_results(path)
    assert f"{path}, line 3" in str(caught.value)


def test_a_repeated_line_other_columns_and_an_absent_file_are_refused(tmp_path):
    path = tmp_path / "results.csv"
    write_results(path, [LINE])
    text = path.read_text()
    path.write_text(text + text.splitlines()[1] + "\n")
    with pytest.raises(InputError, match="line 3: a second line with the same row"):
        read_results(path)
    path.write_text(text.replace("hd95_mm", "hd95"))
    with pytest.raises(InputError, match="line 1: columns row,seed"):
        read_results(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        read_results(path)
    with pytest.raises(InputError, match=r"absent\.csv cannot be read"):
        read_results(tmp_path / "absent.csv")


def test_a_frame_has_the_columns_their_types_and_nan_for_nothing():
    frame = results_frame([LINE, replace(LINE, seed=1, auroc=None)])
    assert tuple(frame.columns) == COLUMNS
    assert frame["macs"].dtype == "int64"
    assert math.isnan(frame["auroc"][1])
    assert frame.groupby("row")["dice"].mean()["unet16"] == pytest.approx(LINE.dice)
    assert tuple(results_frame([]).columns) == COLUMNS


def test_the_paced_lines_at_4_threads_are_chosen_where_there_are_some():
    lines = [replace(LINE, threads=t, pace_hz=p) for t in (1, 4, 8) for p in (0.0, 30.0)]
    assert choose_selection(lines) == Selection("valid", "all", 4, 30.0)
    assert choose_selection(lines, threads=1, pace_hz=0.0) == Selection("valid", "all", 1, 0.0)
    assert choose_selection([line for line in lines if line.threads != 4 and not line.pace_hz]).threads == 8
    assert len(choose_selection(lines).of(lines)) == 1


def test_an_open_choice_that_cannot_be_made_is_refused():
    with pytest.raises(MissingRowError, match="splits train, valid"):
        choose_selection([LINE, replace(LINE, split="train")])
    with pytest.raises(MissingRowError, match="paces 25, 30 Hz"):
        choose_selection([LINE, replace(LINE, pace_hz=25.0)])
    with pytest.raises(MissingRowError, match="none of 1 lines"):
        choose_selection([LINE], threads=2)
    with pytest.raises(MissingRowError, match="no line for split test"):
        Selection("test", "all", 4, 30.0).of([LINE])
