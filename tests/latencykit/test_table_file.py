import contextlib
import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latencykit.errors import InputError, MissingRowError, NotComparableError
from latencykit.kernels import CALL_OVERHEAD, Kernel
from latencykit.keys import Primitive, key_id, key_level
from latencykit.measurement import Measurement
from latencykit.runtime import Setting
from latencykit.spec import Add, Conv, Identity, Zero
from latencykit.table import FRAME_COLUMNS, Row, Sentinel, Table, defined_row, make_row
from latencykit.table_file import TABLE_SCHEMA, _checksum, load_table
from tests.latencykit.made_up import CPU, ONE, RUNTIME, TWO, ids, made_up_table, relu_kernel, steady

FROZEN = Path(__file__).parent / "fixtures/table_schema1.json"
CONV = Primitive((Conv(4),), ((2, 8, 8),))
NOTHING = Primitive((Zero(),), ((2, 8, 8),))
ALL_SETTINGS = st.builds(
    Setting,
    threads=st.integers(1, 4),
    pinned=st.booleans(),
    spinning=st.booleans(),
    denormals_as_zero=st.booleans(),
    optimisation=st.sampled_from(["none", "basic", "extended", "all"]),
)


@pytest.fixture
def table() -> Table:
    found = made_up_table({relu_kernel(2): 5.0, relu_kernel(4): 7.5, CONV: 9.0}, (ONE, TWO))
    noisy = make_row(relu_kernel(8), ONE, Measurement(((5.12345, 5.2, 6.00049), (5.3, 5.4, 5.77777))))
    return found.with_rows([noisy, defined_row(NOTHING, ONE)], [Sentinel(ONE, (101.5, 99.25))])


def signed(data: dict[str, Any]) -> dict[str, Any]:
    """Table data with the checksum that fits them, so that a test gets behind that check."""
    content = {key: value for key, value in data.items() if key != "checksum"}
    return {**content, "checksum": _checksum(content)}


