"""The measuring process as it is started: what it imports, what it answers."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from latencykit.errors import InputError
from latencykit.measurement import Protocol
from latencykit.runtime import Setting, runtime_version
from latencykit.topology import check_threads
from latencykit.worker import Item, Job, job_from_json, job_to_json, run_item
from tests.latencykit.made_up import QUICK

HEAVY = {"torch", "pandas", "matplotlib", "scipy", "click", "rich", "onnx", "cpuinfo"}
START = ["-P", "-m", "latencykit.worker"]
ONE = Setting(threads=1)


def job_of(*items: Item, setting: Setting = ONE, protocol: Protocol = QUICK) -> Job:
    return Job(setting, protocol, check_threads(setting.threads), items, seed=1)


def answers(job: Job, start: list[str] = START) -> list[dict[str, Any]]:
    found = subprocess.run(
        [sys.executable, *start], input=job_to_json(job) + "\n", capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in found.stdout.splitlines()]


@pytest.fixture(scope="module")
def model(tiny_network: bytes, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("worker") / "network.onnx"
    path.write_bytes(tiny_network)
    return str(path)


def test_a_job_survives_json():
    job = job_of(Item("a", "a.onnx"), Item("b", "b.onnx", True, 5.0), protocol=dataclasses.replace(QUICK, pace_hz=30))
    assert job_from_json(job_to_json(job)) == job
    assert "\n" not in job_to_json(job)


def test_the_measuring_process_imports_numpy_and_onnxruntime_and_nothing_heavy():
    (ready,) = answers(job_of())
    modules = set(ready["ready"]["modules"])
    assert {"numpy", "onnxruntime", "latencykit"} <= modules
    assert not modules & HEAVY
    assert ready["ready"]["runtime"] == runtime_version()


def test_the_check_of_its_imports_can_fail():
    start = ["-P", "-c", "import pandas, click; from latencykit.worker import main; main()"]
    (ready,) = answers(job_of(), start)
    assert set(ready["ready"]["modules"]) & HEAVY >= {"pandas", "click"}


@pytest.mark.real_clock
def test_a_bad_model_comes_back_as_a_line_and_the_others_are_still_timed(model: str, tmp_path: Path):
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    items = Item("broken", str(tmp_path / "broken.onnx")), Item("missing", str(tmp_path / "no")), Item("good", model)
    ready, broken, missing, good = answers(job_of(*items))
    assert "ready" in ready
    assert broken["id"] == "broken"
    assert "broken.onnx" in broken["error"]
    assert missing["id"] == "missing"
    assert "onnxruntime refuses" in missing["error"]
    assert good["id"] == "good"
    assert len(good["samples_us"]) == QUICK.samples
    assert min(good["samples_us"]) > 0
    assert good["timed_s"] > 0


@pytest.mark.real_clock
def test_an_item_says_where_its_threads_ran_and_how_much_memory_it_took(model: str):
    job = job_of()
    found = run_item(Item("network", model), job)
    assert found["id"] == "network"
    if Path("/proc/self/status").exists():
        assert found["affinity"] == tuple(map(str, job.cpus))
        assert found["memory_bytes"] is None or found["memory_bytes"] >= 0


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
