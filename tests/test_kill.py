"""The kill test: that its checks can fail, and a short run of it."""

import importlib.util
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from latencykit.graph import chain
from latencykit.keys import key_id
from latencykit.lowering import graph_to_onnx
from latencykit.runtime import Setting
from latencykit.spec import Conv
from latencykit.sweep import ROW_PROTOCOL
from latencykit.table import Table
from tests.latencykit.made_up import ONE, TWO, made_up_table, relu_kernel, steady

if os.name != "posix":
    pytest.skip("signals and links of POSIX", allow_module_level=True)


def _load() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "kill.py"
    spec = importlib.util.spec_from_file_location("kill", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["kill"] = module  # where its dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


kill = _load()


@pytest.fixture
def table() -> Table:
    whole = made_up_table({relu_kernel(2): 5.0, relu_kernel(4): 6.0})
    rows = [replace(row, measurement=steady(row.median_us, ROW_PROTOCOL.processes, 2)) for row in whole.rows]
    return replace(whole, rows=tuple(rows))


def journal_of(table: Table) -> list[dict[str, Any]]:
    """The entries that a build of a table writes."""
    found = []
    for process in range(ROW_PROTOCOL.processes):
        for row in table.rows:
            assert row.measurement is not None
            samples = [*row.measurement.samples_us[process]]
            found.append(entry(row.setting, key_id(row.key), process, samples))
    return found


def entry(setting: Setting, name: str, process: int, samples: list[float], state_us: float = 50.0) -> dict[str, Any]:
    sample = {"id": name, "process": process, "samples_us": samples, "sentinel_us": [49.0, state_us]}
    return {"setting": asdict(setting), "sample": sample}


def wanted(table: Table) -> set[tuple[str, str]]:
    return {(kill.name_of(asdict(row.setting)), key_id(row.key)) for row in table.rows}


def test_a_whole_build_has_no_complaints(table: Table):
    assert kill.complaints(table, wanted(table), journal_of(table)) == []


def test_every_complaint_can_be_made(table: Table):
    entries, keys = journal_of(table), wanted(table)
    (twice,) = kill.complaints(table, keys, [*entries, entries[1]])
    assert "was measured again though its sentinel was as fast as any" in twice
    missing, differs = kill.complaints(table, keys, entries[:-1])
    assert "in the table and not in the journal" in missing
    assert "samples are not the journal's" in differs
    stranger = {**entries[1], "setting": asdict(TWO)}
    (extra,) = kill.complaints(table, keys, [*entries, stranger])
    assert "in the journal and not in the table" in extra
    changed = json.loads(json.dumps(entries))
    changed[1]["sample"]["samples_us"][0] += 1
    assert len(kill.complaints(table, keys, changed)) == 1
    lost_row = replace(table, rows=table.rows[1:])
    assert "1 keys are not those" in kill.complaints(lost_row, keys, journal_of(lost_row))[0]


def test_a_sample_of_another_state_may_be_measured_again_and_the_steadiest_counts(table: Table):
    entries, keys = journal_of(table), wanted(table)
    name = entries[0]["sample"]["id"]
    busy = entry(ONE, name, 0, [99.0, 99.0], state_us=80.0)
    assert kill.complaints(table, keys, [entries[1], busy, *entries[2:], entries[0]]) == []
    still_busy = entry(ONE, name, 0, [98.0, 98.0], state_us=90.0)
    assert kill.complaints(table, keys, [entries[1], busy, still_busy, *entries[2:], entries[0]]) == []
    (wrong,) = kill.complaints(table, keys, [entries[1], busy, *entries[2:]])
    assert "samples are not the journal's" in wrong


def test_the_lives_of_a_journal_are_one_that_goes_on():
    a, b, c = ({"sample": letter} for letter in "abc")
    assert kill.lifetime([[a], [a, b], []]) == ([a, b], [])
    assert kill.lifetime([]) == ([], [])
    everything, lost = kill.lifetime([[a, b], [a, c]])
    assert everything == [a, b, a, c]
    assert lost == ["journal 1 does not go on from what was measured before"]


def test_a_torn_line_is_no_entry():
    assert kill.entries('{"cpu": 1}\n{"a": 1}\n{"b": ') == [{"a": 1}]
    assert kill.entries("") == kill.entries('{"cpu"') == []


def test_the_witness_keeps_what_is_replaced_and_deleted(tmp_path: Path):
    journal = tmp_path / "table.json.journal"
    witness = kill.Witness(journal, tmp_path / "kept")
    witness.look()
    journal.write_text('{"cpu": 1}\n')
    witness.look()
    with journal.open("a") as file:
        file.write('{"a": 1}\n{"to')
    witness.look()
    whole = tmp_path / "whole"
    whole.write_text('{"cpu": 1}\n{"a": 1}\n')
    whole.replace(journal)
    witness.look()
    with journal.open("a") as file:
        file.write('{"b": 1}\n')
    journal.unlink()
    witness.look()
    assert witness.lives() == [[{"a": 1}], [{"a": 1}, {"b": 1}]]


@pytest.mark.real_clock
def test_a_real_build_is_killed_resumed_and_whole(tmp_path: Path):
    model = tmp_path / "model.onnx"
    model.write_bytes(graph_to_onnx(chain([Conv(16), Conv(16)], [(16, 32, 32)])).SerializeToString())
    keys, build_s = kill.reference(model, tmp_path / "reference")
    assert len(keys) > 2
    found = kill.one_round(0, "1", model, tmp_path / "round", keys, build_s)
    assert found.failures == []
    assert found.kills
    assert found.samples >= ROW_PROTOCOL.processes * len(keys)
    result = kill.summary(1, build_s, len(keys), [asdict(found)])
    assert (result["rounds"], result["failed"], result["kills"]) == (1, 0, len(found.kills))
    assert sum(result["where"].values()) == len(found.kills)