def write(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


# Look-ups


def test_a_missing_row_is_an_error_that_names_the_command_that_adds_it(table: Table):
    table = dataclasses.replace(table, path=Path("luts/mine.json"))
    with pytest.raises(MissingRowError) as caught:
        table.row(ONE, relu_kernel(16))
    assert str(caught.value).endswith("latencykit build --out luts/mine.json --threads 1")
    with pytest.raises(MissingRowError, match=r"--threads 1 --add m\.onnx$"):
        table.lookup(ONE, [relu_kernel(16)], "--add m.onnx")
    assert str(relu_kernel(16)) in str(caught.value)


def test_one_error_names_all_missing_rows_and_shortens_a_long_list(table: Table):
    with pytest.raises(MissingRowError, match="no row for 8 of 9 costs") as caught:
        table.lookup(ONE, [relu_kernel(2), *(relu_kernel(100 + n) for n in range(8))])
    assert str(caught.value).count("Relu") == 5
    assert "..." in str(caught.value)


def test_a_row_of_another_setting_is_no_row(table: Table):
    assert table.has(ONE, relu_kernel(8))
    assert not table.has(TWO, relu_kernel(8))
    with pytest.raises(MissingRowError, match="2 threads"):
        table.row(TWO, relu_kernel(8))


def test_rows_come_in_the_order_asked_for(table: Table):
    keys = [CONV, relu_kernel(4), relu_kernel(2), relu_kernel(4)]
    assert [row.median_us for row in table.lookup(ONE, keys)] == [9.0, 7.5, 5.0, 7.5]
    assert table.lookup(ONE, []) == []


def test_a_thread_count_without_rows_names_those_that_have_some(table: Table):
    assert table.setting(2) == TWO
    with pytest.raises(MissingRowError, match=r"only for 1, 2\..*--threads 3"):
        table.setting(3)
    with pytest.raises(MissingRowError, match="only for none"):
        Table(CPU, RUNTIME, {}, ()).setting(1)


@settings(max_examples=60, deadline=None)
@given(st.lists(ALL_SETTINGS, min_size=1, max_size=6, unique=True), st.data())
def test_settings_never_mix(chosen: list[Setting], data: st.DataObject):
    costs = {setting: 10.0 + index for index, setting in enumerate(chosen)}
    rows = tuple(make_row(relu_kernel(2), setting, steady(value)) for setting, value in costs.items())
    table = Table(CPU, RUNTIME, {}, rows)
    for setting, value in costs.items():
        assert table.row(setting, relu_kernel(2)).median_us == value
    other = data.draw(ALL_SETTINGS)
    if other not in costs:
        with pytest.raises(MissingRowError):
            table.row(other, relu_kernel(2))


@settings(max_examples=30, deadline=None)
@given(st.lists(ALL_SETTINGS, min_size=1, max_size=6, unique=True))
def test_the_order_of_settings_does_not_depend_on_the_order_of_rows(chosen: list[Setting]):
    tables = [
        Table(CPU, RUNTIME, {}, tuple(make_row(relu_kernel(2), setting, steady(3)) for setting in order))
        for order in (chosen, chosen[::-1])
    ]
    assert tables[0].settings == tables[1].settings
    assert [setting.threads for setting in tables[0].settings] == sorted(setting.threads for setting in chosen)


def test_the_default_setting_is_meant_where_several_have_as_many_threads():
    others = dataclasses.replace(ONE, spinning=False), ONE, dataclasses.replace(ONE, denormals_as_zero=False)
    assert made_up_table({}, others).setting(1) == ONE


# Rows


def test_two_rows_of_one_key_are_refused():
    row = make_row(relu_kernel(2), ONE, steady(5))
    with pytest.raises(InputError, match="two rows"):
        Table(CPU, RUNTIME, {}, (row, row))


def test_origin_and_samples_must_fit_together():
    with pytest.raises(InputError, match="do not fit"):
        Row(relu_kernel(2), ONE, "measured", 0, 0, 0)
    with pytest.raises(InputError, match="do not fit"):
        Row(relu_kernel(2), ONE, "fitted", 0, 0, 0, steady(5))


def test_only_what_is_deleted_costs_nothing_by_definition():
    row = defined_row(NOTHING, ONE)
    assert (row.origin, row.median_us, row.interval_us) == ("defined", 0.0, (0.0, 0.0))
    with pytest.raises(InputError, match="only identity and zero"):
        defined_row(CONV, ONE)


def test_a_row_holds_the_costs_of_its_key():
    row = make_row(CONV, ONE, steady(5))
    assert (row.level, row.macs, row.parameters) == ("isolated", 4 * 2 * 9 * 64, 4 * 2 * 9 + 4)
    assert make_row(relu_kernel(2), ONE, steady(5)).level == "kernel"


def test_added_rows_replace_those_of_the_same_key(table: Table):
    changed = table.with_rows([make_row(relu_kernel(2), ONE, steady(6))])
    assert changed.row(ONE, relu_kernel(2)).median_us == 6
    assert changed.row(TWO, relu_kernel(2)).median_us == 5
    assert len(changed.rows) == len(table.rows)
    assert table.row(ONE, relu_kernel(2)).median_us == 5


def test_a_key_s_name_is_stable_and_its_own():
    keys = [relu_kernel(2), relu_kernel(4), CONV, NOTHING, Primitive((Identity(),), ((2, 8, 8),)), CALL_OVERHEAD]
    assert len({key_id(key) for key in keys}) == len(keys)
    assert key_id(CONV) == key_id(Primitive((Conv(4),), ((2, 8, 8),)))
    assert all(key_id(key).startswith(f"{key_level(key)}-") for key in keys)


def test_a_primitive_says_what_it_is():
    assert str(Primitive((Add(),), ((2, 8, 8),) * 2)) == "Add() on 2x8x8 + 2x8x8"


# Files


def test_a_table_read_back_is_the_same(table: Table, tmp_path: Path):
    table.save(tmp_path / "t.json")
    again = load_table(tmp_path / "t.json")
    assert again == table
    assert ids(again.rows) == ids(table.rows)
    assert table_checksum(again) == table_checksum(table) == json.loads((tmp_path / "t.json").read_text())["checksum"]
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "t.json").read_bytes()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=6), min_size=1, max_size=3))
def test_any_samples_are_kept_to_the_nanosecond(samples: list[list[float]]):
    table = made_up_table({}).with_rows([make_row(CONV, ONE, Measurement(tuple(map(tuple, samples))))])
    content = json.loads(json.dumps(table._content()))
    assert table_checksum(table) == _checksum(content)
    kept = content["rows"][-1]["samples_us"]
    assert all(
        math.isclose(a, b, abs_tol=0.0006)
        for x, y in zip(kept, samples, strict=True)
        for a, b in zip(x, y, strict=True)
    )


def test_a_table_without_rows_is_still_a_table(tmp_path: Path):
    Table(CPU, RUNTIME, {}, ()).save(tmp_path / "t.json")
    empty = load_table(tmp_path / "t.json")
    assert empty.rows == ()
    assert list(empty.to_frame().columns) == list(FRAME_COLUMNS)


