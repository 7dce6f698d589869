"""Tables as files: what is kept, what is migrated, and what is refused."""

import contextlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latencykit.baselines import Baseline
from latencykit.edges import cost
from latencykit.errors import InputError, MissingRowError
from latencykit.kernels import CALL_OVERHEAD, Kernel
from latencykit.keys import Edge, Primitive
from latencykit.measurement import Measurement
from latencykit.predict import predict_kernels
from latencykit.sample import sample_architectures
from latencykit.spec import Conv, Zero
from latencykit.table import FRAME_COLUMNS, Table, make_row, network_id
from latencykit.table_file import TABLE_SCHEMA, _checksum, _content, load_table, save_table, table_checksum
from tests.latencykit.made_up import CPU, ONE, ONE_NODE, RUNTIME, TWO, ids, made_up_costs, made_up_table, whole_table

FIXTURES = Path(__file__).parent / "fixtures"
FROZEN_1, FROZEN_2, FROZEN = (FIXTURES / f"table_schema{schema}.json" for schema in (1, 2, 3))
CONV = Primitive((Conv(4),), ((2, 8, 8),))


@pytest.fixture(scope="module")
def table() -> Table:
    return whole_table()


def signed(data: dict[str, Any]) -> dict[str, Any]:
    """Table data with the checksum that fits them, so that a test gets behind that check."""
    content = {key: value for key, value in data.items() if key != "checksum"}
    return {**content, "checksum": _checksum(content)}


def write(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


# What is kept


def test_a_table_read_back_is_the_same(table: Table, tmp_path: Path):
    save_table(table, tmp_path / "t.json")
    again = load_table(tmp_path / "t.json")
    assert again == table
    assert ids(again.rows) == ids(table.rows)
    assert {row.level for row in again.rows} == {"isolated", "kernel", "edge"}
    assert {row.origin for row in again.rows} == {"measured", "fitted", "defined"}
    assert again.path == tmp_path / "t.json"
    assert table_checksum(again) == table_checksum(table) == json.loads((tmp_path / "t.json").read_text())["checksum"]
    save_table(again, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "t.json").read_bytes()


def test_what_a_table_is_asked_for_is_the_same_after_the_file(table: Table, tmp_path: Path):
    save_table(table, tmp_path / "t.json")
    again = load_table(tmp_path / "t.json")
    for setting in (ONE, TWO):
        for pace_hz in (None, 30.0):
            assert again.model(setting, pace_hz) == table.model(setting, pace_hz) is not None
            for network in table.networks:
                before = predict_kernels(table, setting, network.kernels, pace_hz=pace_hz)
                assert predict_kernels(again, setting, network.kernels, pace_hz=pace_hz) == before
            costs = cost(again, setting, ONE_NODE, pace_hz=pace_hz)
            planted = made_up_costs(seed=setting.threads, pace_hz=pace_hz)
            architecture = sample_architectures(ONE_NODE, 1, 5)[0]
            assert costs.total_ms(architecture) == pytest.approx(planted.total_ms(architecture), abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=6), min_size=1, max_size=3))
def test_any_samples_are_kept_to_the_nanosecond(samples: list[list[float]]):
    table = made_up_table({}).with_rows([make_row(CONV, ONE, Measurement(tuple(map(tuple, samples))))])
    content = json.loads(json.dumps(_content(table)))
    assert table_checksum(table) == _checksum(content)
    kept = content["rows"][-1]["samples_us"]
    assert all(
        math.isclose(a, b, abs_tol=0.0006)
        for x, y in zip(kept, samples, strict=True)
        for a, b in zip(x, y, strict=True)
    )


def test_a_table_without_rows_is_still_a_table(tmp_path: Path):
    save_table(Table(CPU, RUNTIME, {}, ()), tmp_path / "t.json")
    empty = load_table(tmp_path / "t.json")
    assert empty.rows == ()
    assert list(empty.to_frame().columns) == list(FRAME_COLUMNS)


def test_a_measured_table_read_back_is_the_same(tiny_table: Table):
    assert tiny_table.path is not None
    again = load_table(tiny_table.path)
    assert again == tiny_table
    assert table_checksum(again) == json.loads(tiny_table.path.read_text())["checksum"]


