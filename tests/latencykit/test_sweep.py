"""Building a table: on made-up measuring processes, and killed for real in the middle."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from latencykit import sweep
from latencykit.baselines import Baseline
from latencykit.bench import SENTINEL_ID, Sample
from latencykit.calibrate import SpaceNeeds, fit_table, space_needs
from latencykit.checks import Reason
from latencykit.doctor import Verdict
from latencykit.errors import InputError, InterruptedRunError, LatencyKitError, NotComparableError
from latencykit.kernels import CALL_OVERHEAD
from latencykit.keys import Key, Primitive, key_id
from latencykit.lowering import graph_to_onnx
from latencykit.runtime import Setting, runtime_version
from latencykit.sample import sample_architectures
from latencykit.space import instantiate
from latencykit.spec import Conv, Identity
from latencykit.sweep import (
    KEPT_SENTINELS,
    PACE_HZ,
    Built,
    Journal,
    Plan,
    build,
    key_model,
    network_model,
    network_protocol,
    plan_build,
    timing_id,
)
from latencykit.table import LoweredNetwork, network_id
from latencykit.table_file import load_table, save_table, table_checksum
from tests.latencykit.made_up import (
    CPU,
    ONE,
    ONE_NODE,
    QUICK,
    TINY_JSON,
    FakeWorkers,
    State,
    made_up_table,
    relu_kernel,
)

FIT = Verdict(True, (), CPU)
CONV = Primitive((Conv(4),), ((2, 8, 8),))
IDENTITY = Primitive((Identity(),), ((2, 8, 8),))
KEYS: list[Key] = [CALL_OVERHEAD, relu_kernel(2), relu_kernel(4), CONV, IDENTITY]
TIMED = 4  # all but the identity
RUNTIME = {"onnxruntime": runtime_version()}


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeWorkers:
    return FakeWorkers(tmp_path, monkeypatch)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "luts" / "table.json"


def journal_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.journal")


def make(out: Path, keys: list[Key] = KEYS, settings: tuple[Setting, ...] = (ONE,), **changes: Any) -> Built:
    return build(out, plan_build(out, settings, keys), **{"verdict": FIT, "protocol": QUICK, **changes})


def entries(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text().splitlines()[1:]]


def stop_after(count: int, error: type[BaseException] = KeyboardInterrupt):
    """Something to advance that raises at the n-th sample set."""
    seen: list[str] = []

    def advance(name: str) -> None:
        seen.append(name)
        if len(seen) == count:
            raise error

    return advance


def test_nothing_wanted_gives_a_table_without_rows(out: Path, workers: FakeWorkers):
    built = make(out, [])
    assert (built.measured, built.reused, built.table.rows) == (0, 0, ())
    assert workers.orders == []


def test_what_a_plan_wants_and_misses(out: Path):
    plan = plan_build(out, (ONE, Setting(2)), [*KEYS, KEYS[0]])
    assert plan.table is None
    assert len(plan.wanted) == len(plan.missing) == 2 * len(KEYS)
    assert plan.estimate_s(QUICK) > 0
    out.parent.mkdir()
    save_table(made_up_table({KEYS[1]: 5.0}), out)
    assert plan_build(out, (ONE,), KEYS).missing == tuple((ONE, key) for key in KEYS[2:])


def test_a_file_that_is_no_table_is_not_overwritten(out: Path):
    out.parent.mkdir()
    out.write_text("my thesis")
    with pytest.raises(InputError, match=r"table\.json"):
        plan_build(out, (ONE,), KEYS)
    assert out.read_text() == "my thesis"


def test_a_build_measures_every_row_in_every_process(out: Path, workers: FakeWorkers):
    seen: list[str] = []
    built = make(out, advance=seen.append)
    assert (built.measured, built.reused, built.networks, built.repeated) == (len(KEYS), 0, 0, 0)
    assert [sorted(order) for order in workers.orders] == [sorted(key_id(key) for key in KEYS[:TIMED])] * 2
    assert Counter(seen) == {key_id(key): 2 for key in KEYS[:TIMED]}
    table = load_table(out)
    assert [row.key for row in table.rows] == KEYS
    assert [row.origin for row in table.rows] == ["measured"] * TIMED + ["defined"]
    assert {row.measurement.processes for row in table.rows if row.measurement} == {2}
    assert [(sentinel.setting, set(sentinel.medians_us)) for sentinel in table.sentinels] == [(ONE, {50.0})]
    assert table == built.table
    assert table.doctor["fit"] is True
    assert not journal_of(out).exists()
    assert built.timed_s <= built.wall_s


def test_a_second_build_measures_nothing_and_leaves_the_table_as_it_was(out: Path, workers: FakeWorkers):
    make(out)
    before, processes = out.read_bytes(), len(workers.orders)
    built = make(out)
    assert (built.measured, built.reused) == (0, len(KEYS))
    assert len(workers.orders) == processes
    assert out.read_bytes() == before


def test_a_table_is_completed_with_what_it_misses(out: Path, workers: FakeWorkers):
    make(out, KEYS[:2])
    built = make(out)
    assert (built.measured, built.reused) == (3, 2)
    assert not {key_id(key) for key in KEYS[:2]} & set(workers.orders[-1])
    assert {row.key for row in built.table.rows} == set(KEYS)


def test_keys_that_need_no_clock_start_no_process(out: Path, workers: FakeWorkers):
    assert make(out, [IDENTITY]).measured == 1
    assert workers.orders == []


def test_the_table_of_another_cpu_or_runtime_is_refused_before_anything_runs(out: Path, workers: FakeWorkers):
    make(out, KEYS[:2])
    with pytest.raises(NotComparableError, match="another CPU"):
        make(out, verdict=Verdict(True, (), dataclasses.replace(CPU, model="Another")))
    table = load_table(out)
    save_table(dataclasses.replace(table, runtime={**table.runtime, "onnxruntime": "1.0.0"}), out)
    with pytest.raises(NotComparableError, match=r"onnxruntime 1\.0\.0"):
        make(out)
    assert len(workers.orders) == 2


def test_ctrl_c_keeps_the_journal_and_the_same_call_goes_on(out: Path, workers: FakeWorkers):
    with pytest.raises(InterruptedRunError, match=r"journal.*same command resumes"):
        make(out, advance=stop_after(5))
    assert not out.exists()
    kept = {(entry["sample"]["id"], entry["sample"]["process"]) for entry in entries(journal_of(out))}
    assert len(kept) == 5
    seen: list[str] = []
    built = make(out, advance=seen.append)
    assert len(seen) == 2 * TIMED
    assert {row.measurement.processes for row in built.table.rows if row.measurement} == {2}
    assert workers.orders[2] == [SENTINEL_ID]  # before anything is measured again
    again = [name for order in workers.orders[3:] for name in order]
    assert len(again) == 2 * TIMED - 5
    assert not journal_of(out).exists()


def test_any_other_end_keeps_the_journal_too(out: Path, workers: FakeWorkers):
    with pytest.raises(ZeroDivisionError):
        make(out, advance=stop_after(3, ZeroDivisionError))
    assert len(entries(journal_of(out))) == 3
    assert make(out).table.rows


def test_a_measuring_process_that_dies_keeps_what_came_before(tmp_path, out, monkeypatch: pytest.MonkeyPatch):
    FakeWorkers(tmp_path, monkeypatch, "if index == 3: os.kill(os.getpid(), 9)")
    with pytest.raises(LatencyKitError, match="ended with -9"):
        make(out)
    assert len(entries(journal_of(out))) == 3


def test_a_build_removes_what_a_killed_one_left_and_leaves_nothing_but_the_table(out: Path, workers: FakeWorkers):
    out.parent.mkdir()
    left = [out.with_name(".table.json.abc.tmp"), out.with_name(".table.json.journal.def.tmp")]
    left[0].write_text("half a table")
    left[1].mkdir()
    (left[1] / "kernel.onnx").write_text("")
    make(out)
    assert list(out.parent.iterdir()) == [out]


def test_rows_that_need_no_measuring_again_lie_in_another_setting(out: Path, workers: FakeWorkers):
    make(out, KEYS[:2])
    plan = plan_build(out, (ONE, dataclasses.replace(ONE, spinning=False)), KEYS[:2])
    built = build(out, plan, FIT, QUICK)
    assert (built.measured, built.reused) == (2, 2)
    assert len(built.table.settings) == 2


def test_a_resumed_build_measures_its_sentinel_first_and_refuses_another_answer(tmp_path, out, monkeypatch):
    FakeWorkers(tmp_path, monkeypatch)
    with pytest.raises(InterruptedRunError):
        make(out, advance=stop_after(3))
    monkeypatch.setattr("latencykit.bench.PATIENCE_S", 0.0)
    for name, state, percent in (("slower", 70.0, "40"), ("faster", 30.0, "-40")):
        workers = FakeWorkers(tmp_path / name, monkeypatch, states=[state])
        with pytest.raises(
            NotComparableError, match=rf"took 50\.0 us before and takes {state:.1f} us now \(.?{percent} %"
        ):
            make(out)
        assert set(map(tuple, workers.orders)) == {(SENTINEL_ID,)}
        assert len(entries(journal_of(out))) == 3
    FakeWorkers(tmp_path / "alike", monkeypatch, states=[56.0])
    assert make(out).measured == len(KEYS)


def test_an_extension_measures_the_tables_sentinel_first_and_keeps_both_verdicts(tmp_path, out, monkeypatch):
    FakeWorkers(tmp_path, monkeypatch)
    first = make(out)
    monkeypatch.setattr("latencykit.bench.PATIENCE_S", 0.0)
    FakeWorkers(tmp_path / "slower", monkeypatch, states=[70.0])
    more = [*KEYS, relu_kernel(77)]
    with pytest.raises(NotComparableError, match=r"before and takes 70\.0"):
        make(out, keys=more)
    FakeWorkers(tmp_path / "alike", monkeypatch, states=[55.0])
    unfit = Verdict(False, (Reason("other-load", 90.0, "at most 10 %", "stop it", True),), CPU)
    second = make(out, keys=more, verdict=unfit)
    assert second.table.parents == (table_checksum(first.table),)
    assert second.table.doctor["fit"] is False
    assert [reason["code"] for reason in second.table.doctor["reasons"]][-1] == "other-load"
    assert second.drift_pct == pytest.approx(10)
    assert [set(sentinel.medians_us) for sentinel in second.table.sentinels] == [{50.0}, {55.0}]


# The state of the machine


def rows_by_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, states: list[State]) -> FakeWorkers:
    monkeypatch.setattr("latencykit.bench.PATIENCE_S", 0.0)
    return FakeWorkers(tmp_path, monkeypatch, 'result["samples_us"] = [state] * len(samples)', states)


def test_samples_of_another_state_are_taken_again_counted_and_the_steadiest_kept(tmp_path, out, monkeypatch):
    workers = rows_by_state(tmp_path, monkeypatch, [50.0, 80.0, 50.0, 51.0])
    seen: list[str] = []
    built = make(out, advance=seen.append)
    assert built.repeated == TIMED
    assert len(seen) == 2 * TIMED  # progress counts them once
    assert [order == [SENTINEL_ID] for order in workers.orders] == [False, False, True, False]
    assert {row.measurement.process_medians_us for row in built.table.rows if row.measurement} == {(50.0, 51.0)}
    (sentinel,) = built.table.sentinels
    assert set(sentinel.medians_us) == {50.0, 51.0}
    assert built.drift_pct == pytest.approx(2)


def test_a_resumed_build_takes_unsteady_samples_of_its_journal_again(tmp_path, out, monkeypatch):
    rows_by_state(tmp_path, monkeypatch, [50.0, 80.0])
    with pytest.raises(InterruptedRunError):
        make(out, advance=stop_after(2 * TIMED))
    workers = rows_by_state(tmp_path / "back", monkeypatch, [50.0])
    built = make(out)
    assert [sorted(order) for order in workers.orders] == [
        [SENTINEL_ID],
        sorted(key_id(key) for key in KEYS[:TIMED]),
    ]
    assert built.repeated == TIMED
    assert {row.measurement.process_medians_us for row in built.table.rows if row.measurement} == {(50.0, 50.0)}


def test_what_an_extension_measures_is_held_against_the_table_s_own_sentinel(tmp_path, out, monkeypatch):
    rows_by_state(tmp_path, monkeypatch, [50.0])
    make(out)
    rows_by_state(tmp_path / "later", monkeypatch, [52.0, 61.0, 61.0, 53.0])
    built = make(out, [*KEYS, relu_kernel(77)])
    assert built.repeated == 2
    row = built.table.row(ONE, relu_kernel(77))
    assert row.measurement.process_medians_us == (53.0, 53.0)


def test_of_many_sentinels_some_are_kept_evenly(tmp_path, out, monkeypatch):
    keys = [relu_kernel(n) for n in range(1, 131)]
    rows_by_state(tmp_path, monkeypatch, [50.0, 56.0])
    built = make(out, keys)
    (sentinel,) = built.table.sentinels
    assert KEPT_SENTINELS / 2 < len(sentinel.medians_us) <= KEPT_SENTINELS
    assert 0.4 < sum(figure == 50.0 for figure in sentinel.medians_us) / len(sentinel.medians_us) < 0.6


# Timings of whole networks


PAIRS = [*sample_architectures(ONE_NODE, 3, 3), Baseline(2, 1, 1, 2, 32)]
NETWORKS = [LoweredNetwork(network_id(pair), pair, {KEYS[1]: 2, KEYS[2]: 1}) for pair in PAIRS]
NAMES = [network.id for network in NETWORKS]
PACED = [f"{NAMES[0]}@30", f"{NAMES[2]}@30"]
BY_KIND = (
    'result["samples_us"] = [900.0 if "@" in item["id"] else 700.0 if "network" in item["id"] else 5.0] * len(samples)'
)


def calibrate(
    out: Path, networks: Sequence[LoweredNetwork] = NETWORKS, added: Sequence[LoweredNetwork] = (), **changes: Any
) -> Built:
    plan = plan_build(out, changes.pop("settings", (ONE,)), changes.pop("keys", KEYS), networks, added)
    return build(out, plan, **{"verdict": FIT, "protocol": QUICK, **changes})


@pytest.fixture(autouse=True)
def short() -> Iterator[None]:
    """Calibration networks in two processes, paced ones in one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "CALIBRATION_PROTOCOL", QUICK)
        patch.setattr(sweep, "PACED_PROTOCOL", dataclasses.replace(QUICK, processes=1))
        yield


