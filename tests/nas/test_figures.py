import pytest

from latencykit.errors import InputError
from latencykit.primitives import PRIMITIVES
from nas.figures import OPERATION_COLORS, operation_kind


def test_every_primitive_has_a_colour_and_an_unknown_one_is_refused():
    names = {name for names in PRIMITIVES.values() for name in names}
    assert {operation_kind(name) for name in names} == set(OPERATION_COLORS)
    with pytest.raises(InputError, match="'attention'"):
        operation_kind("attention")
