"""Building a table row by row, stopped, resumed, extended, on a machine that changes."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from latencykit.bench import SENTINEL_ID
from latencykit.checks import Reason
from latencykit.doctor import Verdict
from latencykit.errors import InputError, InterruptedRunError, LatencyKitError, NotComparableError
from latencykit.keys import key_id
from latencykit.runtime import Setting
from latencykit.sweep import (
    KEPT_SENTINELS,
    Plan,
    build,
    key_model,
    plan_build,
)
from latencykit.table_file import load_table, save_table, table_checksum
from tests.latencykit.building import FIT, IDENTITY, KEYS, TIMED, entries, journal_of, make, stop_after
from tests.latencykit.made_up import (
    CPU,
    ONE,
    QUICK,
    FakeWorkers,
    State,
    made_up_table,
    relu_kernel,
)


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
    built = make(out, advance=lambda name, units=1, **_: seen.extend([name] * units))
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


def test_a_plan_without_missing_rows_costs_no_time():
    assert Plan(None, (), ()).estimate_s() == 0
    assert Plan(None, (), ()).settings == ()


def test_every_kind_of_key_has_a_model_that_measures_it():
    assert all(key_model(key) for key in KEYS)