def test_every_network_is_timed_back_to_back_and_every_second_one_paced(tmp_path, out, monkeypatch):
    workers = FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    seen: list[str] = []
    plan = plan_build(out, (ONE,), KEYS, NETWORKS)
    assert plan.untimed == tuple(
        [(ONE, None, name) for name in NAMES] + [(ONE, PACE_HZ, NAMES[0]), (ONE, PACE_HZ, NAMES[2])]
    )
    built = build(out, plan, FIT, QUICK, seen.append)
    assert (built.measured, built.networks) == (len(KEYS), 6)
    assert [sorted(order) for order in workers.orders[2:]] == [sorted(NAMES), sorted(NAMES), sorted(PACED)]
    assert Counter(seen) == {
        **dict.fromkeys([key_id(key) for key in KEYS[:TIMED]], 2), **dict.fromkeys(NAMES, 2), **dict.fromkeys(PACED, 1),
    }  # fmt: skip
    assert len(seen) == plan.sample_sets(QUICK)
    table = load_table(out)
    assert table == built.table
    assert {(t.network, t.pace_hz): t.medians_us for t in table.timings} == {
        **{(name, None): (700.0, 700.0) for name in NAMES}, **{(NAMES[n], 30.0): (900.0,) for n in (0, 2)},
    }  # fmt: skip
    assert list(table.networks) == NETWORKS
    assert not journal_of(out).exists()


