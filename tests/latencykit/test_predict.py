"""From rows to a network's latency: plain sums, calibrated ones, guesses, and what is refused."""

import dataclasses
from pathlib import Path

import pytest

from latencykit.calibration import features
from latencykit.commands.options import kernels_for, lowered_model
from latencykit.coverage import network_kernels
from latencykit.errors import InputError, MissingRowError, NotComparableError
from latencykit.graph import chain
from latencykit.instructions import used_cpu
from latencykit.interpolation import interpolated_row
from latencykit.kernels import CALL_OVERHEAD
from latencykit.keys import Primitive
from latencykit.measurement import Measurement
from latencykit.predict import latencies_us, network_features, predict_graph, predict_isolated, predict_kernels
from latencykit.runtime import runtime_version
from latencykit.sample import sample_architectures
from latencykit.space import instantiate
from latencykit.spec import Conv, Identity
from latencykit.table import LoweredNetwork, Row, Table, defined_row, make_row, model_id, network_id
from tests.latencykit.made_up import (
    MAPS,
    ONE,
    TINY,
    TWO,
    calibrated_table,
    drawn_networks,
    made_up_table,
    map_kernel,
    planted_us,
    relu_kernel,
)

A, B = relu_kernel(2), relu_kernel(4)


# Plain sums


def test_a_missing_kernel_is_an_error_and_costs_nothing_by_default():
    with pytest.raises(MissingRowError, match="1x16x8x8"):
        predict_kernels(made_up_table({A: 5.0}), ONE, [A, relu_kernel(16)])


def test_a_table_without_the_call_s_overhead_predicts_nothing():
    rows = [row for row in made_up_table({A: 5.0}).rows if row.key != CALL_OVERHEAD]
    table = dataclasses.replace(made_up_table({}), rows=tuple(rows))
    with pytest.raises(MissingRowError, match="Identity 1x1x1x1"):
        predict_kernels(table, ONE, [A])


def test_no_kernels_cost_one_call():
    found = predict_kernels(made_up_table({}), ONE, [])
    assert (found.latency_us, found.coverage_pct, found.shares) == (2.0, 100, ())


def test_a_network_is_the_overhead_once_and_its_kernels_without_it():
    found = predict_kernels(made_up_table({A: 5.0, B: 9.0}), ONE, [A, B, A])
    assert found.latency_us == 2 + (5 - 2) + (9 - 2) + (5 - 2)
    assert [(share.row.key, share.count, share.cost_us) for share in found.shares] == [(B, 1, 7.0), (A, 2, 6.0)]
    assert found.interval_us == (15.0, 15.0)
    assert (found.raw_us, found.calibrated, found.coverage_pct) == (15.0, False, 100)
    assert predict_kernels(made_up_table({A: 5.0, B: 9.0}), ONE, {A: 2, B: 1}) == found


def test_a_prediction_states_its_work():
    found = predict_kernels(made_up_table({A: 5.0, B: 9.0}), ONE, {A: 2, B: 1})
    assert found.macs == 2 * A.macs + B.macs
    assert found.parameters == 2 * A.parameters + B.parameters
    assert found.moved_bytes == 2 * A.moved_bytes + B.moved_bytes == 2 * 2 * 2 * 256 + 2 * 4 * 256


def test_a_kernel_faster_than_the_overhead_costs_nothing_rather_than_less():
    assert predict_kernels(made_up_table({A: 1.5, B: 9.0}), ONE, [A, B]).latency_us == 2 + 7


def test_the_interval_sums_the_ends_of_the_rows():
    rows = made_up_table({}).with_rows([make_row(A, ONE, Measurement(((4.0,) * 3, (5.0,) * 3, (7.0,) * 3)))])
    found = predict_kernels(rows, ONE, [A, A])
    assert found.latency_us == 2 + 2 * 3
    assert found.interval_us == (2 + 2 * 2, 2 + 2 * 5)


def test_only_measured_rows_hold_the_overhead():
    table = made_up_table({}).with_rows([Row(A, ONE, "fitted", 0, 0, 0, value_us=5.0)])
    found = predict_kernels(table, ONE, [A])
    assert (found.latency_us, found.interval_us) == (7.0, (7.0, 7.0))


