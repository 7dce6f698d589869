import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from latencykit import coverage
from latencykit.calibrate import SpaceNeeds
from latencykit.coverage import lower_all, network_kernels, plain_networks, space_primitives, stride_macros
from latencykit.errors import InputError
from latencykit.kernels import kernels_of
from latencykit.keys import Primitive
from latencykit.lowering import graph_to_onnx
from latencykit.primitives import PRIMITIVES, ZERO
from latencykit.runtime import Setting
from latencykit.sample import sample_architectures
from latencykit.space import CELL_TYPES, Choice, cell_edges, instantiate, template
from latencykit.spec import Add, Identity, Zero
from latencykit.table import Table
from tests.latencykit.made_up import ONE, TINY


def test_strides_change_both_networks_and_nothing_else():
    one, four = stride_macros(TINY, (1, 4))
    assert one == TINY
    assert four == replace(TINY, segmentation_stride=4, quality_stride=4)
    assert stride_macros(TINY, ()) == []


def test_a_stride_that_leaves_no_network_is_refused():
    with pytest.raises(InputError, match="image_size"):
        stride_macros(TINY, (16,))


def test_every_primitive_is_listed_once():
    found = space_primitives(TINY)
    assert max(Counter(found).values()) == 1
    assert {type(operation) for key in found for operation in key.operations} >= {Identity, Zero, Add}


def test_every_candidate_of_every_edge_is_listed():
    found, plan = set(space_primitives(TINY)), template(TINY)
    for node in plan.nodes:
        if isinstance(node.operation, Choice):
            for candidate in PRIMITIVES[node.operation.kind]:
                assert Primitive(node.operation.operations(candidate), plan.input_shapes(node)) in found


def test_sums_are_listed_for_every_number_of_terms_that_deleted_edges_leave():
    terms = {len(key.inputs) for key in space_primitives(TINY) if isinstance(key.operations[0], Add)}
    assert terms == {2, 3, 4}


def test_every_sampled_network_is_made_of_listed_primitives():
    listed = set(space_primitives(TINY))
    for architecture in sample_architectures(TINY, 20, seed=5):
        for operations, inputs, _ in instantiate(architecture).fragments():
            assert Primitive(operations, inputs) in listed


def test_a_table_of_the_space_holds_every_key(tiny_needs: SpaceNeeds, tiny_table: Table):
    assert len(tiny_table.lookup(ONE, tiny_needs.keys)) == len(tiny_needs.keys)


def test_kernels_of_a_network_are_those_that_the_runtime_is_left_with(tmp_path: Path):
    (architecture,) = sample_architectures(TINY, 1, seed=0)
    model = graph_to_onnx(instantiate(architecture)).SerializeToString()
    for threads in (1, 2):  # they do not depend on it
        assert network_kernels(architecture) == Counter(kernels_of(model, Setting(threads, pinned=False), tmp_path))


def test_networks_are_lowered_in_their_order_with_a_step_for_each(monkeypatch: pytest.MonkeyPatch):
    chosen = sample_architectures(TINY, 6, seed=1)
    ticks: list[int] = []
    one_by_one = lower_all(chosen, lambda: ticks.append(1))
    assert one_by_one == [network_kernels(architecture) for architecture in chosen]
    assert len(ticks) == 6
    monkeypatch.setattr(coverage, "PARALLEL_FROM", 2)
    side_by_side = lower_all(chosen, lambda: ticks.append(1))
    assert [list(kernels.items()) for kernels in side_by_side] == [list(kernels.items()) for kernels in one_by_one]
    assert len(ticks) == 12


def test_processes_that_end_early_leave_the_rest_to_this_one(tmp_path: Path):
    """A script without a guard around its main part cannot be imported by the processes that it starts."""
    script = tmp_path / "script.py"
    script.write_text(
        "from latencykit import coverage\n"
        "from latencykit.sample import sample_architectures\n"
        "from tests.latencykit.made_up import ONE_NODE\n"
        "coverage.PARALLEL_FROM = 2\n"
        "coverage.allowed_cpus = lambda: (0, 1)\n"
        "print(len(coverage.lower_all(sample_architectures(ONE_NODE, 3, 1), lambda: print('step'))))\n"
    )
    ended = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert ended.stdout.split() == ["step"] * 3 + ["3"]


def test_one_processor_lowers_one_by_one(monkeypatch: pytest.MonkeyPatch):
    def refused(*_: object) -> None:
        raise AssertionError("processes were started")

    monkeypatch.setattr(coverage, "PARALLEL_FROM", 1)
    monkeypatch.setattr(coverage, "allowed_cpus", lambda: (0,))
    monkeypatch.setattr(coverage, "ProcessPoolExecutor", refused)
    assert len(lower_all(sample_architectures(TINY, 1, seed=1))) == 1


def test_plain_networks_are_of_one_primitive_a_kind_throughout():
    found = plain_networks(TINY)
    assert len(found) == len({str(architecture.choices) for architecture in found}) == 5
    for architecture in found:
        by_kind: dict[str, set[str]] = {}
        for cell_type in CELL_TYPES:
            edges = cell_edges(cell_type, TINY.cell_nodes)
            for edge, name in zip(edges, architecture.choices[cell_type], strict=True):
                by_kind.setdefault(edge.kind, set()).add(name)
        assert {kind: len(names) for kind, names in by_kind.items()} == {"down": 1, "up": 1, "normal": 1}
    used = {name for architecture in found for names in architecture.choices.values() for name in names}
    assert used == {name for names in PRIMITIVES.values() for name in names} - {ZERO}
