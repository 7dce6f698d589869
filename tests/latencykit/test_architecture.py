"""architecture.json: the way there and back, and what is refused."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latencykit.architecture import (
    architecture_from_json,
    architecture_to_json,
    network_floor,
    network_graph,
    read_architecture,
    write_architecture,
)
from latencykit.baselines import Baseline, baseline_graph
from latencykit.errors import InputError
from latencykit.macro import Macro
from latencykit.sample import sample_architectures
from latencykit.space import instantiate
from latencykit.spec import AvgPool
from tests.latencykit.running import MACROS, SMALL

(SAMPLED,) = sample_architectures(SMALL, 1, 5)
DATA = architecture_to_json(SAMPLED)


@given(st.integers(0, 10**6), st.sampled_from(list(MACROS.values())))
def test_an_architecture_survives_json(seed: int, macro: Macro) -> None:
    (architecture,) = sample_architectures(macro, 1, seed)
    data = json.loads(json.dumps(architecture_to_json(architecture)))
    assert architecture_from_json(data, "here") == architecture


def test_a_file_holds_what_the_contract_names(tmp_path: Path) -> None:
    write_architecture(tmp_path / "a.json", SAMPLED)
    data = json.loads((tmp_path / "a.json").read_text())
    assert set(data) == {"schema", "space", "macro", "choices"}
    assert set(data["choices"]) == {"down", "up", "contracting", "non_scaling"}
    assert read_architecture(tmp_path / "a.json") == SAMPLED


def test_a_file_written_again_is_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    write_architecture(first, SAMPLED)
    write_architecture(second, read_architecture(first))
    assert first.read_bytes() == second.read_bytes()


def test_a_baseline_survives_a_file(tmp_path: Path) -> None:
    baseline = Baseline(width=8, stride=4, head="depth_to_space")
    write_architecture(tmp_path / "a.json", baseline)
    assert read_architecture(tmp_path / "a.json") == baseline


def test_a_graph_is_made_of_either() -> None:
    baseline = Baseline(width=2, depth=1, quality_width=2, image_size=32)
    assert network_graph(SAMPLED) == instantiate(SAMPLED)
    assert network_graph(baseline) == baseline_graph(baseline)


def test_fields_of_the_macro_that_are_absent_are_the_papers() -> None:
    data = {**architecture_to_json(sample_architectures(Macro(), 1, 5)[0]), "macro": {}}
    network = architecture_from_json(data, "here")
    assert network_graph(network).inputs == {"image": (3, 256, 256)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "a.json: architecture schema 1 expected, found 2"),
        ({"schema": "1"}, "a.json: Expected `int`, got `str`"),
        ({"space": "darts"}, "a.json: unknown space 'darts'; known are 'paper' and 'unet-resnet18'"),
        ({"choices": None}, "a.json: the space 'paper' needs `choices`; `latencykit sample` writes examples"),
        ({"choices": {}}, "a.json: architecture: choices for down, up"),
        ({"choices": {**DATA["choices"], "side": []}}, "a.json: Invalid enum value 'side'"),
        ({"choices": {**DATA["choices"], "up": ["conv"]}}, "a.json: architecture: up has 1 choices; expected 9"),
        ({"choices": {**DATA["choices"], "up": "conv"}}, "a.json: Expected `array`, got `str`"),
        ({"choices": {**DATA["choices"], "up": [1] * 9}}, "a.json: Expected `str`, got `int`"),
        ({"macro": {"image_size": 33}}, "a.json: macro: macro: the segmentation network divides"),
        ({"macro": {"sise": 33}}, "a.json: macro: unknown field 'sise'"),
        ({"macro": None}, "a.json: Expected `object`, got `null`"),
        ({"more": 1}, "a.json: unknown field 'more'"),
        ({"space": "unet-resnet18"}, "a.json: the space 'unet-resnet18' has no `choices`"),
    ],
)
def test_a_file_that_is_no_architecture_is_refused_and_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**DATA, **change}))
    with pytest.raises(InputError, match=message):
        read_architecture(path)


@pytest.mark.parametrize("text", ["", "[]", "null", '"paper"', "{}"])
def test_what_is_no_object_is_refused_and_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"a\.json"):
        read_architecture(path)


@pytest.mark.parametrize(
    "network",
    [
        Baseline(width=4, depth=2, stride=4, image_size=64),
        sample_architectures(Macro(64, 4, 2, (4, 4, 8), (4, 8), 1, output_stride=2), 1, seed=0)[0],
    ],
)
def test_the_floor_of_a_pair_is_its_input_and_head(network):
    floor, whole = network_floor(network), network_graph(network)
    assert {name: floor.shapes[node] for name, node in floor.outputs.items()} == {
        name: whole.shapes[node] for name, node in whole.outputs.items()
    }
    roles = Counter(node.role for node in whole.nodes)
    of_floor = Counter(node.role for node in floor.nodes)
    assert of_floor["head"] == roles["head"]
    assert of_floor["uncertainty"] == roles["uncertainty"]
    first = next(node for node in whole.nodes if isinstance(node.operation, AvgPool))
    assert floor[first.name].operation == first.operation  # the image's way in is the pair's
    assert set(of_floor) <= {"input", "head", "uncertainty", "concat"}
    assert 0 < floor.macs < whole.macs / 2
