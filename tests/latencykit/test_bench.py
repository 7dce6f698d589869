import contextlib
import itertools
import math
import sys
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from latencykit import bench
from latencykit.bench import (
    SENTINEL_ID,
    STEADY_PCT,
    Sample,
    collect,
    gather,
    measure,
    measure_items,
    sentinel_us,
    steadiest,
    steady_limit_us,
)
from latencykit.errors import InputError, LatencyKitError, UnfitError, UsageError
from latencykit.measurement import Measurement, Protocol
from latencykit.runtime import Setting
from latencykit.topology import physical_cpus
from latencykit.worker import Item
from tests.latencykit.made_up import PATIENCE_S, QUICK, FakeWorkers, Waits, children

ONE = Setting(threads=1)
ITEMS = [Item(f"item{index}", f"/nowhere/{index}.onnx") for index in range(8)]
NAMES = {item.id for item in ITEMS}
THREE = Protocol(samples=2, block_us=0, warmup_ms=0, processes=3)


def test_more_threads_than_cores_are_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    workers = FakeWorkers(tmp_path, monkeypatch)
    with pytest.raises(UnfitError, match="--threads"):
        list(measure_items(ITEMS, Setting(threads=len(physical_cpus()) + 1), THREE))
    with pytest.raises(UsageError):
        list(measure_items(ITEMS, Setting(threads=0), THREE))
    assert workers.orders == []


def test_no_items_start_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    workers = FakeWorkers(tmp_path, monkeypatch)
    assert list(measure_items([], ONE, THREE)) == []
    assert workers.orders == []


def test_every_process_measures_every_item_once_in_an_order_of_its_own(tmp_path, monkeypatch):
    workers = FakeWorkers(tmp_path, monkeypatch)
    samples = list(measure_items(ITEMS, ONE, THREE))
    assert [set(order) for order in workers.orders] == [NAMES] * 3
    assert all(len(order) == len(ITEMS) for order in workers.orders)
    assert len({tuple(order) for order in workers.orders}) == 3
    assert {(sample.id, sample.process) for sample in samples} == {(name, p) for name in NAMES for p in range(3)}


def test_the_orders_depend_on_the_seed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    orders = []
    for run, seed in enumerate((1, 1, 2)):
        folder = tmp_path / str(run)
        folder.mkdir()
        monkeypatch.undo()
        workers = FakeWorkers(folder, monkeypatch)
        list(measure_items(ITEMS, ONE, THREE, seed=seed))
        orders.append(workers.orders)
    assert orders[0] == orders[1] != orders[2]


def known(name: str, *processes: int, state_us: float = 50.0) -> list[Sample]:
    """Samples from before."""
    return [Sample(name, process, (7.0, 7.0), ("0",), None, 0.001, (state_us, state_us)) for process in processes]


def test_the_items_of_a_block_follow_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    workers = FakeWorkers(tmp_path, monkeypatch)
    items = [replace(item, block="ab"[n % 2] if n < 6 else "") for n, item in enumerate(ITEMS)]
    list(measure_items(items, ONE, THREE))
    blocks = {item.id: item.block or item.id for item in items}
    for order in workers.orders:
        assert set(order) == NAMES
        runs = [name for name, _ in itertools.groupby(blocks[name] for name in order)]
        assert len(runs) == len(set(runs)) == len(ITEMS) - 4
    assert len({tuple(order) for order in workers.orders}) == 3


def test_rounds_that_are_done_are_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    workers = FakeWorkers(tmp_path, monkeypatch)
    done = [*known("item0", 0, 2), *(sample for name in NAMES for sample in known(name, 1))]
    samples = list(measure_items(ITEMS, ONE, THREE, known=done))
    assert len(workers.orders) == 2  # nothing was left for the second process
    expected = {(name, process) for name in NAMES for process in (0, 2)} - {("item0", 0), ("item0", 2)}
    assert {(sample.id, sample.process) for sample in samples} == expected


def test_a_round_skips_only_what_it_has_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    workers = FakeWorkers(tmp_path, monkeypatch)
    list(measure_items(ITEMS, ONE, THREE, known=known("item3", 1)))
    assert ["item3" in order for order in workers.orders] == [True, False, True]


