import json
from dataclasses import replace

import numpy as np
import pytest

from latencykit.architecture import write_architecture
from latencykit.baselines import Baseline
from latencykit.bench import MeasuredModel
from latencykit.edges import cost
from latencykit.errors import InputError, NotComparableError
from latencykit.measurement import Measurement
from latencykit.runtime import Setting
from latencykit.sample import sample_architectures
from latencykit.table_file import load_table
from nas import latency
from nas.latency import ensure_table, measure_rows, search_costs, validate_table
from tests.nas.tiny_run import MACRO, short_protocols


def refuse(*_, **__):
    raise AssertionError("measured again")


@pytest.fixture
def table_file(finished_run, tmp_path):
    target = tmp_path / "table.json"
    target.write_bytes((finished_run.out / "table.json").read_bytes())
    return target


def test_a_table_that_covers_the_rows_is_taken_as_it_is(table_file, monkeypatch):
    before = table_file.read_bytes()
    monkeypatch.setattr(latency, "build", refuse)
    assert ensure_table(table_file, [MACRO], [1]).checksum == load_table(table_file).checksum
    assert table_file.read_bytes() == before


def test_a_table_that_lacks_rows_is_completed_and_keeps_what_it_had(table_file):
    whole = load_table(table_file)
    lacking = whole.rows[::20]
    kept = [row for row in whole.rows if row not in lacking]
    replace(whole, rows=tuple(kept), sentinels=()).save(table_file)  # such short samples make no steady sentinel
    with short_protocols():
        completed = ensure_table(table_file, [MACRO], [1])
    assert {row.key for row in completed.rows} == {row.key for row in whole.rows}
    assert all(row in completed.rows for row in kept)
    assert load_table(table_file).checksum == table_checksum(completed)


def test_a_lacking_table_of_another_cpu_is_refused_and_left_alone(table_file):
    whole = load_table(table_file)
    replace(whole, cpu=replace(whole.cpu, model="Another CPU"), rows=whole.rows[1:]).save(table_file)
    before = table_file.read_bytes()
    with pytest.raises(NotComparableError, match="Another CPU"):
        ensure_table(table_file, [MACRO], [1])
    assert table_file.read_bytes() == before


@pytest.fixture
def validated(finished_run, tmp_path):
    """A folder with a finished validation, and the table that it is of."""
    for name in ("validation.json", "validation.png"):
        (tmp_path / name).write_bytes((finished_run.out / name).read_bytes())
    return tmp_path, load_table(finished_run.out / "table.json")


def test_a_validation_is_not_done_again(validated, monkeypatch):
    folder, table = validated
    monkeypatch.setattr(latency, "validate", refuse)
    validate_table(table, MACRO, 1, 2, folder)


def test_a_validation_says_which_table_it_is_of(validated):
    folder, table = validated
    found = json.loads((folder / "validation.json").read_text())
    assert (found["table_sha"], found["n"], found["threads"]) == (table_checksum(table), 2, 1)
    assert {"isolated", "kernel"} == set(found["levels"])
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


def test_costs_come_back_from_disk_as_they_were_fitted(finished_run, tmp_path, monkeypatch):
    table = load_table(finished_run.out / "table.json")
    monkeypatch.setattr(latency, "FIT_NETWORKS", 10)
    fitted = search_costs(table, 1, MACRO, tmp_path)
    monkeypatch.setattr(latency, "cost", refuse)
    read = search_costs(table, 1, MACRO, tmp_path)
    assert (read.fixed_ms, read.level, read.residual_pct) == (fitted.fixed_ms, fitted.level, fitted.residual_pct)
    assert read.edges_ms.keys() == fitted.edges_ms.keys()
    for cell_type, array in fitted.edges_ms.items():
        assert read.edges_ms[cell_type].dtype == np.float64
        np.testing.assert_array_equal(read.edges_ms[cell_type], array)
    architecture = sample_architectures(MACRO, 1, 3)[0]
    assert read.total_ms(architecture) == fitted.total_ms(architecture) > 0


def test_costs_of_another_fit_have_a_file_of_their_own(finished_run, tmp_path, monkeypatch):
    table = load_table(finished_run.out / "table.json")
    for networks in (10, 12):
        monkeypatch.setattr(latency, "FIT_NETWORKS", networks)
        found = search_costs(table, 1, MACRO, tmp_path)
        assert found.fixed_ms == cost(table, table.setting(1), MACRO, networks=networks).fixed_ms
    assert len(list(tmp_path.glob("*.json"))) == 2


@pytest.mark.parametrize("text", ["[]", "{}", '{"edges_ms": 3}'])
def test_a_file_without_costs_is_refused_with_a_remedy(finished_run, tmp_path, monkeypatch, text):
    table = load_table(finished_run.out / "table.json")
    monkeypatch.setattr(latency, "FIT_NETWORKS", 10)
    search_costs(table, 1, MACRO, tmp_path)
    (path,) = tmp_path.glob("*.json")
    path.write_text(text)
    with pytest.raises(InputError, match=r"holds no costs; delete it"):
        search_costs(table, 1, MACRO, tmp_path)


def test_models_of_one_architecture_are_timed_once(tmp_path, monkeypatch):
    models = {}
    for name, width in (("a0", 4), ("b0", 8), ("a1", 4)):
        write_architecture(tmp_path / f"{name}.json", Baseline(width=width, depth=2, stride=8))
        models[tmp_path / f"{name}.onnx"] = tmp_path / f"{name}.json"
    asked = []

    def fake(paths, setting, pace_hz, processes, advance):
        asked.append((list(paths), setting.threads, pace_hz, processes))
        return [MeasuredModel(str(path), Measurement(((float(n),),)), (), None) for n, path in enumerate(paths, 1)]

    monkeypatch.setattr(latency, "measure_models", fake)
    found = measure_rows(models, Setting(1), 30.0, 5, tmp_path / "latencies.json")
    ((paths, threads, pace_hz, processes),) = asked
    assert (len(paths), threads, pace_hz, processes) == (2, 1, 30.0, 5)
    assert found.keys() == models.keys()
    a0, b0, a1 = (found[path].median_us for path in models)
    assert a0 == a1 != b0


def test_what_was_timed_is_not_timed_again_until_a_model_is_added(tmp_path, monkeypatch):
    models, asked = {}, []

    def fake(paths, setting, pace_hz, processes, advance):
        asked.append(len(paths))
        return [MeasuredModel(str(path), Measurement(((float(n),),)), (), None) for n, path in enumerate(paths, 1)]

    monkeypatch.setattr(latency, "measure_models", fake)
    for name, width in (("a", 4), ("b", 8)):
        write_architecture(tmp_path / f"{name}.json", Baseline(width=width, depth=2, stride=8))
        models[tmp_path / f"{name}.onnx"] = tmp_path / f"{name}.json"
        for _ in range(2):
            found = measure_rows(models, Setting(1), None, 3, tmp_path / "latencies.json")
    assert asked == [1, 2]
    assert sorted(one.median_us for one in found.values()) == [1.0, 2.0]
    measure_rows(models, Setting(2), None, 3, tmp_path / "latencies.json")
    assert asked == [1, 2, 2]