def test_settings_have_costs_of_their_own():
    table = made_up_table({A: 5.0}).with_rows(made_up_table({A: 9.0}, (TWO,)).rows)
    assert predict_kernels(table, ONE, [A]).latency_us == 5
    assert predict_kernels(table, TWO, [A]).latency_us == 9


def test_the_isolated_sum_is_over_the_primitives():
    shape = (2, 8, 8)
    separable = Primitive((Conv(2, groups=2, norm=False, activation="none"), Conv(2, kernel=1)), (shape,))
    table = made_up_table({separable: 10.0})
    assert predict_isolated(table, ONE, chain(separable.operations, (shape,))).latency_us == 10.0
    with pytest.raises(MissingRowError):
        predict_isolated(table, ONE, chain([Conv(2)], (shape,)))


def test_what_is_defined_to_cost_nothing_costs_nothing():
    identity = Primitive((Identity(),), ((2, 8, 8),))
    table = made_up_table({}).with_rows([defined_row(identity, ONE)])
    assert predict_isolated(table, ONE, chain([Identity()], [(2, 8, 8)])).latency_us == 2.0


def test_a_graph_costs_what_its_kernels_cost(tiny_table: Table):
    (architecture,) = sample_architectures(TINY, 1, seed=3)
    kernels = network_kernels(architecture)
    assert predict_graph(tiny_table, ONE, instantiate(architecture)) == predict_kernels(tiny_table, ONE, kernels)
    paced = predict_graph(tiny_table, ONE, instantiate(architecture), pace_hz=30.0)
    assert paced == predict_kernels(tiny_table, ONE, kernels, pace_hz=30.0) != predict_kernels(tiny_table, ONE, kernels)


# Calibrated


@pytest.fixture(scope="module")
def calibrated() -> Table:
    return calibrated_table(0.01)


def test_a_calibrated_figure_stands_beside_the_plain_sum(calibrated: Table):
    for network in drawn_networks(20, 99):
        found = predict_kernels(calibrated, ONE, network)
        plain = predict_kernels(dataclasses.replace(calibrated, models=()), ONE, network)
        assert (found.calibrated, plain.calibrated) == (True, False)
        assert found.raw_us == plain.raw_us == plain.latency_us
        assert found.shares == plain.shares
        assert found.latency_us == pytest.approx(planted_us(network_features(calibrated, ONE, network)), rel=0.03)
        assert found.latency_us > 1.05 * found.raw_us
        assert found.interval_us[0] < found.latency_us < found.interval_us[1]


def test_it_is_the_model_s_figure_and_interval_for_the_kernels(calibrated: Table):
    network = drawn_networks(1, 99)[0]
    costs = [(kernel, count, calibrated.row(ONE, kernel).median_us - 2) for kernel, count in network.items()]
    model, seen = calibrated.model(ONE, None), features(costs, calibrated.cpu.l2_bytes)
    assert model is not None
    assert network_features(calibrated, ONE, network) == pytest.approx(seen)
    found = predict_kernels(calibrated, ONE, network)
    assert found.latency_us == pytest.approx(model.latency_us(seen))
    assert found.interval_us == pytest.approx(model.interval_us(seen))


def test_a_pace_has_a_model_of_its_own(calibrated: Table):
    network = drawn_networks(1, 99)[0]
    paced, back_to_back = (predict_kernels(calibrated, ONE, network, pace_hz=pace) for pace in (30.0, None))
    assert paced.latency_us == pytest.approx(1.2 * back_to_back.latency_us, rel=0.03)
    assert paced.raw_us == back_to_back.raw_us


