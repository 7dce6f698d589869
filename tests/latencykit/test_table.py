import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latencykit.baselines import Baseline
from latencykit.calibration import CostModel, NetworkTiming
from latencykit.errors import InputError, MissingRowError, NotComparableError
from latencykit.keys import Edge, Primitive, key_id
from latencykit.measurement import Measurement
from latencykit.runtime import Setting
from latencykit.sample import sample_architectures
from latencykit.spec import Conv, Zero
from latencykit.table import (
    FRAME_COLUMNS,
    LoweredNetwork,
    Row,
    Sentinel,
    Table,
    defined_row,
    make_row,
    model_id,
    network_id,
)
from tests.latencykit.made_up import CPU, ONE, RUNTIME, TINY, TWO, made_up_table, relu_kernel, steady

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


def test_lowering_for_another_instruction_set_or_runtime_is_refused(table: Table):
    table.require_same_kernels(dataclasses.replace(CPU, model="Another", physical_cores=64), RUNTIME)
    table.require_same_kernels(dataclasses.replace(CPU, isa=("avx2", "avx_vnni", "avx512_bf16")), RUNTIME)
    with pytest.raises(NotComparableError, match=r"CPU with avx2, this one has avx2, avx512f: .*kit make"):
        table.require_same_kernels(dataclasses.replace(CPU, isa=("avx2", "avx512f")), RUNTIME)
    with pytest.raises(NotComparableError, match=r"avx2, this one has none"):
        table.require_same_kernels(dataclasses.replace(CPU, isa=()), RUNTIME)
    with pytest.raises(NotComparableError, match=r"onnxruntime 1\.32\.0, this is 1\.33\.0: .*kit make"):
        table.require_same_kernels(CPU, {**RUNTIME, "onnxruntime": "1.33.0"})


# Networks, timings, models, edges


A_MODEL = CostModel(ONE, None, {"sum_us": 1.0}, ((1.0,),), 1.0, 1.0, 9)
A_NETWORK = LoweredNetwork("a", None, {relu_kernel(2): 1})
A_TIMING = NetworkTiming(ONE, None, "a", (5.0,))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"timings": (dataclasses.replace(A_TIMING, network="b"),)}, "a timing of b, a network that is not listed"),
        ({"timings": (A_TIMING, A_TIMING)}, "timed twice"),
        ({"timings": (dataclasses.replace(A_TIMING, setting=Setting(3)),)}, "a timing of 3 threads, pinned, a setting"),
        ({"models": (A_MODEL, A_MODEL)}, "two cost models"),
        ({"models": (dataclasses.replace(A_MODEL, setting=Setting(3)),)}, "a cost model of 3 threads, pinned, a"),
        ({"sentinels": (Sentinel(Setting(3), (1.0,)),)}, "a sentinel of 3 threads, pinned, a setting"),
        ({"networks": (A_NETWORK, A_NETWORK)}, "listed twice"),
        ({"networks": (A_NETWORK, LoweredNetwork("b", None, {relu_kernel(99): 1}))}, "Relu 1x99x8x8, a kernel without"),
        ({"runtime": {"python": "3.11"}}, "names no version of onnxruntime"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(table: Table, change: dict[str, Any], words: str):
    whole = dataclasses.replace(table, networks=(A_NETWORK,), timings=(A_TIMING,), models=(A_MODEL,))
    with pytest.raises(InputError, match=words):
        dataclasses.replace(whole, **change)


@pytest.mark.parametrize("count", [0, -1, 20_001, 10**400])
def test_a_kernel_runs_a_plausible_number_of_times(count: int):
    with pytest.raises(InputError, match="expected 1 to 20000"):
        LoweredNetwork("a", None, {relu_kernel(2): count})


@pytest.mark.parametrize("name", ["", "x" * 1001, "a\x1b[31m", "two\nlines"])
def test_a_network_has_a_name_that_can_be_printed(name: str):
    with pytest.raises(InputError, match="expected a name"):
        LoweredNetwork(name, None, {})


def test_networks_and_models_are_named_after_their_content():
    first, second = sample_architectures(TINY, 2, seed=3)
    names = [network_id(first), network_id(second), network_id(Baseline()), model_id(b"a"), model_id(b"b")]
    assert len(set(names)) == 5
    assert network_id(dataclasses.replace(first)) == names[0]
    assert [name.partition("-")[0] for name in names] == ["network"] * 3 + ["model"] * 2


def test_what_a_table_has_is_found_by_name_setting_and_rhythm(table: Table):
    paced = dataclasses.replace(A_MODEL, pace_hz=30.0)
    edge = Row(Edge(TINY, None, 0, "", 30.0), ONE, "fitted", 0, 0, 0, None, 7.0)
    whole = dataclasses.replace(table, networks=(A_NETWORK,), models=(A_MODEL, paced)).with_rows([edge])
    assert (whole.network("a"), whole.network("b")) == (A_NETWORK, None)
    assert (whole.model(ONE, None), whole.model(ONE, 30.0)) == (A_MODEL, paced)
    assert (whole.model(TWO, None), whole.model(ONE, 25.0)) == (None, None)
    asked = [
        (ONE, TINY, 30.0),
        (ONE, TINY, None),
        (TWO, TINY, 30.0),
        (ONE, dataclasses.replace(TINY, head="depth_to_space"), 30.0),
    ]
    assert [whole.has_edges(*one) for one in asked] == [True, False, False, False]


def test_the_reference_is_the_best_state_of_a_setting(table: Table):
    more = table.with_rows([], [Sentinel(ONE, (98.5, 120.0)), Sentinel(TWO, (70.0,)), Sentinel(ONE, (9.0,), "network")])
    assert (more.reference_us(ONE), more.reference_us(TWO), table.reference_us(TWO)) == (98.5, 70.0, None)
    assert (more.reference_us(ONE, "network"), more.reference_us(TWO, "network")) == (9.0, None)


def test_a_fitted_row_s_error_is_that_of_its_fit():
    row = Row(Edge(TINY, None, 0, ""), ONE, "fitted", 0, 0, 0, None, 7.0, 1.5)
    assert (row.level, row.median_us, row.interval_us, row.error_pct) == ("edge", 7.0, (7.0, 7.0), 1.5)
    for change in (
        {"value_us": float("nan")},
        {"value_us": 1e300},
        {"residual_pct": -1.0},
        {"macs": -1},
        {"bytes": 2**63},
    ):
        with pytest.raises(InputError, match="expected"):
            dataclasses.replace(row, **change)