def test_rows_networks_and_timings_stand_on_lines_of_their_own(table: Table, tmp_path: Path):
    save_table(table, tmp_path / "t.json")
    lines = (tmp_path / "t.json").read_text().splitlines()
    for mark, items in (('"level"', table.rows), ('"kernels":[[', table.networks), ('"network"', table.timings)):
        assert sum(mark in line for line in lines) == len(items) > 0


def test_a_macro_configuration_is_written_once_however_many_edges_it_has(table: Table):
    content = _content(table)
    assert len(content["macros"]) == 1
    edges = [row for row in content["rows"] if row["level"] == "edge"]
    assert len(edges) > 100
    assert {row["key"]["macro"] for row in edges} == {0}


# Schemas


def test_the_frozen_table_of_schema_1_loads_for_ever():
    table = load_table(FROZEN_1)
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
    assert (table.networks, table.timings, table.models, table.validations, table.parents) == ((), (), (), (), ())


def test_a_table_of_schema_1_is_written_as_this_schema_and_says_the_same(tmp_path: Path):
    old = load_table(FROZEN_1)
    save_table(old, tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text())["schema"] == TABLE_SCHEMA
    assert load_table(tmp_path / "t.json") == old


@pytest.mark.parametrize(
    "field", ["calibration", "validation", "macros", "networks", "timings", "models", "validations"]
)
def test_a_table_of_schema_1_has_no_field_of_a_later_one(field: str, tmp_path: Path):
    data = signed({**json.loads(FROZEN_1.read_text()), field: []})
    with pytest.raises(InputError, match=field):
        load_table(write(tmp_path / "t.json", data))


def test_the_frozen_table_of_schema_3_loads_for_ever():
    table = load_table(FROZEN)
    assert [setting.threads for setting in table.settings] == [1, 2]
    assert {row.origin for row in table.rows} == {"measured", "fitted", "defined"}
    assert [sum(row.level == level for row in table.rows) for level in ("isolated", "kernel", "edge")] == [12, 10, 58]
    assert len(table.networks) == 10
    pairs = [network for network in table.networks if network.network]
    assert [network.id for network in pairs] == [network_id(network.network) for network in pairs]
    assert isinstance(pairs[8].network, Baseline)
    assert (len(table.timings), len(table.models)) == (34, 4)
    assert [(model.networks, model.pace_hz) for model in table.models if model.setting == TWO] == [(9, None), (8, 30.0)]
    assert table.validations[0]["levels"]["kernel"]["calibrated"]["mape_pct"] == 1.75
    assert table.parents == ("5ae1" * 16,)
    found = predict_kernels(table, ONE, pairs[0].kernels)
    assert (found.latency_us, found.raw_us) == pytest.approx((68.105393, 28.552000))
    assert found.interval_us == pytest.approx((65.042166, 71.168621))
    costs = cost(table, ONE, ONE_NODE, pace_hz=30.0)
    assert (costs.fixed_ms, costs.residual_pct) == (3.25, 1.25)
    assert costs.total_ms(pairs[0].network) == pytest.approx(5.832677)


def test_the_frozen_table_of_schema_2_loads_for_ever_without_what_was_paced():
    old, new = load_table(FROZEN_2), load_table(FROZEN)
    assert any(timing.pace_hz for timing in new.timings)
    assert any(isinstance(row.key, Edge) and row.key.pace_hz for row in new.rows)
    rows = tuple(row for row in new.rows if not (isinstance(row.key, Edge) and row.key.pace_hz))
    timings = tuple(timing for timing in new.timings if not timing.pace_hz)
    models = tuple(model for model in new.models if not model.pace_hz)
    assert old == replace(new, rows=rows, timings=timings, models=models, path=FROZEN_2)
    with pytest.raises(MissingRowError, match="not calibrated for 30 calls a second"):
        predict_kernels(old, ONE, old.networks[0].kernels, pace_hz=30.0)


def test_a_paced_validation_of_schema_2_is_left_out(tmp_path: Path):
    data = json.loads(FROZEN_2.read_text())
    kept = data["validations"][0]
    data["validations"] = [kept, {**kept, "pace_hz": 30.0}]
    assert load_table(write(tmp_path / "t.json", signed(data))).validations == (kept,)