def test_networks_are_timed_under_every_setting(tmp_path, out, monkeypatch):
    FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    slow = dataclasses.replace(ONE, spinning=False)
    built = calibrate(out, settings=(ONE, slow))
    assert Counter((t.setting, t.pace_hz) for t in built.table.timings) == {
        (setting, pace): count for setting in (ONE, slow) for pace, count in ((None, 4), (30.0, 2))
    }
    assert len(built.table.networks) == 4


def test_a_build_stopped_among_its_timings_goes_on_and_measures_nothing_twice(tmp_path, out, monkeypatch):
    FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    kept: list[str] = []
    append = Journal.append

    def noted(journal: Journal, setting: Setting, sample: Sample) -> None:
        kept.append(sample.id)
        append(journal, setting, sample)

    monkeypatch.setattr(Journal, "append", noted)
    for count in (2 * TIMED + 3, 2 * TIMED + 8):  # among the first timings, then among the paced ones
        with pytest.raises(InterruptedRunError):
            calibrate(out, advance=stop_after(count))
    assert not out.exists()
    built = calibrate(out)
    assert Counter(kept) == {
        **dict.fromkeys([key_id(key) for key in KEYS[:TIMED]], 2), **dict.fromkeys(NAMES, 2), **dict.fromkeys(PACED, 1),
    }  # fmt: skip
    assert built.networks == 6
    fresh = calibrate(tmp_path / "fresh.json")
    assert built.table.timings == fresh.table.timings
    assert built.table.rows == fresh.table.rows