# The state of the machine


BY_STATE = 'result["samples_us"] = [state] * len(samples)'
PROBE = [SENTINEL_ID]


def test_a_steady_machine_measures_everything_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    waits = Waits(monkeypatch)
    workers = FakeWorkers(tmp_path, monkeypatch, states=[50.0, 54.0, 51.0])  # 8 % above the fastest is noise
    samples = list(measure_items(ITEMS, ONE, THREE))
    assert len(workers.orders) == 3
    assert [sample.sentinel_us for sample in samples] == [(50.0, 50.0)] * 8 + [(54.0, 54.0)] * 8 + [(51.0, 51.0)] * 8
    assert waits.slept_s == 0


def test_a_round_in_another_state_is_measured_again_once_the_machine_is_back(tmp_path, monkeypatch):
    waits = Waits(monkeypatch)
    workers = FakeWorkers(tmp_path, monkeypatch, BY_STATE, [50.0, 80.0, 50.0, 80.0, 80.0, 51.0, 52.0])
    samples = list(measure_items(ITEMS, ONE, THREE))
    assert workers.orders[3:6] == [PROBE] * 3
    assert set(workers.orders[6]) == NAMES
    assert len(workers.orders) == 7
    assert waits.slept_s == 2
    assert [sample.process for sample in samples[-8:]] == [1] * 8
    assert {m.process_medians_us for m in collect(samples).values()} == {(50.0, 52.0, 50.0)}
    assert {(s.process, s.state_us) for s in steadiest(samples).values()} == {(0, 50.0), (1, 52.0), (2, 50.0)}


def test_only_the_items_beside_a_slow_sentinel_are_measured_again(tmp_path, monkeypatch):
    Waits(monkeypatch)
    workers = FakeWorkers(tmp_path, monkeypatch, states=[(50.0,) * 6 + (90.0,) * 2, 50.0])
    list(measure_items(ITEMS, ONE, replace(THREE, processes=1)))
    first, probe, again = workers.orders
    assert probe == PROBE
    assert sorted(again) == sorted(first[6:])


def test_the_worse_of_two_sentinels_counts(tmp_path, monkeypatch):
    Waits(monkeypatch)
    for name, sentinels in (("before", "[90.0, 50.0]"), ("after", "[50.0, 90.0]")):
        body = f'result["sentinel_us"] = {sentinels} if item["id"] == "item2" and state > 50.5 else [50.0, 50.0]'
        workers = FakeWorkers(tmp_path / name, monkeypatch, body, [51.0, 50.0])
        list(measure_items(ITEMS, ONE, replace(THREE, processes=1)))
        assert workers.orders[1:] == [PROBE, ["item2"]]


def test_the_fastest_sentinel_of_all_decides_even_one_beside_a_slow_one(tmp_path, monkeypatch):
    """A sample that a steadier one replaced still tells how fast the machine can be."""
    Waits(monkeypatch)
    body = 'result["sentinel_us"] = [40.0, 90.0] if state == 90.0 else [state, state]'
    workers = FakeWorkers(tmp_path, monkeypatch, body, [90.0, 40.0, 50.0, 40.0, 41.0])
    samples = list(measure_items(ITEMS[:1], ONE, replace(THREE, processes=1)))
    assert workers.orders == [["item0"], PROBE, ["item0"], PROBE, ["item0"]]
    assert [sample.state_us for sample in samples] == [90.0, 50.0, 41.0]


def test_after_the_last_attempt_what_there_is_has_to_do(tmp_path, monkeypatch):
    waits = Waits(monkeypatch)
    workers = FakeWorkers(tmp_path, monkeypatch, BY_STATE, [50.0, 95.0, 94.0, 93.0, 92.0, 99.0])
    one = replace(THREE, processes=2)
    samples = list(measure_items(ITEMS[:1], ONE, one, attempts=3))
    assert [order for order in workers.orders if order != PROBE] == [["item0"]] * 4
    assert 2 * PATIENCE_S <= waits.slept_s <= 2 * PATIENCE_S + 2
    assert steadiest(samples)["item0", 1].state_us == 95.0
    assert collect(samples)["item0"].process_medians_us == (50.0, 95.0)