@pytest.mark.parametrize("pace_hz", [None, 30.0])
def test_many_networks_at_once_are_predicted_as_each_by_itself(calibrated: Table, pace_hz: float | None):
    networks = [*drawn_networks(12, 99), {MAPS[0]: 3}]
    alone = [predict_kernels(calibrated, ONE, network, pace_hz=pace_hz).latency_us for network in networks]
    assert latencies_us(calibrated, ONE, networks, pace_hz) == pytest.approx(alone)
    plain = dataclasses.replace(calibrated, models=())
    raw = [predict_kernels(plain, ONE, network).latency_us for network in networks]
    assert latencies_us(plain, ONE, networks) == pytest.approx(raw)
    with pytest.raises(MissingRowError, match="1x16x8x8"):
        latencies_us(calibrated, ONE, [*networks, {relu_kernel(16): 1}], pace_hz)
    with pytest.raises(MissingRowError, match="not calibrated for 25 calls"):
        latencies_us(calibrated, ONE, networks, 25.0)


@pytest.mark.parametrize("pace_hz", [25.0, 30.0])
def test_a_pace_without_a_model_is_an_error_that_names_measure_and_build(pace_hz: float):
    table = dataclasses.replace(calibrated_table(pace=0), path=Path("luts/mine.json"))
    with pytest.raises(MissingRowError) as caught:
        predict_kernels(table, ONE, drawn_networks(1, 99)[0], pace_hz=pace_hz)
    for words in (
        f"not calibrated for {pace_hz:g} calls a second at 1 thread, pinned",
        f"latencykit measure MODEL --pace {pace_hz:g}",
        "latencykit build --out luts/mine.json --threads 1",
    ):
        assert words in str(caught.value)


def test_a_setting_is_predicted_by_its_own_model():
    rows, one = made_up_table(dict.fromkeys(MAPS, 9.0), (TWO,)).rows, calibrated_table()
    both = one.with_rows(rows)
    network = drawn_networks(1, 99)[0]
    assert predict_kernels(both, ONE, network) == predict_kernels(one, ONE, network)
    assert not predict_kernels(both, TWO, network).calibrated


def test_a_missing_kernel_is_an_error_of_a_calibrated_table_too(calibrated: Table):
    with pytest.raises(MissingRowError, match=r"1x16x8x8[^~]*--threads 1 --add m\.onnx$"):
        predict_kernels(calibrated, ONE, [*MAPS, relu_kernel(16)], remedy="--add m.onnx")


# Interpolated

UNSEEN = map_kernel(8, 96)


def test_a_guess_is_marked_counted_and_widens_the_interval(calibrated: Table):
    network = {**drawn_networks(1, 99)[0], UNSEEN: 3}
    with pytest.raises(MissingRowError, match="1x8x96x96"):
        predict_kernels(calibrated, ONE, network)
    found = predict_kernels(calibrated, ONE, network, interpolate=True)
    (share,) = [share for share in found.shares if share.row.origin == "interpolated"]
    row = interpolated_row(calibrated, ONE, UNSEEN)
    assert (share.row, share.count, share.cost_us) == (row, 3, 3 * row.median_us)  # without a call's overhead already
    runs = sum(network.values())
    assert found.coverage_pct == pytest.approx(100 * (runs - 3) / runs)
    known = predict_kernels(calibrated.with_rows([dataclasses.replace(row, origin="fitted")]), ONE, network)
    assert found.latency_us == pytest.approx(known.latency_us)
    unsure = 3 * row.median_us * row.residual_pct / 100
    assert unsure > 0
    assert found.interval_us[0] == pytest.approx(known.interval_us[0] - unsure)
    assert found.interval_us[1] == pytest.approx(known.interval_us[1] + unsure)


def test_a_guess_widens_a_plain_sum_too(calibrated: Table):
    plain = dataclasses.replace(calibrated, models=())
    found = predict_kernels(plain, ONE, {UNSEEN: 1}, interpolate=True)
    row = interpolated_row(plain, ONE, UNSEEN)
    assert (found.latency_us, found.coverage_pct) == (2 + row.median_us, 0)
    low, high = found.interval_us
    assert high - found.latency_us == pytest.approx(row.median_us * row.residual_pct / 100)
    assert found.latency_us - low == pytest.approx(high - found.latency_us)


