"""JSON to dataclasses: strict, and every message says where."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latencykit.errors import InputError
from latencykit.kernels import CALL_OVERHEAD
from latencykit.macro import Macro
from latencykit.schema import decode, naming, read_json, to_json
from tests.latencykit.made_up import CPU


@dataclass(frozen=True)
class Leaf:
    size: int
    kind: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"size is {self.size}; expected at least 1.")


@dataclass(frozen=True)
class Tree:
    leaves: tuple[Leaf, ...]
    named: dict[str, Leaf]
    free: dict[str, Any]
    weight: float | None = None


TREE = {"leaves": [{"size": 1}, {"size": 2, "kind": "b"}], "named": {"x": {"size": 3}}, "free": {"y": [{"z": 1}]}}


def test_nested_data_become_dataclasses() -> None:
    tree = decode(Tree, TREE, "here")
    assert tree == Tree((Leaf(1), Leaf(2, "b")), {"x": Leaf(3)}, {"y": [{"z": 1}]})


@given(
    st.builds(
        Tree,
        st.lists(st.builds(Leaf, st.integers(1, 2**53), st.sampled_from(["a", "b"]))).map(tuple),
        st.dictionaries(st.text(), st.builds(Leaf, st.integers(1, 9))),
        st.dictionaries(st.text(), st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)),
        st.none() | st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_what_is_written_reads_back_the_same(tree: Tree) -> None:
    assert decode(Tree, json.loads(json.dumps(to_json(tree))), "here") == tree


@pytest.mark.parametrize(
    "value",
    [
        Tree((Leaf(1), Leaf(2, "b")), {"x": Leaf(3)}, {"y": [{"z": (1, None)}], "w": {}}, 0.5),
        CALL_OVERHEAD,
        Macro(),
        CPU,
        (True, None, "x", [Leaf(1)], {"a": ()}),
    ],
    ids=["tree", "kernel", "macro", "cpu", "plain"],
)
def test_plain_data_are_what_msgspec_makes_which_a_target_has_not(value: Any) -> None:
    assert to_json(value) == msgspec.to_builtins(value)
    assert json.dumps(to_json(value)) == json.dumps(msgspec.to_builtins(value))


@pytest.mark.parametrize("value", [np.float64(1.5), np.array([1]), object(), Path("x")])
def test_what_has_no_json_form_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError, match="has no JSON form"):
        to_json({"a": [value]})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({**TREE, "more": 1}, "here: unknown field 'more'; known are free, leaves, named, weight"),
        ({**TREE, "leaves": [{"size": 1, "colour": "red"}]}, r"here: leaves\[0\]: unknown field 'colour'"),
        ({**TREE, "named": {"x": {"size": 1, "colour": "red"}}}, "here: named: x: unknown field 'colour'"),
        ({**TREE, "leaves": [{"size": 0}]}, "here: size is 0; expected at least 1"),
        ({**TREE, "leaves": [{"size": "1"}]}, "here: Expected `int`, got `str`"),
        ({**TREE, "leaves": [{"size": True}]}, "here: Expected `int`, got `bool`"),
        ({**TREE, "leaves": [{"size": 1.5}]}, "here: Expected `int`, got `float`"),
        ({**TREE, "leaves": [{"size": 1, "kind": "c"}]}, "here: Invalid enum value 'c'"),
        ({**TREE, "leaves": None}, "here: Expected `array`, got `null`"),
        ({"leaves": [], "named": {}}, "here: Object missing required field `free`"),
        ([], "here: Expected `object`, got `array`"),
        (None, "here: Expected `object`, got `null`"),
        ({**TREE, 7: 1}, "here: unknown field '7'"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode(Tree, data, "here")


def test_other_errors_pass_naming_unchanged() -> None:
    with pytest.raises(KeyError), naming("here"):
        raise KeyError("x")


@pytest.mark.parametrize(
    "text",
    ["", "{", "NaN", '{"a": Infinity}', "[-Infinity]", "[" * 100_000, "9" * 5000, "\ud800"],
    ids=["empty", "cut", "nan", "infinity", "minus", "deep", "long number", "surrogate"],
)
def test_what_is_no_json_is_refused_with_the_files_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    with pytest.raises(InputError, match=r"bad\.json cannot be read as JSON"):
        read_json(path, 1_000_000)


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "big.json"
    path.write_text('"' + 9 * "x" + '"')
    assert read_json(path, 11) == "x" * 9
    with pytest.raises(InputError, match=r"big\.json is 11 bytes; at most 10 are read"):
        read_json(path, 10)


def test_an_absent_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_json(path, 100_000)