def test_a_machine_that_is_never_steady_takes_as_many_samples_again_at_most(tmp_path, monkeypatch):
    Waits(monkeypatch)
    monkeypatch.setattr(bench, "FEWEST_TAKEN_AGAIN", 1)
    workers = FakeWorkers(tmp_path, monkeypatch, BY_STATE, [50.0, *[95.0 - step / 10 for step in range(40)]])
    samples = list(measure_items(ITEMS, ONE, THREE))
    taken = Counter(sample.process for sample in samples)
    assert (taken[0], taken[1] + taken[2]) == (8, 16 + 24)
    orders = len(workers.orders)
    assert list(measure_items(ITEMS, ONE, THREE, known=samples)) == []  # a resumed build takes no more
    assert len(workers.orders) == orders
    some = [sample for sample in samples if sample.id != "item5"]
    more = list(measure_items(ITEMS, ONE, THREE, known=some))
    firsts = {("item5", n) for n in range(3)}
    assert firsts <= {(sample.id, sample.process) for sample in more}  # the first time, always
    assert len(some) + len(more) == len(samples)


def test_the_least_steady_samples_are_taken_again_first(tmp_path, monkeypatch):
    Waits(monkeypatch)
    monkeypatch.setattr(bench, "FEWEST_TAKEN_AGAIN", 1)
    workers = FakeWorkers(tmp_path, monkeypatch, BY_STATE, [50.0])
    before = [sample for n in range(8) for sample in known(f"item{n}", 0, state_us=50.0 if n == 7 else 90.0 + n)]
    before += known("item6", 0, 0, 0, state_us=99.0)
    list(measure_items(ITEMS, ONE, replace(THREE, processes=1), known=before))
    assert sorted(workers.orders[0]) == ["item2", "item3", "item4", "item5", "item6"]  # eight less the three of before


def test_a_sample_is_tried_so_often_over_all_resumes(tmp_path, monkeypatch):
    Waits(monkeypatch)
    workers = FakeWorkers(tmp_path, monkeypatch, BY_STATE, [95.0])
    before = [*known("item0", 0), *known("item1", 0, 0, state_us=90.0)]
    assert len(list(measure_items(ITEMS[:2], ONE, replace(THREE, processes=1), known=before, attempts=4))) == 2
    assert [order for order in workers.orders if order != PROBE] == [["item1"]] * 2


def test_a_single_attempt_takes_what_comes(tmp_path, monkeypatch):
    waits = Waits(monkeypatch)
    workers = FakeWorkers(tmp_path, monkeypatch, states=[50.0, 80.0, 95.0])
    assert len(list(measure_items(ITEMS, ONE, THREE, attempts=1))) == 24
    assert len(workers.orders) == 3
    assert waits.slept_s == 0
    before = [*known("item0", 0, state_us=80.0), *known("item0", 1)]
    assert list(measure_items(ITEMS[:1], ONE, QUICK, known=before, attempts=1)) == []  # what is known is let be


def test_samples_from_before_that_were_not_steady_are_measured_again(tmp_path, monkeypatch):
    Waits(monkeypatch)
    workers = FakeWorkers(tmp_path, monkeypatch, BY_STATE, [50.0])
    before = [*known("item0", 0, 1), *known("item1", 0, state_us=80.0), *known("item1", 1)]
    samples = list(measure_items(ITEMS[:2], ONE, QUICK, known=before))
    assert workers.orders == [["item1"]]
    assert [(sample.id, sample.process) for sample in samples] == [("item1", 0)]
    assert collect([*before, *samples])["item1"].process_medians_us == (50.0, 7.0)


def test_everything_known_and_steady_starts_no_process(tmp_path, monkeypatch):
    workers = FakeWorkers(tmp_path, monkeypatch)
    assert list(measure_items(ITEMS[:1], ONE, QUICK, known=known("item0", 0, 1))) == []
    assert workers.orders == []


