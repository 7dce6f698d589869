import contextlib
import os
import sys
from contextlib import closing
from pathlib import Path

import pytest

from latencykit.bench import (
    P99_CALLS,
    PACED_SAMPLES,
    MeasuredModel,
    Sample,
    background_load,
    collect,
    measure,
    measure_items,
    measure_models,
)
from latencykit.errors import InputError, LatencyKitError, UnfitError, UsageError
from latencykit.measurement import Measurement, Protocol
from latencykit.runtime import Setting
from latencykit.topology import physical_cpus
from latencykit.worker import Item
from tests.latencykit.made_up import QUICK, FakeWorkers

ONE = Setting(threads=1)
ITEMS = [Item(f"item{index}", f"/nowhere/{index}.onnx") for index in range(8)]
NAMES = {item.id for item in ITEMS}
THREE = Protocol(samples=2, block_us=0, warmup_ms=0, processes=3)


def children() -> set[int]:
    """Process ids of this process's children."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.add(int(path.parent.name))
    return found


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


def test_rounds_that_are_done_are_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    workers = FakeWorkers(tmp_path, monkeypatch)
    done = {"item0": frozenset({0, 2}), **{name: frozenset({1}) for name in NAMES}}
    samples = list(measure_items(ITEMS, ONE, THREE, done=done))
    assert len(workers.orders) == 2  # nothing was left for the second process
    assert {(s.id, s.process) for s in samples} == {(n, p) for n in NAMES for p in (0, 2) if n != "item0" or p == 1} | {
        ("item0", p) for p in (0, 2) if p not in done["item0"]
    }


def test_a_round_skips_only_what_it_has_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    workers = FakeWorkers(tmp_path, monkeypatch)
    list(measure_items(ITEMS, ONE, THREE, done={"item3": frozenset({1})}))
    assert ["item3" in order for order in workers.orders] == [True, False, True]


def test_the_sentinel_comes_first_in_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    workers = FakeWorkers(tmp_path, monkeypatch)
    samples = list(measure_items(ITEMS, ONE, THREE, first=Item("sentinel", "/nowhere")))
    assert [order[0] for order in workers.orders] == ["sentinel"] * 3
    assert sum(sample.id == "sentinel" for sample in samples) == 3


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


def test_models_are_reported_in_the_order_asked_for_with_their_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    FakeWorkers(tmp_path, monkeypatch, 'result["memory_bytes"] = 1000 if item["id"] == "0" else None')
    ticks: list[int] = []
    paths = [tmp_path / "b.onnx", tmp_path / "a.onnx", tmp_path / "b.onnx"]
    found = measure_models(paths, ONE, None, 2, lambda: ticks.append(1))
    assert [model.path for model in found] == list(map(str, paths))
    assert [model.memory_bytes for model in found] == [1000, None, None]
    assert [model.measurement.processes for model in found] == [2, 2, 2]
    assert len(ticks) == 6


def test_a_pace_gives_the_paced_number_of_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    FakeWorkers(tmp_path, monkeypatch)
    (paced,) = measure_models([tmp_path / "a.onnx"], ONE, 30.0, 1)
    assert paced.measurement.count == PACED_SAMPLES


def test_a_model_says_why_it_may_be_mistrusted():
    unknown = MeasuredModel("a.onnx", Measurement(((5.0,) * P99_CALLS,)), (), None)
    assert unknown.warnings == ["a.onnx: this system does not tell where threads run; affinity is not verified"]
    noisy = MeasuredModel("a.onnx", Measurement(((5.0, 9.0) * 4,)), ("0",), None)
    assert noisy.warnings[0].startswith("a.onnx: noisy (")
    assert MeasuredModel("a.onnx", Measurement(((5.0,) * P99_CALLS,)), ("0",), None).warnings == []
    (few,) = MeasuredModel("a.onnx", Measurement(((5.0,) * 5,)), ("0",), None).warnings
    assert few == f"a.onnx: p99 rests on 5 calls, {P99_CALLS} are sound: raise `--processes`"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="children are counted under /proc")
def test_background_load_is_there_meanwhile_and_gone_afterwards():
    before = children()
    with contextlib.suppress(KeyboardInterrupt), background_load(2):
        assert len(children() - before) == 2
        raise KeyboardInterrupt
    assert children() == before
