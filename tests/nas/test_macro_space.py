from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from latencykit.errors import InputError
from latencykit.primitives import PRIMITIVES, ZERO
from nas.macro_space import MacroSpace

SMALL = MacroSpace(segmentation_stride=(4, 8), segmentation_widths=((4, 8, 16),), quality_widths=((4, 8),))


def test_every_combination_is_a_macro_configuration_once():
    space = MacroSpace(
        segmentation_stride=(4, 8), segmentation_widths=((4, 8, 16),), output_stride=(1, 2), cell_nodes=(1, 3),
        quality_stride=(8,), quality_widths=((8, 8), (8, 16, 32)),
    )  # fmt: skip
    macros = space.macros
    assert len(macros) == len(set(macros)) == 2 * 2 * 2 * 2
    assert {macro.output_stride for macro in macros} == {1, 2}


def test_what_is_no_macro_configuration_is_left_out():
    """Seven levels at stride 8 divide 256 pixels by 512."""
    space = MacroSpace(segmentation_stride=(1, 8), segmentation_widths=((4,) * 7,), output_stride=(1,))
    assert {macro.segmentation_stride for macro in space.macros} == {1}


def test_the_default_holds_the_strides_of_the_hand_made_family():
    assert {macro.segmentation_stride for macro in MacroSpace().macros} == {1, 2, 4, 8}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"cell_nodes": ()}, "cell_nodes is empty"), ({"segmentation_widths": ((4,),)}, "none of the combinations")],
)
def test_a_space_of_nothing_is_refused(options, complaint):
    with pytest.raises(InputError, match=complaint):
        MacroSpace(**options)


def test_networks_have_a_taste_and_cells_are_dense_or_sparse():
    """Of uniform draws not one in a thousand consists of convolutions alone."""
    drawn = SMALL.sample(300)
    present = [{p for chosen in network.choices.values() for p in chosen} for network in drawn]
    assert np.mean([kinds <= {"conv", "down_conv", "up_conv", ZERO} for kinds in present]) > 0.015
    assert set.union(*present) == {primitive for primitives in PRIMITIVES.values() for primitive in primitives}
    deleted = {n.choices["non_scaling"].count(ZERO) for n in drawn if n.macro.cell_nodes == 3}
    assert deleted == {0, 1, 2, 3}  # of six, each of three nodes keeps one


def test_any_edge_may_be_deleted_in_a_drawn_network():
    drawn = [network.choices for network in SMALL.sample(200)]
    assert any(ZERO in choices[cell] for choices in drawn for cell in ("up", "down"))


def test_a_mutated_network_differs_in_one_choice_and_every_choice_is_reached():
    rng, parent, changed = np.random.default_rng(0), SMALL.sample(1)[0], Counter()
    for _ in range(600):
        network = SMALL.mutated(parent, rng)
        if network.macro == parent.macro:
            pairs = [(c, zip(parent.choices[c], network.choices[c], strict=True)) for c in parent.choices]
            (where,) = [c for c, both in pairs for before, after in both if before != after]
        else:
            assert network.choices == parent.choices
            before, after = vars(parent.macro), vars(network.macro)
            (where,) = [name for name in before if before[name] != after[name]]
        changed[where] += 1
    macros = ["segmentation_stride", "output_stride", "quality_stride"]
    assert set(changed) == {*macros, *parent.choices}
    assert sum(changed[name] for name in macros) / 600 == pytest.approx(0.5, abs=0.1)


def test_a_chain_of_each_macro_configuration():
    chains = SMALL.chains
    assert [network.macro for network in chains] == list(SMALL.macros)
    cells = next(network.choices for network in chains if network.macro.cell_nodes == 2)
    assert cells == {
        "down": (ZERO, "down_conv", ZERO, ZERO, "conv"),
        "up": ("identity", "up_conv", ZERO, ZERO, "conv"),
        "contracting": ("down_conv", ZERO, "conv"),
        "non_scaling": ("conv", ZERO, "conv"),
    }


def test_a_macro_configuration_without_neighbours_is_kept():
    only = replace(SMALL, segmentation_stride=(4,), output_stride=(1,), quality_stride=(8,))
    parent = only.sample(1)[0]
    assert only.mutated(parent, np.random.default_rng(0)).macro == parent.macro