def test_what_was_timed_is_not_timed_again(tmp_path, out, monkeypatch):
    workers = FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    calibrate(out)
    before, processes = out.read_bytes(), len(workers.orders)
    built = calibrate(out)
    assert (built.measured, built.networks, built.repeated) == (0, 0, 0)
    assert len(workers.orders) == processes
    assert out.read_bytes() == before


def test_more_networks_are_added_to_those_that_were_timed(tmp_path, out, monkeypatch):
    FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    calibrate(out, NETWORKS[:2])
    workers = FakeWorkers(tmp_path / "more", monkeypatch, BY_KIND)
    built = calibrate(out)
    assert (built.measured, built.networks) == (0, 3)
    assert {name for order in workers.orders for name in order} == {SENTINEL_ID, *NAMES[2:], PACED[1]}
    assert list(built.table.networks) == NETWORKS
    assert len(built.table.timings) == 6
    assert len(built.table.parents) == 1


def test_added_networks_are_kept_in_lowered_form_and_never_timed(tmp_path, out, monkeypatch):
    workers = FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    model = LoweredNetwork("model-0123", None, {KEYS[1]: 7})
    built = calibrate(out, [], [model, NETWORKS[0], model])
    assert built.networks == 0
    assert {name for order in workers.orders for name in order} == {key_id(key) for key in KEYS[:TIMED]}
    assert built.table.networks == load_table(out).networks == (model, NETWORKS[0])
    before = out.read_bytes()
    assert calibrate(out, [], [model]).table.networks == built.table.networks
    assert out.read_bytes() == before


