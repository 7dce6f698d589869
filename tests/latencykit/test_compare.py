"""Two tables: what is compared, what is refused, what the command prints and ends with."""

import dataclasses
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latencykit.cli import main
from latencykit.compare import compare
from latencykit.errors import NotComparableError, UsageError
from latencykit.kernels import CALL_OVERHEAD
from latencykit.keys import Key, Primitive
from latencykit.measurement import Measurement
from latencykit.runtime import Setting
from latencykit.spec import Identity
from latencykit.table import Sentinel, Table, defined_row, make_row
from latencykit.table_file import load_table, save_table
from tests.ended import Tool, run_command
from tests.latencykit.made_up import CPU, ONE, RUNTIME, TWO, made_up_table, relu_kernel, steady

KEYS: list[Key] = [relu_kernel(channels) for channels in range(1, 41)]
IDENTITY = Primitive((Identity(),), ((2, 8, 8),))


def noisy_table(seed: int, factors: dict[Key, float] | None = None, settings: tuple[Setting, ...] = (ONE,)) -> Table:
    """A table whose processes differ by 0.5 %; some rows cost more by a factor."""
    rng = np.random.default_rng(seed)
    rows = []
    for setting in settings:
        for index, key in enumerate(KEYS):
            medians = 10.0 * (1 + index) * (factors or {}).get(key, 1.0) * np.exp(0.005 * rng.standard_normal(3))
            samples = tuple(tuple(median * np.exp(0.001 * rng.standard_normal(5))) for median in medians)
            rows.append(make_row(key, setting, Measurement(samples)))
    rows.append(defined_row(IDENTITY, settings[0]))
    sentinels = tuple(Sentinel(setting, (100.0, 101.0, 102.0)) for setting in settings)
    return Table(CPU, RUNTIME, {"fit": True, "reasons": []}, tuple(rows), sentinels)


def outcomes(a: Table, b: Table, **options: Any) -> dict[Key, str]:
    return {row.a.key: row.judgement.outcome for row in compare(a, b, **options).rows}


def test_unchanged_rows_are_the_same_and_changed_ones_are_found():
    changed = {KEYS[0]: 1.1, KEYS[5]: 1.06, KEYS[7]: 0.9}
    found = compare(noisy_table(1), noisy_table(2, changed))
    told = {row.a.key: row.judgement.outcome for row in found.rows}
    assert {key: told[key] for key in changed} == {KEYS[0]: "SLOWER", KEYS[5]: "SLOWER", KEYS[7]: "FASTER"}
    assert {told[key] for key in KEYS if key not in changed} == {"SAME"}
    assert found.counts == {"SAME": 37, "FASTER": 1, "SLOWER": 2, "UNCLEAR": 0, "ONLY_A": 0, "ONLY_B": 0}
    assert found.warnings == ()


def test_the_margin_says_what_matters():
    a, b = noisy_table(1), noisy_table(2, dict.fromkeys(KEYS[:4], 1.06))
    assert {outcomes(a, b)[key] for key in KEYS[:4]} == {"SLOWER"}
    assert set(outcomes(a, b, margin_pct=10.0).values()) == {"SAME"}


@pytest.mark.parametrize("margin_pct", [0.0, -1.0, 100.0, float("nan")])
def test_a_margin_that_is_none_is_refused(margin_pct: float):
    with pytest.raises(UsageError, match="--margin-pct"):
        compare(noisy_table(1), noisy_table(2), margin_pct)


def test_only_measured_rows_of_equal_setting_and_key_are_compared():
    a, b = noisy_table(1, settings=(ONE, TWO)), noisy_table(2)
    extra = make_row(CALL_OVERHEAD, ONE, steady(2.0))
    found = compare(a, b.with_rows([extra]))
    assert [row.a.setting for row in found.rows] == [ONE] * len(KEYS)
    assert [(row.a.key, row.a.setting) for row in found.rows] == [(row.b.key, row.b.setting) for row in found.rows]
    assert {row.setting for row in found.only_a} == {TWO}
    assert found.only_b == (extra,)
    assert (found.counts["ONLY_A"], found.counts["ONLY_B"]) == (len(KEYS), 1)


