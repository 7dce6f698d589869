import json
from dataclasses import replace

import numpy as np
import pytest

from latencykit import interpolation
from latencykit.baselines import Baseline
from latencykit.coverage import network_kernels
from latencykit.edges import cost
from latencykit.errors import MissingRowError, NotComparableError, UnfitError
from latencykit.kernels import Kernel
from latencykit.runtime import Setting
from latencykit.sample import sample_architectures
from latencykit.table_file import load_table, save_table, table_checksum
from nas import prices
from nas.prices import NetworkPrices, ensure_table, search_costs, validate_table, with_kernels_of
from tests.nas.tiny_run import MACRO, short_protocols

NETWORK = sample_architectures(MACRO, 1, 3)[0]


def refuse(*_, **__):
    raise AssertionError("measured again")


@pytest.fixture
def table_file(finished_run, tmp_path):
    target = tmp_path / "table.json"
    target.write_bytes((finished_run.out / "table.json").read_bytes())
    return target


def test_a_table_that_covers_the_rows_is_taken_as_it_is(table_file, monkeypatch):
    before = table_file.read_bytes()
    monkeypatch.setattr(prices, "build", refuse)
    assert ensure_table(table_file, [MACRO], [1]) == load_table(table_file)
    assert table_file.read_bytes() == before


def test_a_table_with_the_rows_edge_costs_serves_whatever_machine_it_is_of(table_file, monkeypatch):
    whole = load_table(table_file)
    foreign = replace(whole, cpu=replace(whole.cpu, model="Another CPU", isa=("sve2",)), runtime={"onnxruntime": "0.1"})
    save_table(foreign, table_file)
    for name in ("build", "space_needs"):
        monkeypatch.setattr(prices, name, refuse)
    assert ensure_table(table_file, [MACRO], [1]).cpu.model == "Another CPU"
    here, there = (search_costs(table, 1, MACRO, 30.0) for table in (whole, load_table(table_file)))
    assert (there.fixed_ms, there.residual_pct, there.pace_hz) == (here.fixed_ms, here.residual_pct, 30.0)


def lacking(table):
    """The table without edge costs and some primitives, nor the sentinels that short samples make unsteady."""
    primitives = [row for row in table.rows if row.level == "isolated"]
    gone = {row.key for row in primitives[::7]}
    rows = tuple(row for row in table.rows if row.level != "edge" and row.key not in gone)
    return replace(table, rows=rows, sentinels=())


def test_a_table_that_lacks_rows_is_completed_and_keeps_what_it_had(table_file):
    whole = load_table(table_file)
    kept = lacking(whole)
    save_table(kept, table_file)
    with short_protocols():
        completed = ensure_table(table_file, [MACRO], [1])
    assert {row.key for row in completed.rows} == {row.key for row in whole.rows}
    assert all(row in completed.rows for row in kept.rows)
    assert completed.timings == whole.timings
    assert load_table(table_file) == completed
    assert completed.has_edges(Setting(1), MACRO, None)


def test_a_lacking_table_that_a_user_named_is_not_written_to(table_file, monkeypatch):
    save_table(lacking(load_table(table_file)), table_file)
    before = table_file.read_bytes()
    monkeypatch.setattr(prices, "space_needs", refuse)
    with pytest.raises(MissingRowError, match=f"latencykit build --out {table_file} --threads 1, with --space"):
        ensure_table(table_file, [MACRO], [1], own=False)
    assert table_file.read_bytes() == before


def test_a_lacking_table_of_another_cpu_is_refused_and_left_alone(table_file):
    whole = load_table(table_file)
    save_table(replace(lacking(whole), cpu=replace(whole.cpu, model="Another CPU")), table_file)
    before = table_file.read_bytes()
    with pytest.raises(NotComparableError, match="Another CPU"):
        ensure_table(table_file, [MACRO], [1])
    assert table_file.read_bytes() == before


OTHER = replace(MACRO, cell_nodes=1)


def test_a_macro_configuration_without_stored_costs_is_priced_from_the_kernels_that_there_are(table_file, monkeypatch):
    monkeypatch.setattr(prices, "RACED_FIT_NETWORKS", 120)
    table = load_table(table_file)
    costs, price = search_costs(table, 1, OTHER, 30.0), NetworkPrices(table, 1, 30.0)
    assert costs.pace_hz == 30.0
    for network in sample_architectures(OTHER, 3, 5):
        assert costs.total_ms(network) == pytest.approx(price(network), rel=0.25)
    back_to_back = search_costs(table, 1, OTHER, 29.0)  # a rhythm that the table does not have
    assert back_to_back.pace_hz is None


def test_a_kernel_that_the_table_lacks_is_guessed_once_for_all_networks(table_file, monkeypatch):
    table, (network, other) = load_table(table_file), sample_architectures(OTHER, 2, 5)
    left_out = next(kernel for kernel in network_kernels(network) if kernel.op == "Conv")
    rows = tuple(row for row in table.rows if row.key != left_out)
    lacking = replace(table, rows=rows, networks=(), timings=())
    guessed: list[Kernel] = []
    guess = interpolation.interpolated_row
    monkeypatch.setattr(interpolation, "interpolated_row", lambda *asked: guessed.append(asked[-1]) or guess(*asked))
    price = NetworkPrices(lacking, 1, 30.0)
    first = price(network)
    assert left_out in network_kernels(other)
    assert price(other) != first
    assert price(network) == first == pytest.approx(NetworkPrices(table, 1, 30.0)(network), rel=0.1)
    assert guessed == [left_out]