def test_a_reference_from_an_earlier_run_tells_that_all_of_this_one_is_slow(tmp_path, monkeypatch):
    Waits(monkeypatch)
    workers = FakeWorkers(tmp_path, monkeypatch, states=[80.0, 81.0, 50.0, 51.0])
    samples = list(measure_items(ITEMS[:2], ONE, QUICK, reference_us=50.0))
    assert [order == PROBE for order in workers.orders] == [False, False, True, False, False]
    assert {sample.state_us for sample in steadiest(samples).values()} == {51.0}


def test_without_a_reference_the_best_of_this_run_is_all_there_is(tmp_path, monkeypatch):
    workers = FakeWorkers(tmp_path, monkeypatch, states=[80.0, 81.0])
    list(measure_items(ITEMS[:2], ONE, QUICK))
    assert len(workers.orders) == 2


def test_waiting_times_the_sentinel_alone_and_at_no_pace(tmp_path, monkeypatch):
    Waits(monkeypatch)
    body = f'open({str(tmp_path / "paces")!r}, "a").write(str(job["protocol"]["pace_hz"]) + " ")'
    FakeWorkers(tmp_path, monkeypatch, body, [50.0, 80.0, 50.0, 50.0])
    list(measure_items(ITEMS[:1], ONE, replace(QUICK, pace_hz=30.0)))
    assert (tmp_path / "paces").read_text().split() == ["30.0", "30.0", "None", "30.0"]


def test_the_sentinel_now_is_awaited_and_told(tmp_path, monkeypatch):
    waits = Waits(monkeypatch)
    FakeWorkers(tmp_path / "back", monkeypatch, states=[90.0, 57.0, 54.0])  # 14 % above is another state
    assert sentinel_us(ONE, 50.0) == 54.0
    assert waits.slept_s == 2
    workers = FakeWorkers(tmp_path / "never", monkeypatch, states=[90.0])
    assert sentinel_us(ONE, 50.0) == 90.0
    assert PATIENCE_S <= waits.slept_s - 2 <= PATIENCE_S + 1
    assert set(map(tuple, workers.orders)) == {(SENTINEL_ID,)}


def test_the_steadiest_sample_of_each_item_and_process_is_kept_the_later_of_two_alike():
    def sample(name: str, process: int, figure: float, *sentinel: float) -> Sample:
        return Sample(name, process, (figure,), (), None, 0.0, sentinel)

    samples = [
        sample("a", 0, 1.0, 60, 50),
        sample("a", 0, 2.0, 55, 55),
        sample("a", 0, 3.0, 50, 55),
        sample("a", 1, 4.0),
    ]
    assert {place: s.samples_us for place, s in steadiest(samples).items()} == {("a", 0): (3.0,), ("a", 1): (4.0,)}
    assert steady_limit_us(samples) == pytest.approx(50 * (1 + STEADY_PCT["convolution"] / 100))
    assert steady_limit_us(samples, 40.0) == pytest.approx(40 * (1 + STEADY_PCT["convolution"] / 100))
    assert steady_limit_us([]) == steady_limit_us(samples[3:]) == math.inf


def test_gathering_advances_once_for_each_item_and_process_however_often_it_is_measured(tmp_path, monkeypatch):
    Waits(monkeypatch)
    FakeWorkers(tmp_path, monkeypatch, states=[50.0, 80.0, 50.0, 50.0])
    seen: list[str] = []
    again: list[str] = []

    def advance(name: str, note: str = "", units: int = 1) -> None:
        (seen if units else again).append(name)
        assert bool(note) != bool(units)  # whoever waits is told why

    samples = gather(measure_items(ITEMS, ONE, QUICK), advance)
    assert len(samples) == 24
    assert Counter(seen) == dict.fromkeys(NAMES, 2)
    assert Counter(again) == dict.fromkeys(NAMES, 1)