def test_a_measured_table_read_back_is_the_same(tiny_table: Table):
    assert tiny_table.path is not None
    again = load_table(tiny_table.path)
    assert again == tiny_table
    assert table_checksum(again) == json.loads(tiny_table.path.read_text())["checksum"]


def test_a_row_stands_on_a_line_of_its_own(table: Table, tmp_path: Path):
    table.save(tmp_path / "t.json")
    assert sum('"level"' in line for line in (tmp_path / "t.json").read_text().splitlines()) == len(table.rows)


def test_the_frozen_table_of_schema_1_loads_for_ever():
    table = load_table(FROZEN)
    assert [setting.threads for setting in table.settings] == [1, 2]
    assert len(table.rows) == 22
    assert {row.origin for row in table.rows} == {"measured", "defined"}
    assert {row.level for row in table.rows} == {"isolated", "kernel"}
    overhead = table.row(ONE, CALL_OVERHEAD)
    assert (overhead.median_us, overhead.measurement.processes, overhead.measurement.count) == (1.689, 2, 6)
    fused = [row.key.fused for row in table.rows if isinstance(row.key, Kernel) and row.key.fused]
    assert fused == ["relu", "sum"] * 2
    assert table.row(TWO, Primitive((Zero(),), ((8, 8, 8),))).median_us == 0
    assert table.cpu.physical_cores == 2
    assert table.runtime["onnxruntime"] == "1.32.0"
    assert len(table.sentinels) == 2


def test_a_changed_figure_is_found(table: Table, tmp_path: Path):
    table.save(tmp_path / "t.json")
    text = (tmp_path / "t.json").read_text()
    (tmp_path / "t.json").write_text(re.sub(r"7\.5\b", "6.5", text, count=1))
    with pytest.raises(InputError, match=r"t\.json was changed after it was written.*checksum"):
        load_table(tmp_path / "t.json")


def test_a_newer_schema_is_refused_with_what_to_do(tmp_path: Path):
    path = write(tmp_path / "t.json", {"schema": TABLE_SCHEMA + 1, "whatever": "it holds"})
    with pytest.raises(InputError, match=rf"schema {TABLE_SCHEMA + 1}.*reads up to {TABLE_SCHEMA}; update latencykit"):
        load_table(path)


@pytest.mark.parametrize("data", [None, [], 3, "table", {}, {"schema": "1"}, {"schema": None}, {"schema": 0}])
def test_json_that_is_no_table_is_refused(data: Any, tmp_path: Path):
    with pytest.raises(InputError, match="not a latency table"):
        load_table(write(tmp_path / "t.json", data))


@pytest.mark.parametrize("text", ["", "{", "\x00", "NaN", '{"schema": 1, "checksum": NaN}', "[" * 100_000, "1" * 5000])
def test_text_that_is_no_json_is_refused(text: str, tmp_path: Path):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(InputError, match=r"t\.json"):
        load_table(tmp_path / "t.json")


def test_bytes_that_are_no_text_and_files_that_are_none_are_refused(tmp_path: Path):
    (tmp_path / "t.json").write_bytes(b"\xff\xfe\x00\x01")
    for path in (tmp_path / "t.json", tmp_path / "missing.json", tmp_path):
        with pytest.raises(InputError):
            load_table(path)


def frozen() -> dict[str, Any]:
    return json.loads(FROZEN.read_text())


def changed(**changes: Any) -> dict[str, Any]:
    """The frozen table with its first row changed."""
    data = frozen()
    data["rows"][0] |= changes
    return signed(data)


@pytest.mark.parametrize(
    "data",
    [
        changed(setting=2),
        changed(setting=-1),
        changed(samples_us=[]),
        changed(samples_us=[[]]),
        changed(samples_us=[[0.0]]),
        changed(samples_us=[[-1.0]]),
        changed(samples_us=None),
        changed(samples_us=[["fast"]]),
        changed(level="edge"),
        changed(level="isolated"),
        changed(level="layer"),
        changed(origin="guessed"),
        changed(origin="fitted"),
        changed(key={}),
        changed(key=[]),
        changed(macs=1.5),
        changed(extra=1),
        signed({**frozen(), "rows": [frozen()["rows"][0]] * 2}),
        signed({**frozen(), "rows": [1]}),
        signed({**frozen(), "rows": {}}),
        signed({**frozen(), "runtime": {}}),
        signed({**frozen(), "runtime": []}),
        signed({**frozen(), "settings": [{"threads": "1"}]}),
        signed({**frozen(), "settings": [{"threads": 1, "optimisation": "best"}]}),
        signed({**frozen(), "cpu": {}}),
        signed({**frozen(), "sentinels": [{"setting": 5, "medians_us": [1.0]}]}),
        signed({**frozen(), "surprise": 1}),
        {key: value for key, value in frozen().items() if key != "checksum"},
        {key: value for key, value in signed(frozen()).items() if key != "rows"},
    ],
    ids=lambda data: str(len(json.dumps(data))),
)
def test_a_table_whose_content_is_wrong_is_refused_even_with_a_fitting_checksum(data: Any, tmp_path: Path):
    with pytest.raises(InputError, match=r"t\.json|table|row"):
        load_table(write(tmp_path / "t.json", data))