def test_the_frozen_table_of_this_schema_is_written_as_it_is(tmp_path: Path):
    save_table(load_table(FROZEN), tmp_path / "t.json")
    assert (tmp_path / "t.json").read_bytes() == FROZEN.read_bytes()


def test_a_newer_schema_is_refused_with_what_to_do(tmp_path: Path):
    path = write(tmp_path / "t.json", {"schema": TABLE_SCHEMA + 1, "whatever": "it holds"})
    with pytest.raises(InputError, match=rf"schema {TABLE_SCHEMA + 1}.*reads up to {TABLE_SCHEMA}; update latencykit"):
        load_table(path)


# What is refused


def test_a_changed_figure_is_found(table: Table, tmp_path: Path):
    save_table(table, tmp_path / "t.json")
    text = (tmp_path / "t.json").read_text()
    (tmp_path / "t.json").write_text(re.sub(r"\b5\.778\b", "5.776", text, count=1))
    with pytest.raises(InputError, match=r"t\.json was changed after it was written.*checksum"):
        load_table(tmp_path / "t.json")


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


def test_a_table_that_is_not_there_names_the_command_that_makes_one_also_where_its_path_is_a_string(tmp_path: Path):
    with pytest.raises(InputError, match=r"absent\.json does not exist; .*latencykit build --out"):
        load_table(str(tmp_path / "absent.json"))


def frozen() -> dict[str, Any]:
    found = json.loads(FROZEN.read_text())
    assert isinstance(found, dict)
    return found


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


def first_edge(data: dict[str, Any]) -> dict[str, Any]:
    found = next(row["key"] for row in data["rows"] if row["level"] == "edge")
    assert isinstance(found, dict)
    return found