def test_a_table_is_the_same_as_itself_however_noisy():
    rng = np.random.default_rng(0)
    rows = [make_row(key, ONE, Measurement(tuple(map(tuple, rng.uniform(1, 9, (3, 5)))))) for key in KEYS]
    table = Table(CPU, RUNTIME, {}, tuple(rows))
    found = compare(table, table)
    assert {(row.judgement.outcome, row.judgement.ratio) for row in found.rows} == {("SAME", 1.0)}
    other = dataclasses.replace(rows[0], measurement=Measurement(tuple(map(tuple, rng.uniform(1, 9, (3, 5))))))
    grown = compare(table, table.with_rows([other]))  # a row measured anew stands alone and is judged as one
    assert [row.judgement.outcome for row in grown.rows] == ["UNCLEAR"] + ["SAME"] * (len(KEYS) - 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cpu": dataclasses.replace(CPU, model="Another")}, "model is 'A CPU' in A and 'Another' in B"),
        ({"cpu": dataclasses.replace(CPU, isa=("avx2", "avx512f"))}, "isa is"),
        ({"runtime": {**RUNTIME, "onnxruntime": "1.0.0"}}, "onnxruntime is '1.32.0' in A and '1.0.0' in B"),
        ({"rows": noisy_table(2, settings=(TWO,)).rows, "sentinels": ()}, "A holds 1 thread, pinned, B 2 threads"),
    ],
)
def test_tables_that_are_not_comparable_are_refused_unless_forced(change: dict[str, Any], words: str):
    a, b = noisy_table(1), dataclasses.replace(noisy_table(2), **change)
    with pytest.raises(NotComparableError, match="--force") as caught:
        compare(a, b)
    assert words in str(caught.value)
    forced = compare(a, b, force=True)
    assert words in forced.warnings[0]
    assert len(forced.rows) == (0 if "rows" in change else len(KEYS))


def test_what_was_set_up_otherwise_is_a_warning():
    b = dataclasses.replace(noisy_table(2), cpu=dataclasses.replace(CPU, governor="powersave", memory_bytes=1))
    (warning,) = compare(noisy_table(1), b).warnings
    assert "governor 'performance' to 'powersave'" in warning
    assert "memory" not in warning


def test_a_table_of_an_unfit_machine_is_a_warning():
    b = dataclasses.replace(noisy_table(2), doctor={"fit": False, "reasons": []})
    (warning,) = compare(noisy_table(1), b).warnings
    assert warning.startswith("B: TABLE was measured while the doctor called the machine unfit")


def test_a_drift_of_all_rows_is_told_beside_the_sentinel_s_and_stays_in_the_rows():
    b = noisy_table(2, dict.fromkeys(KEYS, 1.08))
    b = dataclasses.replace(b, sentinels=(Sentinel(ONE, (111.0, 112.0)),))
    found = compare(noisy_table(1), b)
    (drift,) = found.drifts
    assert drift.setting == ONE
    assert drift.median_ratio == pytest.approx(1.08, abs=0.01)
    assert drift.sentinel_ratio == pytest.approx(111.5 / 101)
    assert found.counts["SLOWER"] == len(KEYS)
    assert re.search(r"moved together, by \+[78]\.\d % in the middle", found.warnings[0])
    assert compare(noisy_table(1), dataclasses.replace(b, sentinels=())).drifts[0].sentinel_ratio is None
    elsewhere = dataclasses.replace(b, cpu=dataclasses.replace(b.cpu, model="Elsewhere 9"))
    assert not re.search("moved together", " ".join(compare(noisy_table(1), elsewhere, force=True).warnings))


def test_verdicts_survive_the_file(tmp_path: Path):
    a, b = noisy_table(1), noisy_table(2, {KEYS[3]: 1.07})
    save_table(a, tmp_path / "a.json")
    save_table(b, tmp_path / "b.json")
    assert compare(load_table(tmp_path / "a.json"), load_table(tmp_path / "b.json")).rows == compare(a, b).rows


# The command


