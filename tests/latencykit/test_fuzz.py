"""The fuzzing of `benchmarks/fuzz.py`, short; and that it would find something."""

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SEED = 2_000_003
INPUTS = 250
NAMES = ["table", "macro", "architecture", "onnx", "archive", "kit", "result"]


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("fuzz")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("name", NAMES)
def test_only_errors_of_this_project_come_out_of_a_loader(name: str, fuzz: ModuleType) -> None:
    tally, inputs = fuzz.Tally(), 80 if name == "result" else INPUTS
    fuzz.fuzz(name, inputs, SEED, tally)
    assert tally.data["examples"] == []
    assert tally.data["failures"] == 0
    assert tally.data["inputs"] == inputs
    assert tally.data["accepted"] > 0
    assert tally.data["refused"] > inputs / 5
    assert len(tally.as_json()["refused_as"]) > 5


@pytest.mark.parametrize("name", NAMES)
def test_the_files_that_inputs_are_made_of_are_valid(name: str, fuzz: ModuleType, tmp_path: Path) -> None:
    for number, content in enumerate(dict.fromkeys(fuzz.LOADERS[name].corpus())):
        (tmp_path / "valid").write_bytes(content)
        found = fuzz.attempt(name, tmp_path / "valid", number)
        assert found["outcome"] == "accepted" or "control flow" in found["why"]


def test_an_input_is_made_of_seed_and_number_alone(fuzz: ModuleType) -> None:
    for name in fuzz.LOADERS:
        first = [fuzz.make_input(name, 5, number) for number in range(20)]
        assert [fuzz.make_input(name, 5, number) for number in range(20)] == first
        assert len(set(first)) > 15
        assert [fuzz.make_input(name, 6, number) for number in range(20)] != first


def test_another_exception_is_a_failure_with_its_bytes(fuzz: ModuleType, tmp_path: Path, monkeypatch: Any) -> None:
    def broken(path: Path, number: int) -> None:
        raise KeyError("reasons")

    monkeypatch.setitem(fuzz.LOADERS, "macro", dataclasses.replace(fuzz.LOADERS["macro"], use=broken))
    found = fuzz.attempt("macro", tmp_path / "x", 0)
    assert found["outcome"] == "failure"
    assert "KeyError" in found["why"]
    tally = fuzz.Tally()
    for number in range(5):
        tally.add({**found, "number": number}, lambda: b"{}")
    assert tally.data["failures"] == 5
    assert [example["base64"] for example in tally.data["examples"]] == ["e30="] * 3


def test_a_process_that_dies_is_a_failure_and_the_rest_goes_on(
    fuzz: ModuleType, tmp_path: Path, monkeypatch: Any
) -> None:
    """A stand-in for the script, whose process kills itself at its third input."""
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys\n"
        "start, until = (int(sys.argv[sys.argv.index(word) + 1]) for word in ('--from', '--inputs'))\n"
        "for number in range(start, until):\n"
        "    if number == 2: os.kill(os.getpid(), 11)\n"
        "    print(json.dumps({'number': number, 'outcome': 'accepted'}), flush=True)\n"
    )
    monkeypatch.setattr(fuzz, "__file__", str(script))
    found = list(fuzz.outcomes("macro", 1, 0, 5))
    assert [entry["number"] for entry in found] == [0, 1, 2, 3, 4]
    assert [entry["outcome"] for entry in found] == ["accepted", "accepted", "failure", "accepted", "accepted"]
    assert "SIGSEGV" in found[2]["why"]


def test_a_run_goes_on_where_it_was_stopped(fuzz: ModuleType) -> None:
    whole, halved = fuzz.Tally(), fuzz.Tally()
    fuzz.fuzz("macro", 60, SEED, whole)
    fuzz.fuzz("macro", 25, SEED, halved)
    resumed = fuzz.Tally(json.loads(json.dumps(halved.as_json())))
    fuzz.fuzz("macro", 60, SEED, resumed)
    assert resumed.as_json() == whole.as_json()


def test_refusals_of_one_kind_are_counted_together(fuzz: ModuleType) -> None:
    one = "InputError: /tmp/tmpab12/input.json: macro.cell_nodes is 17; expected at most 8."
    other = "InputError: /tmp/tmpzz99/input.json: macro.cell_nodes is -3e9; expected at most 8."
    assert fuzz.shape_of(one) == fuzz.shape_of(other)
    assert fuzz.shape_of(one) != fuzz.shape_of(one.replace("cell_nodes", "image_size"))