def test_gathering_ends_the_measuring_where_advancing_fails(tmp_path, monkeypatch):
    workers = FakeWorkers(tmp_path, monkeypatch, "time.sleep(0 if index == 0 else 60)")

    def stop(name: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gather(measure_items(ITEMS, ONE, THREE), stop)
    assert workers.alive == []


# How a process ends


def test_one_model_a_process_where_memory_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    workers = FakeWorkers(tmp_path, monkeypatch)
    samples = list(measure_items(ITEMS, ONE, QUICK, one_model_a_process=True))
    assert [len(order) for order in workers.orders] == [1] * 16
    assert {order[0] for order in workers.orders[:8]} == NAMES  # interleaved: each round holds every model once
    assert len(samples) == 16


def test_an_error_line_is_bad_input_and_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    body = 'if index == 2: result = {"id": item["id"], "error": "onnxruntime refuses it"}'
    workers = FakeWorkers(tmp_path, monkeypatch, body)
    with pytest.raises(InputError, match="onnxruntime refuses it"):
        list(measure_items(ITEMS, ONE, THREE))
    assert workers.alive == []
    assert len(workers.orders) == 1


def test_a_killed_process_is_an_error_that_says_how_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    FakeWorkers(tmp_path, monkeypatch, "if index == 2: os.kill(os.getpid(), 9)")
    found: list[Sample] = []
    with pytest.raises(LatencyKitError, match="measuring process ended with -9"):
        found.extend(measure_items(ITEMS, ONE, THREE))


def test_a_process_killed_in_the_middle_of_a_line_is_the_same_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    body = "if index == 2: sys.stdout.write(json.dumps(result)[:20]); sys.stdout.flush(); os.kill(os.getpid(), 9)"
    FakeWorkers(tmp_path, monkeypatch, body)
    with pytest.raises(LatencyKitError, match="measuring process ended with -9"):
        list(measure_items(ITEMS, ONE, THREE))


def test_a_process_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    FakeWorkers(tmp_path, monkeypatch, 'if index == 1: sys.exit("the disk is full")')
    with pytest.raises(LatencyKitError, match="ended with 1, 0 expected: the disk is full"):
        list(measure_items(ITEMS, ONE, THREE))


def test_a_process_that_prints_something_else_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    workers = FakeWorkers(tmp_path, monkeypatch, 'print("hello")')
    with pytest.raises(LatencyKitError, match="hello"):
        list(measure_items(ITEMS, ONE, THREE))
    assert workers.alive == []


def test_a_process_that_ends_before_it_reads_its_job_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = tmp_path / "worker"
    script.write_text("#!/bin/sh\necho no such library >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    items = [Item(f"{index}", "x" * 1000) for index in range(500)]  # more than a pipe holds
    with pytest.raises(LatencyKitError, match="ended with 3, 0 expected: no such library"):
        list(measure_items(items, ONE, THREE))


def test_a_process_that_complains_at_length_is_not_stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    FakeWorkers(tmp_path, monkeypatch, 'sys.stderr.write("x" * 200_000)')  # more than a pipe holds
    assert len(list(measure_items(ITEMS, ONE, QUICK))) == 16


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are counted under /proc")
def test_no_child_is_left_behind_when_the_loop_is_left_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    FakeWorkers(tmp_path, monkeypatch, "time.sleep(0 if index == 0 else 60)")
    before = children()
    with contextlib.suppress(KeyboardInterrupt), closing(measure_items(ITEMS, ONE, THREE)) as samples:
        next(samples)
        assert len(children() - before) == 1
        raise KeyboardInterrupt
    assert children() == before


def test_samples_are_collected_by_id_and_in_the_order_of_processes():
    samples = [Sample("b", 1, (2.0,), (), None), Sample("a", 0, (5.0,), (), None), Sample("b", 0, (1.0,), (), None)]
    assert collect(samples) == {"a": Measurement(((5.0,),)), "b": Measurement(((1.0,), (2.0,)))}
    assert collect([]) == {}


@pytest.mark.real_clock
def test_one_model_is_measured_from_its_bytes_or_its_file(tiny_network: bytes, tmp_path: Path):
    (tmp_path / "m.onnx").write_bytes(tiny_network)
    for model in (tiny_network, tmp_path / "m.onnx"):
        found = measure(model, ONE, QUICK)
        assert (found.processes, found.count) == (2, 4)


@pytest.mark.real_clock
def test_a_model_that_is_none_is_bad_input(tmp_path: Path):
    with pytest.raises(InputError, match="onnxruntime refuses"):
        measure(b"not a model", ONE, QUICK)