def test_a_network_that_needs_nothing_new_is_still_kept_and_tells_its_parent(tmp_path, out, monkeypatch):
    workers = FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    first = make(out)
    processes = len(workers.orders)
    built = calibrate(out, [], [NETWORKS[0]])
    assert len(workers.orders) == processes
    assert load_table(out).networks == (NETWORKS[0],)
    assert built.table.parents == (table_checksum(first.table),)


def test_a_network_added_before_can_be_calibrated_with_later(tmp_path, out, monkeypatch):
    FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    calibrate(out, [], NETWORKS[:1])
    built = calibrate(out, NETWORKS[:1], NETWORKS[:1])
    assert built.networks == 2
    assert list(built.table.networks) == NETWORKS[:1]


def test_a_network_that_came_as_onnx_cannot_be_calibrated_with(out: Path, workers: FakeWorkers):
    with pytest.raises(InputError, match="model-0123 came as ONNX; only architectures"):
        calibrate(out, [LoweredNetwork("model-0123", None, {KEYS[1]: 7})])


def test_a_network_is_timed_as_the_model_that_its_architecture_is_lowered_to():
    for network, pair in zip(NETWORKS[:3], PAIRS, strict=False):
        assert network_model(network) == graph_to_onnx(instantiate(pair)).SerializeToString()


