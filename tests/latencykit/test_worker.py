"""The measuring process as it is started: what it imports, what it answers."""

import dataclasses
import io
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from latencykit import worker as module
from latencykit.bench import SENTINEL_ID
from latencykit.errors import InputError, UnfitError
from latencykit.measurement import Protocol
from latencykit.runtime import Setting, runtime_version
from latencykit.sentinel import CONVOLUTION, NETWORK, SentinelModel
from latencykit.topology import check_threads
from latencykit.worker import Item, Job, Timing, job_from_json, job_to_json, main, run_item
from tests.latencykit.made_up import QUICK

HEAVY = {"torch", "pandas", "matplotlib", "scipy", "click", "rich", "onnx", "cpuinfo"}
START = ["-P", "-m", "latencykit.worker"]
ONE = Setting(threads=1)


@pytest.fixture(scope="module")
def sentinel(tmp_path_factory: pytest.TempPathFactory) -> Item:
    path = tmp_path_factory.mktemp("sentinel") / "sentinel.onnx"
    path.write_bytes(CONVOLUTION.optimised())
    return Item(SENTINEL_ID, str(path), as_is=True)


@pytest.fixture(scope="module")
def model(tiny_network: bytes, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("worker") / "network.onnx"
    path.write_bytes(tiny_network)
    return str(path)


def job_of(*items: Item, protocol: Protocol = QUICK, sentinel: Item = Item(SENTINEL_ID, "/nowhere")) -> Job:  # noqa: B008
    return Job(ONE, protocol, check_threads(1), items, sentinel, CONVOLUTION.protocol, seed=1)


def answers(job: Job, start: list[str] = START) -> list[dict[str, Any]]:
    found = subprocess.run(
        [sys.executable, *start], input=job_to_json(job) + "\n", capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in found.stdout.splitlines()]


def test_a_job_survives_json():
    job = job_of(Item("a", "a.onnx"), Item("b", "b.onnx", True, 5.0), protocol=dataclasses.replace(QUICK, pace_hz=30))
    assert job_from_json(job_to_json(job)) == job
    assert "\n" not in job_to_json(job)


def test_the_measuring_process_imports_numpy_and_onnxruntime_and_nothing_heavy():
    ready = answers(job_of())[0]
    modules = set(ready["ready"]["modules"])
    assert {"numpy", "onnxruntime", "latencykit"} <= modules
    assert not modules & HEAVY
    assert ready["ready"]["runtime"] == runtime_version()


def test_the_check_of_its_imports_can_fail():
    start = ["-P", "-c", "import pandas, click; from latencykit.worker import main; main()"]
    ready = answers(job_of(), start)[0]
    assert set(ready["ready"]["modules"]) & HEAVY >= {"pandas", "click"}


@pytest.mark.real_clock
def test_a_real_process_times_its_items_between_sentinels(model: str, sentinel: Item):
    ready, first, second = answers(job_of(Item("first", model), Item("second", model), sentinel=sentinel))
    assert "ready" in ready
    assert (first["id"], second["id"]) == ("first", "second")
    for line in (first, second):
        assert len(line["samples_us"]) == QUICK.samples
        assert min(*line["samples_us"], *line["sentinel_us"]) > 0
        assert len(line["sentinel_us"]) == 1
        assert line["timed_s"] > 0


@pytest.mark.real_clock
def test_a_real_process_times_its_items_in_rounds(model: str, sentinel: Item):
    protocol = dataclasses.replace(QUICK, samples=5, rounds=2)
    _, *lines = answers(job_of(Item("first", model), Item("second", model), protocol=protocol, sentinel=sentinel))
    assert {line["id"] for line in lines} == {"first", "second"}
    assert [len(line["samples_us"]) for line in lines] == [5, 5]


def test_samples_are_parted_evenly_and_at_more_threads_not_at_all():
    def lengths(samples: int, rounds: int, threads: int = 1) -> list[int]:
        protocol = dataclasses.replace(QUICK, samples=samples, rounds=rounds)
        job = dataclasses.replace(job_of(protocol=protocol), setting=Setting(threads))
        return [len(part) for part in module._parts(job)]

    assert lengths(10, 5) == [2, 2, 2, 2, 2]
    assert lengths(7, 3) == [2, 2, 3]
    assert lengths(2, 5) == [1, 1]
    assert lengths(10, 5, threads=2) == [10]


@pytest.mark.real_clock
def test_a_bad_model_comes_back_as_a_line_with_its_exit_code(sentinel: Item, tmp_path: Path):
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    for name in ("broken.onnx", "missing.onnx"):
        ready, line = answers(job_of(Item(name, str(tmp_path / name)), Item("next", ""), sentinel=sentinel))
        assert "ready" in ready
        assert (line["id"], line["exit_code"]) == (name, InputError.exit_code)
        assert name in line["error"]
        assert "onnxruntime refuses" in line["error"]


def test_a_sentinel_that_cannot_run_is_told_by_its_own_name():
    _, line = answers(job_of(Item("network", "/nowhere")))
    assert (line["id"], line["exit_code"]) == (SENTINEL_ID, InputError.exit_code)


# When the sentinel is timed


class Process:
    """`main` on a clock that only timing moves: each round of an item takes its `seconds`, the sentinel none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.now_s, self.order, self.open, self.sentinels = 100.0, list[str](), 0, iter(range(50, 99))
        self.failing, self.opened_for_a_look = "", 0
        self._patch, self._capsys = monkeypatch, capsys
        monkeypatch.setattr(module, "run_item", self.run_item)
        monkeypatch.setattr(module, "Timing", partial(FakeTiming, self))
        monkeypatch.setattr(module, "time", self)

    def monotonic(self) -> float:
        return self.now_s

    def look(self) -> tuple[float, ...]:
        self.order.append(SENTINEL_ID)
        figure = float(next(self.sentinels))
        return figure - 9, figure, figure + 1

    def run_item(self, item: Item, job: Job) -> dict[str, Any]:
        assert (item.id, job.protocol) == (SENTINEL_ID, CONVOLUTION.protocol)
        self.opened_for_a_look += 1
        return {"samples_us": self.look()}

    def run(self, *seconds: float, rounds: int = 1, threads: int = 1) -> list[dict[str, Any]]:
        items = [Item(f"item{index}", str(s)) for index, s in enumerate(seconds)]
        job = job_of(*items, protocol=dataclasses.replace(QUICK, rounds=rounds, samples=4))
        job = dataclasses.replace(job, setting=Setting(threads))
        self._patch.setattr(sys, "stdin", io.StringIO(job_to_json(job) + "\n"))
        main()
        assert self.open == 0
        return [json.loads(line) for line in self._capsys.readouterr().out.splitlines()][1:]


class FakeTiming:
    """A `Timing` of that process."""

    def __init__(self, process: Process, item: Item, job: Job) -> None:
        process.open += 1
        self._process, self._item, self.states_us = process, item, list[float]()

    def again(self) -> tuple[float, ...]:
        assert self._item.id == SENTINEL_ID
        return self._process.look()

    def take(self) -> None:
        self._process.order.append(self._item.id)
        if self._item.id == self._process.failing:
            raise UnfitError("threads were to be pinned")
        self._process.now_s += float(self._item.path)

    def close(self) -> None:
        self._process.open -= 1

    def result(self) -> dict[str, Any]:
        return {"id": self._item.id, "samples_us": (1.0, 2.0)}


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Process:
    return Process(monkeypatch, capsys)


def test_the_sentinel_is_timed_before_after_and_every_quarter_second(process: Process):
    lines = process.run(0.1, 0.1, 0.1, 0.2, 0.4, 0.1)
    assert process.order == [
        *(SENTINEL_ID, "item0", "item1", "item2"),
        *(SENTINEL_ID, "item3", "item4"),
        *(SENTINEL_ID, "item5", SENTINEL_ID),
    ]
    assert [line["id"] for line in lines] == [f"item{index}" for index in range(6)]
    assert [line["sentinel_us"] for line in lines] == [[51]] * 3 + [[52]] * 2 + [[53]]


def test_rounds_go_over_the_items_and_their_state_is_that_of_the_better_half(process: Process):
    lines = process.run(0.1, 0.1, 0.1, rounds=4)
    items = [name for name in process.order if name != SENTINEL_ID]
    assert items == ["item0", "item1", "item2"] * 4
    assert [line["id"] for line in lines] == ["item0", "item1", "item2"]
    assert [line["sentinel_us"] for line in lines] == [[52.0]] * 3  # of 51, 52, 53 and 54


def test_a_few_sessions_are_open_at_a_time(process: Process, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "TOGETHER", 2)
    process.run(0.01, 0.01, 0.01, rounds=2)
    items = [name for name in process.order if name != SENTINEL_ID]
    assert items == ["item0", "item1", "item0", "item1", "item2", "item2"]


def test_a_single_item_has_a_sentinel_on_either_side(process: Process):
    (line,) = process.run(3.0)
    assert process.order == [SENTINEL_ID, "item0", SENTINEL_ID]
    assert line == {"id": "item0", "samples_us": [1.0, 2.0], "sentinel_us": [51.0]}


def test_the_sentinel_stays_open_at_one_thread_and_is_closed_beside_the_items_of_several(process: Process):
    process.run(0.1, 0.4)
    assert process.opened_for_a_look == 0
    alone = process.order[:]
    process.order.clear()
    process.run(0.1, 0.4, threads=2)
    assert process.order == alone
    assert process.opened_for_a_look == alone.count(SENTINEL_ID)


@pytest.mark.parametrize("model", [CONVOLUTION, NETWORK], ids=lambda model: model.name)
def test_an_open_item_is_timed_again_and_again(tmp_path: Path, model: SentinelModel):
    (tmp_path / "sentinel.onnx").write_bytes(model.optimised())
    job = job_of(protocol=model.protocol)
    timing = Timing(Item(SENTINEL_ID, str(tmp_path / "sentinel.onnx"), as_is=True), job)
    looks = [timing.again() for _ in range(3)]
    timing.close()
    assert [len(look) for look in looks] == [model.protocol.samples] * 3
    assert min(map(min, looks)) > 0


def test_no_items_need_one_look_at_the_sentinel(process: Process):
    assert process.run() == []
    assert process.order == [SENTINEL_ID]


def test_an_error_ends_the_process_and_what_had_its_sentinels_was_told(process: Process):
    process.failing = "item2"
    lines = process.run(0.3, 0.1, 0.1, 0.1)
    assert [line["id"] for line in lines] == ["item0", "item2"]
    assert lines[1] == {"id": "item2", "error": "threads were to be pinned", "exit_code": UnfitError.exit_code}
    assert process.order[-1] == "item2"


# One item


@pytest.mark.real_clock
def test_an_item_says_where_its_threads_ran_and_how_much_memory_it_took(model: str):
    job = job_of()
    found = run_item(Item("network", model), job)
    assert found["id"] == "network"
    if Path("/proc/self/status").exists():
        assert found["affinity"] == tuple(map(str, job.cpus))
        assert found["memory_bytes"] is None or found["memory_bytes"] >= 0


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system does not list threads")
def test_no_worker_of_an_item_lives_on_and_spins_beside_what_is_timed_next(model: str):
    setting = dataclasses.replace(ONE, threads=3, pinned=False)
    job = dataclasses.replace(job_of(), setting=setting, cpus=())
    before = threads()
    timing = Timing(Item("a", model), job)
    assert len(threads() - before) == setting.threads - 1
    timing.take()
    assert threads() <= before
    assert len(timing.result()["samples_us"]) == QUICK.samples
    timing.close()  # once more does no harm


def threads() -> set[str]:
    return {entry.name for entry in Path("/proc/self/task").iterdir()}


def test_a_graph_that_stands_as_it_is_is_not_optimised_again(model: str, monkeypatch: pytest.MonkeyPatch):
    seen: list[Setting] = []

    class Stop(Exception):  # noqa: N818 - no error, the end of what is looked at
        pass

    def session(path: Path, setting: Setting, cpus: object) -> None:
        seen.append(setting)
        raise Stop

    monkeypatch.setattr("latencykit.worker.Session", session)
    for as_is in (False, True):
        with pytest.raises(Stop):
            run_item(Item("a", model, as_is), job_of())
    assert seen == [ONE, dataclasses.replace(ONE, optimisation="none")]


def test_a_system_that_tells_no_memory_leaves_it_unknown(model: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("latencykit.worker._reset_peak_memory", lambda: None)
    assert run_item(Item("a", model), job_of())["memory_bytes"] is None


def test_run_in_this_process_a_bad_model_is_an_error_of_this_project(tmp_path: Path):
    with pytest.raises(InputError):
        run_item(Item("a", str(tmp_path / "missing.onnx")), job_of())


def test_only_an_item_of_the_self_test_is_slowed(model: str, monkeypatch: pytest.MonkeyPatch):
    seen: list[float] = []

    def slowed(call: Any, percent: float) -> Any:
        seen.append(percent)
        return call

    monkeypatch.setattr("latencykit.worker.slowed", slowed)
    for percent in (None, 0.0, 5.0):
        assert len(run_item(Item("a", model, slowdown_pct=percent), job_of())["samples_us"]) == QUICK.samples
    assert seen == [0.0, 5.0]