def set_at(*place: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for key in place[:-1]:
            data = data[key]
        data[place[-1]] = value

    return change


def without_a_kernel(data: dict[str, Any]) -> None:
    """Take the rows of a kernel away that networks run; later ones move up, so the last index has none."""
    label = [row["label"] for row in data["rows"] if row["level"] == "kernel"][-1]
    data["rows"] = [row for row in data["rows"] if row["label"] != label]


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "a network's kernel beyond the list": set_at("networks", 0, "kernels", 0, value=[99, 1]),
    "a network's kernel before the list": set_at("networks", 0, "kernels", 0, value=[-1, 1]),
    "a network's kernel by name": set_at("networks", 0, "kernels", 0, value=["Relu", 1]),
    "a kernel that runs 0 times": set_at("networks", 0, "kernels", 0, value=[0, 0]),
    "a kernel that runs -1 times": set_at("networks", 0, "kernels", 0, value=[0, -1]),
    "a kernel that runs very often": set_at("networks", 0, "kernels", 0, value=[0, 10**400]),
    "a kernel that runs 1.5 times": set_at("networks", 0, "kernels", 0, value=[0, 1.5]),
    "a kernel of three figures": set_at("networks", 0, "kernels", 0, value=[0, 1, 2]),
    "kernels without their rows": without_a_kernel,
    "an architecture that is none": set_at("networks", 0, "architecture", "choices", "up", value=["conv"]),
    "an architecture of another schema": set_at("networks", 0, "architecture", "schema", value=9),
    "two networks of one name": lambda data: data["networks"].append(data["networks"][0]),
    "a network without a name": set_at("networks", 0, "id", value=""),
    "a timing of an unknown network": set_at("timings", 0, "network", value="another"),
    "a timing of no network": set_at("timings", 0, "network", value=None),
    "a timing of an unknown setting": set_at("timings", 0, "setting", value=2),
    "a timing twice": lambda data: data["timings"].append(data["timings"][0]),
    "a timing without figures": set_at("timings", 0, "medians_us", value=[]),
    "a timing of nothing": set_at("timings", 0, "medians_us", value=[0.0]),
    "a timing of next to nothing": set_at("timings", 0, "medians_us", value=[5e-324]),
    "a timing of an age": set_at("timings", 0, "medians_us", value=[1e300]),
    "a timing at a pace of 0": set_at("timings", 0, "pace_hz", value=0),
    "a timing at a pace of -30": set_at("timings", 0, "pace_hz", value=-30),
    "a model of an unknown setting": set_at("models", 0, "setting", value=-1),
    "a model twice": lambda data: data["models"].append(data["models"][0]),
    "a model with a row of covariance too few": lambda data: data["models"][0]["covariance"].pop(),
    "a model with a short row of covariance": lambda data: data["models"][0]["covariance"][2].pop(),
    "a model with a coefficient too many": set_at("models", 0, "coefficients", "more", value=1.0),
    "a model with a coefficient beyond all": set_at("models", 0, "coefficients", "sum_us", value=1e300),
    "a model with a coefficient in words": set_at("models", 0, "coefficients", "sum_us", value="much"),
    "a model with a covariance beyond all": set_at("models", 0, "covariance", 0, 0, value=-1e300),
    "a model with a negative spread": set_at("models", 0, "spread_pct", value=-1.0),
    "a model with a negative residual": set_at("models", 0, "residual_pct", value=-1.0),
    "a model of no networks": set_at("models", 0, "networks", value=0),
    "a model of very many networks": set_at("models", 0, "networks", value=10**400),
    "a model with very many coefficients": lambda data: data["models"][0].update(
        coefficients={str(n): 0.0 for n in range(101)}, covariance=[[0.0] * 101] * 101
    ),
    "spreads by latency in no order": set_at("models", 0, "spread_by_latency", value=[[2.0, 1.0], [1.0, 1.0]]),
    "spreads of one latency": set_at("models", 0, "spread_by_latency", value=[[2.0, 1.0], [2.0, 1.0]]),
    "spreads of no latency": set_at("models", 0, "spread_by_latency", value=[[0.0, 1.0]]),
    "spreads below nothing": set_at("models", 0, "spread_by_latency", value=[[2.0, -1.0]]),
    "spreads beyond all": set_at("models", 0, "spread_by_latency", value=[[2.0, 1e300]]),
    "very many spreads": set_at("models", 0, "spread_by_latency", value=[[1.0 + n, 1.0] for n in range(101)]),
    "a spread of three figures": set_at("models", 0, "spread_by_latency", value=[[1.0, 1.0, 1.0]]),
    "a model at a pace of 0": set_at("models", 0, "pace_hz", value=0.0),
    "an edge of an unknown macro configuration": lambda data: first_edge(data).update(macro=1),
    "an edge of a macro configuration before the list": lambda data: first_edge(data).update(macro=-1),
    "an edge of a macro configuration in place": lambda data: first_edge(data).update(macro=data["macros"][0]),
    "an edge of an unknown cell": lambda data: first_edge(data).update(cell_type="sideways"),
    "an edge beyond its cell": lambda data: first_edge(data).update(cell_type="down", index=2),
    "an edge with an unknown candidate": lambda data: first_edge(data).update(candidate="warp"),
    "an edge at a pace of 0": lambda data: first_edge(data).update(pace_hz=0),
    "an edge with a field more": lambda data: first_edge(data).update(more=1),
    "a macro configuration that is none": set_at("macros", 0, "cell_nodes", value=99),
    "a validation that is no object": set_at("validations", 0, value=[1]),
    "a parent that is no text": set_at("parents", 0, value=1),
    "a sentinel without figures": set_at("sentinels", 0, "medians_us", value=[]),
    "no timings": lambda data: data.pop("timings"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_schema_2_added_is_refused_where_it_is_wrong(name: str, tmp_path: Path):
    data = frozen()
    WRONG[name](data)
    with pytest.raises(InputError, match=r"t\.json"):
        load_table(write(tmp_path / "t.json", signed(data)))


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
    for model in table.models:
        for network in table.networks:
            if all(table.has(model.setting, key) for key in (*network.kernels, CALL_OVERHEAD)):
                found = predict_kernels(table, model.setting, network.kernels, pace_hz=model.pace_hz)
                assert 0 < found.latency_us < math.inf
                assert 0 <= found.interval_us[0] <= found.latency_us <= found.interval_us[1] < math.inf


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


@settings(max_examples=250, deadline=None)
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