def test_timings_have_names_of_their_rhythm():
    assert (timing_id("network-1", None), timing_id("network-1", 30.0)) == ("network-1", "network-1@30")
    assert network_protocol(None) == sweep.CALIBRATION_PROTOCOL
    assert network_protocol(30.0) == dataclasses.replace(sweep.PACED_PROTOCOL, pace_hz=30.0)


def test_protocols_that_are_alike_do_not_hide_each_other(tmp_path, out, monkeypatch):
    """Rows and networks may be timed in the same way and are still all timed."""
    FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    monkeypatch.setattr(sweep, "CALIBRATION_PROTOCOL", QUICK)
    built = calibrate(out, protocol=QUICK)
    assert len(built.table.rows) == len(KEYS)
    assert len(built.table.timings) == 6


def test_the_estimate_counts_paced_timings_as_the_long_ones_that_they_are(out: Path):
    plan = plan_build(out, (ONE,), KEYS, NETWORKS)
    assert plan.sample_sets(QUICK) == 2 * TIMED + 2 * 4 + 1 * 2
    unpaced = dataclasses.replace(plan, untimed=plan.untimed[:4])
    assert plan.estimate_s(QUICK) - unpaced.estimate_s(QUICK) == pytest.approx(2 * sweep.SECONDS_A_PACED_SET)


# Fitted at the end


@pytest.fixture(scope="module")
def needs() -> dict[str, SpaceNeeds]:
    """Two configurations, each from few networks."""
    other = dataclasses.replace(ONE_NODE, quality_stride=2)
    return {"one": space_needs([ONE_NODE], 10, 4), "other": space_needs([other], 10, 4)}


def whole_build(out: Path, needs: SpaceNeeds) -> Built:
    plan = plan_build(out, (ONE,), needs.keys, needs.calibration)
    return build(out, plan, FIT, QUICK, fit=lambda table: fit_table(table, needs.samples))


def test_a_table_is_calibrated_and_has_its_edge_costs_when_it_is_written(tmp_path, out, monkeypatch, needs):
    FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    built = whole_build(out, needs["one"])
    table = load_table(out)
    assert table == built.table
    assert [(model.pace_hz, model.networks) for model in table.models] == [(None, 9)]
    assert table.has_edges(ONE, ONE_NODE, None)
    before = out.read_bytes()
    assert whole_build(out, needs["one"]).measured == 0
    assert out.read_bytes() == before


def test_another_configuration_extends_a_table_and_the_first_comes_back_without_timing(
    tmp_path, out, monkeypatch, needs
):
    FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    first = whole_build(out, needs["one"])
    other = needs["other"].macros[0]
    second = whole_build(out, needs["other"])
    assert 0 < second.measured < first.measured  # most kernels are the same
    assert second.networks == len(needs["other"].calibration) + (len(needs["other"].calibration) + 1) // 2
    assert second.table.parents == (table_checksum(first.table),)
    assert second.table.model(ONE, None).networks == 18
    assert second.table.has_edges(ONE, other, None)
    assert not second.table.has_edges(ONE, ONE_NODE, None)  # fitted to another model than the one that is there now
    workers = FakeWorkers(tmp_path / "third", monkeypatch, BY_KIND)
    third = whole_build(out, needs["one"])
    assert workers.orders == []
    assert (third.measured, third.networks) == (0, 0)
    assert load_table(out).has_edges(ONE, ONE_NODE, None)
    assert load_table(out).has_edges(ONE, other, None)
    assert third.table.parents == (table_checksum(first.table), table_checksum(second.table))


def test_what_is_fitted_is_not_lost_by_a_build_of_something_else(tmp_path, out, monkeypatch, needs):
    FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    first = whole_build(out, needs["one"])
    plan = plan_build(out, (ONE,), [CALL_OVERHEAD, relu_kernel(99)])
    second = build(out, plan, FIT, QUICK, fit=lambda table: fit_table(table, {}))
    assert second.measured == 1
    assert second.table.models == first.table.models
    assert second.table.has_edges(ONE, ONE_NODE, None)


# The journal


