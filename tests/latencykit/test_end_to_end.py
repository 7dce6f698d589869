import contextlib
from pathlib import Path

import pytest

from latencykit.bench import UNSTEADY
from latencykit.end_to_end import P99_CALLS, PACED_SAMPLES, MeasuredModel, background_load, measure_models
from latencykit.measurement import Measurement
from latencykit.runtime import Setting
from tests.latencykit.made_up import FakeWorkers, Waits, children

ONE = Setting(threads=1)


def test_models_are_reported_in_the_order_asked_for_with_their_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    FakeWorkers(tmp_path, monkeypatch, 'result["memory_bytes"] = 1000 if item["id"] == "0" else None')
    ticks: list[int] = []
    paths = [tmp_path / "b.onnx", tmp_path / "a.onnx", tmp_path / "b.onnx"]
    found = measure_models(paths, ONE, None, 2, lambda _: ticks.append(1))
    assert [model.path for model in found] == list(map(str, paths))
    assert [model.memory_bytes for model in found] == [1000, None, None]
    assert [model.measurement.processes for model in found] == [2, 2, 2]
    assert len(ticks) == 6


def test_models_on_a_machine_that_stays_unsteady_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Waits(monkeypatch)
    FakeWorkers(tmp_path, monkeypatch, 'result["sentinel_us"] = [50.0, 90.0 if item["id"] == "1" else 50.0]')
    good, bad = measure_models([tmp_path / "a.onnx", tmp_path / "b.onnx"], ONE, None, 1)
    assert (good.steady, bad.steady) == (True, False)
    assert f"{tmp_path / 'b.onnx'}: {UNSTEADY}" in bad.warnings
    assert not any(UNSTEADY in warning for warning in good.warnings)


def test_under_a_load_on_purpose_no_state_is_waited_for_nor_complained_about(tmp_path, monkeypatch):
    waits = Waits(monkeypatch)
    workers = FakeWorkers(tmp_path, monkeypatch, states=[50.0, 200.0])
    (model,) = measure_models([tmp_path / "a.onnx"], ONE, None, 2, loaded=True)
    assert len(workers.orders) == 2
    assert model.steady
    assert waits.slept_s == 0


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