def test_a_number_beyond_a_float_is_refused(tmp_path: Path):
    text = FROZEN.read_text().replace('"macs":49152', '"macs":1e999', 1)
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(InputError, match=r"t\.json"):
        load_table(tmp_path / "t.json")


def use(table: Table) -> None:
    """What a table that loaded must stand."""
    table.to_frame()
    table_checksum(table)
    for row in table.rows:
        assert table.row(row.setting, row.key) is row


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_a_file_changed_at_random_gives_only_this_project_s_errors(tmp_path_factory, data: st.DataObject):
    original = FROZEN.read_bytes()
    kind = data.draw(st.sampled_from(["cut", "replace", "insert", "delete"]))
    at = data.draw(st.integers(0, len(original) - 1))
    if kind == "cut":
        mutated = original[:at]
    elif kind == "replace":
        mutated = original[:at] + data.draw(st.binary(min_size=1, max_size=4)) + original[at + 1 :]
    elif kind == "insert":
        mutated = original[:at] + data.draw(st.binary(min_size=1, max_size=8)) + original[at:]
    else:
        mutated = original[:at] + original[at + data.draw(st.integers(1, 200)) :]
    path = tmp_path_factory.getbasetemp() / "mutated.json"
    path.write_bytes(mutated)
    with contextlib.suppress(InputError):
        use(load_table(path))


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5), st.just([]), st.just({}), st.lists(st.integers(-2, 3), max_size=3),
)  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in children for place in _places(child, (*path, key)))]


_PLACES = [place for place in _places(frozen()) if place and place != ("checksum",)]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(_PLACES), _VALUES)
def test_a_value_changed_under_a_fitting_checksum_gives_only_this_project_s_errors(tmp_path_factory, place, value):
    data = frozen()
    parent = data
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    path = tmp_path_factory.getbasetemp() / "valued.json"
    path.write_text(json.dumps(signed(data)), encoding="utf-8")
    with contextlib.suppress(InputError):
        use(load_table(path))


# Other uses


def test_a_frame_has_a_line_for_each_row(table: Table):
    frame = table.to_frame()
    assert list(frame.columns) == list(FRAME_COLUMNS)
    assert len(frame) == len(table.rows)
    line = frame[(frame["id"] == key_id(relu_kernel(8)))].iloc[0]
    assert (line["threads"], line["processes"], line["samples"], line["origin"]) == (1, 2, 6, "measured")
    assert line["low_us"] <= line["median_us"] <= line["high_us"]
    nothing = frame[frame["origin"] == "defined"].iloc[0]
    assert (nothing["median_us"], nothing["error_pct"], nothing["samples"]) == (0, 0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "Another CPU"},
        {"isa": ("avx2", "avx512f")},
        {"physical_cores": 8},
        {"l2_bytes": 1},
        {"l3_bytes": None},
    ],
)
def test_another_cpu_is_not_comparable(table: Table, change: dict[str, Any]):
    with pytest.raises(NotComparableError, match=f"{next(iter(change))}.*latencykit build --out"):
        table.require_same_machine(dataclasses.replace(CPU, **change), RUNTIME)


def test_another_runtime_is_not_comparable(table: Table):
    with pytest.raises(NotComparableError, match=r"onnxruntime 1\.32\.0, this is 1\.33\.0"):
        table.require_same_machine(CPU, {**RUNTIME, "onnxruntime": "1.33.0"})


def test_facts_that_change_from_day_to_day_do_not_make_another_machine(table: Table):
    today = dataclasses.replace(CPU, governor="powersave", memory_bytes=1, system_release="6.2", allowed_cpus=(0,))
    table.require_same_machine(today, {**RUNTIME, "python": "3.13.0", "numpy": "3.0"})