@pytest.fixture
def journal(out: Path, workers: FakeWorkers) -> Path:
    """The journal of a build that was stopped after five sample sets."""
    with pytest.raises(InterruptedRunError):
        make(out, advance=stop_after(5))
    return journal_of(out)


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": Verdict(True, (), dataclasses.replace(CPU, model="Another"))},
        {"verdict": Verdict(True, (), dataclasses.replace(CPU, isa=()))},
        {"protocol": dataclasses.replace(QUICK, samples=9)},
    ],
)
def test_the_journal_of_another_cpu_or_protocol_is_refused(out: Path, journal: Path, change: dict[str, Any]):
    before = journal.read_bytes()
    with pytest.raises(NotComparableError, match="begun on another CPU, runtime or protocol; delete it") as caught:
        make(out, **change)
    assert caught.value.exit_code == 4
    assert journal.read_bytes() == before


def test_the_journal_of_another_runtime_is_refused(out: Path, journal: Path):
    text = journal.read_text()
    journal.write_text(text.replace(f'"onnxruntime":"{runtime_version()}"', '"onnxruntime":"1.0.0"', 1))
    with pytest.raises(NotComparableError):
        make(out)


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_torn_last_line_is_measured_again(out: Path, journal: Path, workers: FakeWorkers, cut: int):
    whole = len(entries(journal))
    journal.write_bytes(journal.read_bytes()[:-cut])
    opened = Journal(journal, CPU, RUNTIME, QUICK)
    assert len(opened.samples(ONE)) == (whole if cut == 1 else whole - 1)
    assert journal.read_bytes().endswith(b"}\n")
    assert len(make(out).table.rows) == len(KEYS)


@pytest.mark.parametrize("text", ["", '{"cpu": {"mod'])
def test_a_torn_first_line_starts_the_journal_over(out: Path, text: str):
    out.parent.mkdir()
    journal_of(out).write_text(text)
    opened = Journal(journal_of(out), CPU, RUNTIME, QUICK)
    assert opened.samples(ONE) == []
    assert Journal(journal_of(out), CPU, RUNTIME, QUICK).samples(ONE) == []  # its first line is whole now


@pytest.mark.parametrize(
    "lines",
    [["[]"], ["3"], ['{"cpu": {}}'], ["my thesis", "by me"], None],
    ids=["a list", "a number", "half a header", "text", "bytes"],
)
def test_a_file_that_is_no_journal_is_refused_and_kept(out: Path, lines: list[str] | None):
    out.parent.mkdir()
    content = b"\xff\xfe\n" if lines is None else ("\n".join(lines) + "\n").encode()
    journal_of(out).write_bytes(content)
    with pytest.raises(InputError, match="not a build's journal"):
        Journal(journal_of(out), CPU, RUNTIME, QUICK)
    assert journal_of(out).read_bytes() == content


@pytest.mark.parametrize("line", ["garbage", "{}", "[]", '{"setting": {"threads": 1}, "sample": {"id": "a"}}'])
def test_a_broken_line_in_the_middle_is_refused(out: Path, journal: Path, line: str):
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    with pytest.raises(InputError, match="not a build's journal"):
        make(out)


def test_samples_are_kept_by_setting(out: Path, journal: Path):
    opened = Journal(journal, CPU, RUNTIME, QUICK)
    assert len(opened.samples(ONE)) == len(entries(journal))
    assert opened.samples(Setting(2)) == []


def test_a_plan_without_missing_rows_costs_no_time():
    assert Plan(None, (), ()).estimate_s() == 0
    assert Plan(None, (), ()).settings == ()


def test_every_kind_of_key_has_a_model_that_measures_it():
    assert all(key_model(key) for key in KEYS)


# Killed for real