def test_a_network_of_another_instruction_set_is_not_priced(table_file):
    table = load_table(table_file)
    foreign = replace(table, cpu=replace(table.cpu, isa=("sve2",)))
    for ask in (lambda: search_costs(foreign, 1, OTHER, 30.0), lambda: NetworkPrices(foreign, 1, 30.0)):
        with pytest.raises(NotComparableError, match="sve2"):
            ask()


@pytest.fixture
def validated(finished_run, tmp_path):
    """A folder with a finished validation, and the table that it is of."""
    for name in ("validation.json", "validation.png"):
        (tmp_path / name).write_bytes((finished_run.out / name).read_bytes())
    return tmp_path, load_table(finished_run.out / "table.json")


def test_a_table_of_another_machine_without_the_thread_count_says_which_it_has(table_file):
    table = load_table(table_file)
    save_table(replace(table, cpu=replace(table.cpu, model="Another")), table_file)
    with pytest.raises(NotComparableError, match="at 1 thread, pinned only, not at 2 threads, pinned: change"):
        ensure_table(table_file, [MACRO], [1, 2])


def test_more_threads_than_cores_are_refused_before_anything_is_lowered(tmp_path, monkeypatch):
    monkeypatch.setattr(prices, "space_needs", None)
    with pytest.raises(UnfitError, match="9999"):
        ensure_table(tmp_path / "new.json", [MACRO], [9999])


def test_a_validation_is_not_done_again(validated, monkeypatch):
    folder, table = validated
    monkeypatch.setattr(prices, "validate", refuse)
    validate_table(table, MACRO, 1, 2, folder)


def test_a_validation_says_which_table_it_is_of(validated):
    folder, table = validated
    found = json.loads((folder / "validation.json").read_text())
    assert (found["table_sha"], found["n"], found["threads"]) == (table_checksum(table), 2, 1)
    assert {"isolated", "kernel", "edge"} == set(found["levels"])
    assert found["levels"]["kernel"]["raw"]["mape_pct"] >= 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "validation.png").unlink(),
        lambda folder: (folder / "validation.json").unlink(),
        lambda folder: (folder / "validation.json").write_text("[]"),
        lambda folder: _change(folder / "validation.json", table_sha="another"),
        lambda folder: _change(folder / "validation.json", n=3),
        lambda folder: _change(folder / "validation.json", threads=2),
    ],
    ids=["no picture", "no figures", "no object", "another table", "another number", "other threads"],
)
def test_a_validation_is_done_again_where_it_is_missing_or_of_something_else(validated, spoil):
    folder, table = validated
    spoil(folder)
    with short_protocols():
        validate_table(table, MACRO, 1, 2, folder)
    assert (folder / "validation.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((folder / "validation.json").read_text())
    assert (found["table_sha"], found["n"], found["threads"]) == (table_checksum(table), 2, 1)


def _change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_search_is_steered_by_the_paced_costs_that_the_table_holds(finished_run, monkeypatch):
    table = load_table(finished_run.out / "table.json")
    setting = table.setting(1)
    assert table.has_edges(setting, MACRO, 30.0)
    monkeypatch.setattr("latencykit.edges.lower_samples", refuse)
    for asked, found in ((30.0, 30.0), (25.0, None)):  # where it lacks the rhythm, back to back
        costs = search_costs(table, 1, MACRO, asked)
        expected = cost(table, setting, MACRO, pace_hz=found)
        assert (costs.pace_hz, costs.level) == (found, "edge")
        assert (costs.fixed_ms, costs.residual_pct) == (expected.fixed_ms, expected.residual_pct)
        for cell_type, array in expected.edges_ms.items():
            np.testing.assert_array_equal(costs.edges_ms[cell_type], array)


def test_kernels_that_a_table_lacks_are_measured_into_a_copy(table_file, tmp_path):
    before, table = table_file.read_bytes(), load_table(table_file)
    other = Baseline(width=3, depth=2, stride=8)
    with short_protocols():
        priced = with_kernels_of(table, [NETWORK, other], [1], tmp_path / "prices.json")
    assert set(network_kernels(other)) <= {row.key for row in priced.rows}
    assert load_table(tmp_path / "prices.json") == priced
    assert table_file.read_bytes() == before
    assert with_kernels_of(table, [other], [1], tmp_path / "prices.json") == priced  # nothing is measured again


def test_a_copy_of_a_table_that_has_changed_since_is_begun_anew_with_its_kernels(table_file, tmp_path, monkeypatch):
    table, other, path = load_table(table_file), Baseline(width=3, depth=2, stride=8), tmp_path / "prices.json"
    with short_protocols():
        priced = with_kernels_of(table, [other], [1], path)
    changed = replace(table, validations=({"seed": 1},))
    monkeypatch.setattr(prices, "plan_build", None)  # nothing is measured again
    again = with_kernels_of(changed, [other], [1], path)
    assert again.validations == changed.validations
    assert set(again.rows) == set(priced.rows)
    assert load_table(path) == again
    assert with_kernels_of(changed, [other], [1], path) == again


def test_a_copy_that_was_measured_on_another_machine_is_not_taken(table_file, tmp_path):
    table = load_table(table_file)
    save_table(replace(table, cpu=replace(table.cpu, model="Another CPU")), tmp_path / "prices.json")
    with pytest.raises(NotComparableError, match="another CPU"):
        with_kernels_of(table, [NETWORK], [1], tmp_path / "prices.json")


def test_a_table_of_another_machine_is_priced_with_as_it_is(table_file, tmp_path):
    table = load_table(table_file)
    foreign = replace(table, cpu=replace(table.cpu, model="Another CPU"))
    assert with_kernels_of(foreign, [NETWORK], [1], tmp_path / "prices.json") == foreign
    assert not (tmp_path / "prices.json").exists()
