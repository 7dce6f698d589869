import pytest

from latencykit.errors import InputError
from nas.macro_space import MacroSpace


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