# a shell's background jobs ignore SIGINT, and what they start inherits that
_COMMAND = """
import signal
from functools import partial
from latencykit import bench, calibrate, edges, sweep
from latencykit.commands import tables
from latencykit.doctor import Verdict
from latencykit.host import read_cpu
from latencykit.measurement import Protocol

signal.signal(signal.SIGINT, signal.default_int_handler)
bench.PATIENCE_S = 0
bench.measure_items.__kwdefaults__["attempts"] = 1  # a busy machine measures once, so that what came twice is a fault
edges.HELD_OUT_NETWORKS = 4
sweep.CALIBRATION_PROTOCOL = Protocol(samples=2, block_us=0, warmup_ms=0, processes=2)
sweep.PACED_PROTOCOL = Protocol(samples=1, block_us=0, warmup_ms=0, processes=1)
tables.doctor = lambda: Verdict(True, (), read_cpu())
tables.space_needs = partial(calibrate.space_needs, fit_networks=10, sampled=4)
tables.build = partial(sweep.build, protocol=Protocol(samples=2, block_us=0, warmup_ms=0, processes=3))
if __name__ == "__main__":
    from latencykit.cli import main
    main()
"""
"""A small build; the last lines let processes that it starts import this without building anything."""
_KEEP_JOURNAL = f"import latencykit.sweep as s; s.Journal.remove = lambda self: None\n{_COMMAND}"


@pytest.fixture
def command(tmp_path: Path) -> Iterator[list[str]]:
    (tmp_path / "space.json").write_text(TINY_JSON)
    yield ["build", "--out", str(tmp_path / "t.json"), "--space", str(tmp_path / "space.json"), "--strides", "1",
           "--threads", "1", "--force", "--json"]  # fmt: skip
    shutil.rmtree(tmp_path)


def start(command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _COMMAND, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_lines(journal: Path, count: int, running: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < count:
        assert running.poll() is None, running.stderr.read()
        assert time.monotonic() < deadline, "no samples came"
        time.sleep(0.02)


def measuring(parent: int) -> list[Path]:
    """The measuring processes that a build has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if int((path / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent:
                found.append(path)
        except OSError:
            continue
    return found


@pytest.mark.real_clock
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_killed_build_goes_on_where_it_was_and_measures_nothing_twice(command: list[str], tmp_path: Path):
    journal = tmp_path / "t.json.journal"
    running = start(command)
    wait_for_lines(journal, 40, running)
    workers = measuring(running.pid)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert running.returncode == -signal.SIGKILL
    assert not (tmp_path / "t.json").exists()
    deadline = time.monotonic() + 10
    while any(path.exists() for path in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(path.exists() for path in workers)  # the measuring process ends by itself
    before = journal.read_text().splitlines()

    for _ in range(5):
        resumed = subprocess.run(
            [sys.executable, "-c", _KEEP_JOURNAL, *command], capture_output=True, text=True, check=False
        )
        if resumed.returncode != 4:  # on a busy machine the sentinel may differ; the message says to run it again
            break
        assert "sentinel" in resumed.stderr
    assert resumed.returncode == 0, resumed.stderr
    result = json.loads(resumed.stdout)
    table = load_table(tmp_path / "t.json")
    assert sum(result["rows"].values()) == len(table.rows)
    assert result["measured"] == len(table.rows) - result["rows"]["edge"]
    assert result["networks"] == len(table.timings) == 9 + 5
    assert (result["repeated"], result["reused"]) == (0, 0)

    after = journal.read_text().splitlines()
    whole = before if before[-1].endswith("}}") else before[:-1]
    assert after[: len(whole)] == whole
    sets = Counter((e["sample"]["id"], e["sample"]["process"]) for e in entries(journal))
    timed = {key_id(row.key) for row in table.rows if row.origin == "measured"}
    expected = {(name, process) for name in timed for process in range(3)}
    for timing in table.timings:
        name = timing_id(timing.network, timing.pace_hz)
        expected |= {(name, process) for process in range(len(timing.medians_us))}
    assert set(sets) == expected
    assert set(sets.values()) == {1}
    assert {row.measurement.processes for row in table.rows if row.measurement} == {3}


@pytest.mark.real_clock
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_ends_with_7_and_keeps_the_journal(command: list[str], tmp_path: Path):
    journal = tmp_path / "t.json.journal"
    running = start(command)
    wait_for_lines(journal, 5, running)
    running.send_signal(signal.SIGINT)
    output, errors = running.communicate(timeout=30)
    assert running.returncode == 7
    assert output == ""
    assert "the same command resumes" in errors
    assert str(journal) in errors
    assert len(entries(journal)) >= 4
    assert not (tmp_path / "t.json").exists()
