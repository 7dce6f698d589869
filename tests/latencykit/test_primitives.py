"""Table I: names, chains and shapes."""

import pytest

from latencykit.errors import InputError
from latencykit.graph import chain
from latencykit.primitives import PRIMITIVES, ZERO, EdgeKind, primitive_operations
from latencykit.spec import AvgPool, Conv, ConvTranspose, Identity, MaxPool, Zero

ALL = [(kind, name) for kind, names in PRIMITIVES.items() for name in names]


def test_the_candidates_are_those_of_table_1() -> None:
    assert {kind: len(names) for kind, names in PRIMITIVES.items()} == {"down": 5, "up": 3, "normal": 5}
    assert len({name for _, name in ALL}) == len(ALL)
    assert ZERO in PRIMITIVES["normal"]


@pytest.mark.parametrize(("kind", "name"), ALL)
@pytest.mark.parametrize("size", [2, 8])
def test_every_candidate_halves_doubles_or_keeps_exactly(kind: EdgeKind, name: str, size: int) -> None:
    graph = chain(primitive_operations(name, 6), ((6, size, size),))
    factor = {"down": 0.5, "up": 2, "normal": 1}[kind]
    assert graph.shapes[graph.outputs["output"]] == (6, size * factor, size * factor)


@pytest.mark.parametrize(
    ("name", "macs"),
    [  # 6 channels, 8 x 8 in
        ("conv", 64 * 36 * 9),
        ("dilated_conv", 64 * 36 * 9),
        ("separable_conv", 64 * (6 * 9 + 36)),
        ("identity", 0),
        ("zero", 0),
        ("down_conv", 16 * 36 * 9),
        ("down_dilated_conv", 16 * 36 * 9),
        ("down_separable_conv", 16 * (6 * 9 + 36)),
        ("max_pool", 0),
        ("avg_pool", 0),
        ("up_conv", 64 * 36 * 9),
        ("up_dilated_conv", 64 * 36 * 9),
        ("up_separable_conv", 64 * 6 * 9 + 256 * 36),
    ],
)
def test_macs_of_a_candidate_are_those_worked_out_by_hand(name: str, macs: int) -> None:
    assert chain(primitive_operations(name, 6), ((6, 8, 8),)).macs == macs


def test_every_candidate_has_its_macs_tested() -> None:
    (mark,) = test_macs_of_a_candidate_are_those_worked_out_by_hand.pytestmark  # type: ignore[attr-defined]
    assert {name for name, _ in mark.args[1]} == {name for _, name in ALL}


def test_the_activation_stands_after_the_last_convolution_only() -> None:
    for _, name in ALL:
        for activation in ("relu", "none"):
            *before, last = primitive_operations(name, 4, activation)  # type: ignore[arg-type]
            assert all(operation.activation == "none" for operation in before if isinstance(operation, Conv))
            if isinstance(last, Conv | ConvTranspose):
                assert last.activation == activation


def test_plain_candidates_are_what_they_are_called() -> None:
    assert primitive_operations("identity", 4) == (Identity(),)
    assert primitive_operations("zero", 4) == (Zero(),)
    assert primitive_operations("max_pool", 4) == (MaxPool(3, 2, 1),)
    assert primitive_operations("avg_pool", 4) == (AvgPool(3, 2, 1),)


def test_dilation_is_two() -> None:
    for name in ("dilated_conv", "down_dilated_conv", "up_dilated_conv"):
        (operation,) = primitive_operations(name, 4)
        assert operation.dilation == 2  # type: ignore[attr-defined]


def test_an_unknown_candidate_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="unknown primitive 'warp'; known are conv, "):
        primitive_operations("warp", 4)