def test_an_interval_widened_beyond_all_stays_above_nothing():
    table = made_up_table({k: 2.0 + 10.0 ** (index % 5) for index, k in enumerate(MAPS)})
    assert predict_kernels(table, ONE, {UNSEEN: 1}, interpolate=True).interval_us[0] == 0


def test_nothing_is_guessed_where_everything_is_known(calibrated: Table):
    network = drawn_networks(1, 99)[0]
    assert predict_kernels(calibrated, ONE, network, interpolate=True) == predict_kernels(calibrated, ONE, network)


def test_a_kernel_without_rows_of_its_kind_cannot_be_guessed(calibrated: Table):
    sigmoid = dataclasses.replace(UNSEEN, op="Sigmoid")
    with pytest.raises(MissingRowError, match="0 rows of its kind; 6 are needed to interpolate"):
        predict_kernels(calibrated, ONE, [sigmoid], interpolate=True)


# What a table brought along


@pytest.fixture
def files(tiny_network: bytes, tmp_path: Path) -> tuple[Path, Path]:
    """An architecture and an ONNX file."""
    from latencykit.architecture import write_architecture

    write_architecture(tmp_path / "a.json", sample_architectures(TINY, 1, seed=3)[0])
    (tmp_path / "m.onnx").write_bytes(tiny_network)
    return tmp_path / "a.json", tmp_path / "m.onnx"


def test_a_file_is_lowered_here_under_the_name_that_it_is_looked_up_by(files: tuple[Path, Path], tiny_network: bytes):
    architecture, model = map(lowered_model, files)
    pair = sample_architectures(TINY, 1, seed=3)[0]
    assert (architecture.id, architecture.network) == (network_id(pair), pair)
    assert (model.id, model.network) == (model_id(tiny_network), None)
    assert dict(architecture.kernels) == dict(model.kernels) == dict(network_kernels(pair))


def test_what_a_foreign_table_brought_is_taken_as_it_is(files: tuple[Path, Path], tiny_table: Table, monkeypatch):
    def refused(*_: object) -> None:
        raise AssertionError("it was lowered here")

    foreign = dataclasses.replace(tiny_table.cpu, isa=("sve",), model="Another")
    pair = sample_architectures(TINY, 1, seed=3)[0]
    names = network_id(pair), model_id(files[1].read_bytes())
    brought = tuple(LoweredNetwork(name, None, {CALL_OVERHEAD: 3 + n}) for n, name in enumerate(names))
    table = dataclasses.replace(tiny_table, cpu=foreign, networks=(*tiny_table.networks, *brought))
    monkeypatch.setattr("latencykit.commands.options.lowered_model", refused)
    assert [kernels_for(table, path) for path in files] == [{CALL_OVERHEAD: 3}, {CALL_OVERHEAD: 4}]
    bare = dataclasses.replace(table, networks=tiny_table.networks)
    for path in files:
        with pytest.raises(NotComparableError, match="sve"):
            kernels_for(bare, path)


def test_a_model_of_the_same_instructions_and_runtime_is_lowered_here(files: tuple[Path, Path], tiny_table: Table):
    other = dataclasses.replace(tiny_table.cpu, model="Another", physical_cores=64)
    table = dataclasses.replace(tiny_table, cpu=other)
    expected = dict(network_kernels(sample_architectures(TINY, 1, seed=3)[0]))
    assert [dict(kernels_for(table, path)) for path in files] == [expected] * 2
    assert (table.cpu.isa, table.runtime["onnxruntime"]) == (used_cpu().isa, runtime_version())
    older = dataclasses.replace(table, runtime={**table.runtime, "onnxruntime": "1.0.0"})
    with pytest.raises(NotComparableError, match=r"onnxruntime 1\.0\.0"):
        kernels_for(older, files[1])


def test_a_file_that_is_no_model_is_bad_input(tiny_table: Table, tmp_path: Path):
    (tmp_path / "bad.onnx").write_bytes(b"my thesis")
    (tmp_path / "bad.json").write_text("my thesis")
    for name in ("bad.onnx", "bad.json", "missing.onnx", "missing.json"):
        with pytest.raises(InputError, match=name):
            kernels_for(tiny_table, tmp_path / name)
