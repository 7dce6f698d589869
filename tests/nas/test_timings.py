from dataclasses import replace

from latencykit.architecture import write_architecture
from latencykit.baselines import Baseline
from latencykit.end_to_end import MeasuredModel
from latencykit.instructions import used_cpu
from latencykit.measurement import Measurement
from latencykit.runtime import Setting
from latencykit.sample import sample_architectures
from nas import timings
from nas.timings import measure_rows
from tests.nas.tiny_run import MACRO

NETWORK = sample_architectures(MACRO, 1, 3)[0]


def refuse(*_, **__):
    raise AssertionError("measured again")


def test_models_of_one_architecture_are_timed_once(tmp_path, monkeypatch):
    models = {}
    for name, width in (("a0", 4), ("b0", 8), ("a1", 4)):
        write_architecture(tmp_path / f"{name}.json", Baseline(width=width, depth=2, stride=8))
        models[tmp_path / f"{name}.onnx"] = tmp_path / f"{name}.json"
    asked = []

    def fake(paths, setting, pace_hz, processes, advance):
        asked.append((list(paths), setting.threads, pace_hz, processes))
        return [MeasuredModel(str(path), Measurement(((float(n),),)), (), None) for n, path in enumerate(paths, 1)]

    monkeypatch.setattr(timings, "measure_models", fake)
    found = measure_rows(models, Setting(1), 30.0, 5, tmp_path / "latencies.json")
    ((paths, threads, pace_hz, processes),) = asked
    assert (len(paths), threads, pace_hz, processes) == (3, 1, 30.0, 5)  # two architectures and their floor
    assert found.keys() == models.keys()
    a0, b0, a1 = (found[path].pair.median_us for path in models)
    assert a0 == a1 != b0
    assert len({found[path].floor.median_us for path in models}) == 1


def test_what_was_timed_is_not_timed_again_until_a_model_is_added(tmp_path, monkeypatch):
    models, asked = {}, []

    def fake(paths, setting, pace_hz, processes, advance):
        asked.append(len(paths))
        return [MeasuredModel(str(path), Measurement(((float(n),),)), (), None) for n, path in enumerate(paths, 1)]

    monkeypatch.setattr(timings, "measure_models", fake)
    for name, width in (("a", 4), ("b", 8)):
        write_architecture(tmp_path / f"{name}.json", Baseline(width=width, depth=2, stride=8))
        models[tmp_path / f"{name}.onnx"] = tmp_path / f"{name}.json"
        for _ in range(2):
            found = measure_rows(models, Setting(1), None, 3, tmp_path / "latencies.json")
    assert asked == [2, 3]
    assert sorted(one.pair.median_us for one in found.values()) == [1.0, 2.0]
    measure_rows(models, Setting(2), None, 3, tmp_path / "latencies.json")
    assert asked == [2, 3, 3]


def test_what_another_machine_of_the_same_brand_took_does_not_count_here(tmp_path, monkeypatch):
    asked = []

    def fake(paths, setting, pace_hz, processes, advance):
        asked.append(len(paths))
        return [MeasuredModel(str(path), Measurement(((1.0,),)), (), None) for path in paths]

    monkeypatch.setattr(timings, "measure_models", fake)
    write_architecture(tmp_path / "a.json", Baseline(width=4, depth=2, stride=8))
    for l3_bytes in (2**24, 2**25, 2**24):
        monkeypatch.setattr(timings, "used_cpu", lambda size=l3_bytes: replace(used_cpu(), l3_bytes=size))
        measure_rows({tmp_path / "a.onnx": tmp_path / "a.json"}, Setting(1), None, 3, tmp_path / "latencies.json")
    assert asked == [2, 2]  # the pair and its floor, on each of two machines
