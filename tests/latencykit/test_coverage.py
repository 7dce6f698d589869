from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from latencykit.coverage import network_kernels, space_kernels, space_primitives, stride_macros
from latencykit.errors import InputError
from latencykit.kernels import CALL_OVERHEAD, Kernel
from latencykit.keys import Primitive
from latencykit.primitives import PRIMITIVES
from latencykit.runtime import Setting
from latencykit.sample import sample_architectures
from latencykit.space import Choice, instantiate, template
from latencykit.spec import Add, Identity, Zero
from latencykit.table import Table
from tests.latencykit.made_up import ONE, TINY


@pytest.fixture(scope="module")
def kernels() -> list[Kernel]:
    return space_kernels(TINY)


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


def test_the_kernels_begin_with_the_call_s_overhead_and_stand_once(kernels: list[Kernel]):
    assert kernels[0] == CALL_OVERHEAD
    assert len(set(kernels)) == len(kernels)


def test_the_kernels_cover_networks_that_were_not_looked_at(kernels: list[Kernel], tmp_path: Path):
    for architecture in sample_architectures(TINY, 15, seed=99):
        assert set(network_kernels(architecture, tmp_path)) <= set(kernels)


def test_a_table_of_the_space_holds_every_kernel(kernels: list[Kernel], tiny_table: Table):
    assert len(tiny_table.lookup(ONE, kernels)) == len(kernels)


def test_each_network_tells_how_many_kernels_were_new_and_quiet_ones_end_the_sample():
    new: list[int] = []
    found = space_kernels(TINY, new.append, quiet=2)
    assert sum(new) == len(found) - 1
    assert new[0] > 0
    assert new[-2:] == [0, 0]


def test_kernels_do_not_depend_on_the_number_of_threads(tmp_path: Path):
    (architecture,) = sample_architectures(TINY, 1, seed=0)
    assert network_kernels(architecture, tmp_path) == network_kernels(architecture, tmp_path, Setting(2, pinned=False))