@pytest.fixture
def tool() -> Tool:
    return partial(run_command, main, "latencykit")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Before, unchanged, slower."""
    paths = tmp_path / "before.json", tmp_path / "unchanged.json", tmp_path / "slower.json"
    tables = noisy_table(1), noisy_table(2), noisy_table(3, {KEYS[0]: 1.2, KEYS[1]: 0.8})
    for path, table in zip(paths, tables, strict=True):
        save_table(table, path)
    return paths


def test_a_comparison_in_json(tool: Tool, files: tuple[Path, Path, Path]):
    before, unchanged, _ = files
    ended = tool("compare", before, unchanged, "--json")
    assert ended.code == 0
    data = json.loads(ended.out)
    assert set(data) == {
        *("schema", "command", "warnings", "a", "b", "margin_pct", "confidence_pct"),
        *("rows", "counts", "only_a", "only_b", "drift"),
    }
    assert (data["command"], data["margin_pct"]) == ("compare", 3.0)
    assert data["counts"] == {"SAME": 40, "FASTER": 0, "SLOWER": 0, "UNCLEAR": 0, "ONLY_A": 0, "ONLY_B": 0}
    row = data["rows"][0]
    assert set(row) == {"key", "id", "level", "threads", "a_us", "b_us", "verdict", "ratio", "ci", "q"}
    assert (row["key"], row["verdict"], row["threads"]) == (str(KEYS[0]), "SAME", 1)
    assert row["ci"][0] < row["ratio"] < row["ci"][1]
    assert row["ratio"] == pytest.approx(row["b_us"] / row["a_us"])
    assert set(data["drift"][0]) == {"threads", "median_ratio", "sentinel_ratio"}


def test_a_slower_row_is_code_8_and_a_faster_one_is_not(tool: Tool, files: tuple[Path, Path, Path]):
    before, _, slower = files
    ended = tool("compare", before, slower)
    assert ended.code == 8
    assert "38 SAME, 1 FASTER, 1 SLOWER (margin 3 %)" in ended.out
    lines = [line for line in ended.out.splitlines() if line.startswith(("SLOWER", "FASTER"))]
    assert [line.split()[0] for line in lines] == ["SLOWER", "FASTER"]
    assert str(KEYS[0]) in lines[0]
    assert tool("compare", before, slower, "--margin-pct", 30).code == 0
    back = tool("compare", slower, before, "--json")
    assert back.code == 8
    assert json.loads(back.out)["counts"]["FASTER"] == 1


def test_tables_of_two_machines_are_code_4_unless_forced(tool: Tool, files: tuple[Path, Path, Path], tmp_path: Path):
    other = tmp_path / "other.json"
    save_table(dataclasses.replace(noisy_table(4), cpu=dataclasses.replace(CPU, model="Another")), other)
    ended = tool("compare", files[0], other, "--json")
    assert (ended.code, ended.out) == (4, "")
    assert "--force" in ended.err
    forced = tool("compare", files[0], other, "--json", "--force")
    assert forced.code == 0
    assert "Another" in json.loads(forced.out)["warnings"][0]


def test_no_row_in_common_is_code_4_and_forced_an_empty_comparison(tool, files, tmp_path: Path):
    other = tmp_path / "other.json"
    save_table(made_up_table({relu_kernel(77): 5.0}, settings=(TWO,)), other)
    assert tool("compare", files[0], other).code == 4
    forced = tool("compare", files[0], other, "--force", "--json", "--plot", tmp_path / "empty.png")
    data = json.loads(forced.out)
    assert (forced.code, data["rows"], data["drift"]) == (0, [], [])
    assert (data["counts"]["ONLY_A"], data["counts"]["ONLY_B"]) == (len(KEYS), 2)
    assert (tmp_path / "empty.png").exists()


def test_rows_of_one_process_have_no_interval_in_json(tool: Tool, tmp_path: Path):
    for name, value in (("a", 5.0), ("b", 5.1)):
        rows = tuple(make_row(key, ONE, steady(value, processes=1)) for key in KEYS[:3])
        save_table(Table(CPU, RUNTIME, {}, rows), tmp_path / f"{name}.json")
    ended = tool("compare", tmp_path / "a.json", tmp_path / "b.json", "--json")
    assert ended.code == 0
    assert {(row["verdict"], *row["ci"]) for row in json.loads(ended.out)["rows"]} == {("UNCLEAR", None, None)}


def test_many_changed_rows_are_shown_by_their_ends(tool: Tool, files: tuple[Path, Path, Path], tmp_path: Path):
    changed = {key: 1.2 if index % 2 else 0.8 for index, key in enumerate(KEYS)}
    save_table(noisy_table(5, changed), tmp_path / "all.json")
    ended = tool("compare", files[0], tmp_path / "all.json")
    assert ended.code == 8
    assert "and 15 more; --json lists all" in ended.out
    shown = [line.split()[0] for line in ended.out.splitlines() if line.startswith(("SLOWER", "FASTER"))]
    assert shown == ["SLOWER"] * 13 + ["FASTER"] * 12


@pytest.mark.parametrize("words", [("--plot", "figure.doc"), ("--margin-pct", "0"), ("--margin-pct", "much")])
def test_words_that_do_not_fit_are_code_2(words: tuple[str, str], tool: Tool, files: tuple[Path, Path, Path]):
    ended = tool("compare", *files[:2], *words)
    assert (ended.code, ended.out) == (2, "")


def test_a_file_that_is_no_table_is_code_6(tool: Tool, files: tuple[Path, Path, Path], tmp_path: Path):
    (tmp_path / "thesis").write_text("mine")
    assert tool("compare", files[0], tmp_path / "thesis").code == 6
    assert tool("compare", tmp_path / "missing", files[0]).code == 6


def test_the_picture_is_written(tool: Tool, files: tuple[Path, Path, Path], tmp_path: Path):
    ended = tool("compare", files[0], files[2], "--plot", tmp_path / "new" / "compared.png")
    assert ended.code == 8
    assert (tmp_path / "new" / "compared.png").read_bytes().startswith(b"\x89PNG")
