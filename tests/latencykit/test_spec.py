"""Operations: shapes, costs worked out by hand, and what is refused."""

import json
from dataclasses import fields
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from latencykit.errors import InputError
from latencykit.spec import (
    OPERATIONS,
    Activation,
    Add,
    AvgPool,
    Concat,
    Conv,
    ConvTranspose,
    DepthToSpace,
    Entropy,
    GlobalAveragePool,
    Identity,
    LeastConfidence,
    Linear,
    MaxPool,
    Normalise,
    Operation,
    Relu,
    Resize,
    Shape,
    Sigmoid,
    Softmax,
    Zero,
    operation_from_json,
    operation_to_json,
)

COSTS: list[tuple[Operation, tuple[Shape, ...], Shape, int, int, int]] = [
    # operation, inputs, output, MACs, parameters, elements moved (inputs + weights + output)
    (Conv(8), ((4, 6, 10),), (8, 6, 10), 480 * 4 * 9, 288 + 8, 240 + 296 + 480),
    (Conv(8, norm=False), ((4, 6, 10),), (8, 6, 10), 480 * 4 * 9, 288, 240 + 288 + 480),
    (Conv(8, norm=False, bias=True), ((4, 6, 10),), (8, 6, 10), 480 * 4 * 9, 296, 240 + 296 + 480),
    (Conv(8, 1), ((4, 6, 10),), (8, 6, 10), 480 * 4, 32 + 8, 240 + 40 + 480),
    (Conv(8, stride=2, dilation=2), ((4, 6, 10),), (8, 3, 5), 120 * 4 * 9, 296, 240 + 296 + 120),
    (Conv(8, stride=2), ((4, 7, 1),), (8, 4, 1), 32 * 4 * 9, 296, 28 + 296 + 32),
    (Conv(4, groups=4, norm=False), ((4, 6, 10),), (4, 6, 10), 240 * 9, 36, 240 + 36 + 240),
    (Conv(8, groups=2, norm=False), ((4, 6, 10),), (8, 6, 10), 480 * 2 * 9, 144, 240 + 144 + 480),
    (ConvTranspose(8), ((4, 3, 5),), (8, 6, 10), 60 * 8 * 9, 288 + 8, 60 + 296 + 480),
    (ConvTranspose(8, dilation=2), ((4, 3, 5),), (8, 6, 10), 60 * 8 * 9, 296, 60 + 296 + 480),
    (ConvTranspose(4, groups=4, norm=False), ((4, 3, 5),), (4, 6, 10), 60 * 9, 36, 60 + 36 + 240),
    (ConvTranspose(2, 2, norm=False, bias=True), ((4, 3, 5),), (2, 6, 10), 60 * 2 * 4, 32 + 2, 60 + 34 + 120),
    (MaxPool(), ((4, 6, 10),), (4, 3, 5), 0, 0, 240 + 60),
    (AvgPool(2, 2, 0), ((4, 7, 11),), (4, 3, 5), 0, 0, 308 + 60),
    (Add(), ((4, 6, 10),) * 3, (4, 6, 10), 0, 0, 4 * 240),
    (Concat(), ((4, 6, 10), (1, 6, 10)), (5, 6, 10), 0, 0, 2 * 300),
    (Resize(4), ((1, 6, 10),), (1, 24, 40), 0, 0, 60 + 960),
    (DepthToSpace(2), ((8, 3, 5),), (2, 6, 10), 0, 0, 240),
    (GlobalAveragePool(), ((8, 3, 5),), (8, 1, 1), 0, 0, 120 + 8),
    (Linear(3), ((8, 1, 1),), (3, 1, 1), 24, 24 + 3, 8 + 27 + 3),
    (Relu(), ((4, 6, 10),), (4, 6, 10), 0, 0, 480),
    (Sigmoid(), ((4, 6, 10),), (4, 6, 10), 0, 0, 480),
    (Softmax(), ((4, 6, 10),), (4, 6, 10), 0, 0, 480),
    (Entropy(), ((1, 6, 10),), (1, 6, 10), 0, 0, 120),
    (LeastConfidence(), ((1, 6, 10),), (1, 6, 10), 0, 0, 120),
    (Normalise(), ((3, 6, 10),), (3, 6, 10), 0, 6, 366),
    (Identity(), ((4, 6, 10),), (4, 6, 10), 0, 0, 480),
    (Zero(), ((4, 6, 10),), (4, 6, 10), 0, 0, 480),
]


@pytest.mark.parametrize(("operation", "inputs", "output", "macs", "parameters", "elements"), COSTS)
def test_costs_are_those_worked_out_by_hand(
    operation: Operation, inputs: tuple[Shape, ...], output: Shape, macs: int, parameters: int, elements: int
) -> None:
    assert operation.output_shape(inputs) == output
    assert operation.macs(inputs) == macs
    assert operation.parameters(inputs) == parameters
    assert operation.moved_bytes(inputs) == 4 * elements


def test_every_operation_has_costs_worked_out_by_hand() -> None:
    assert {type(operation) for operation, *_ in COSTS} == set(OPERATIONS.values())


def test_operations_are_final_and_each_is_listed() -> None:
    named = [cls for cls in _subclasses(Operation) if cls.__module__ == "latencykit.spec" and cls.__name__[0] != "_"]
    assert set(named) == set(OPERATIONS.values())
    assert not any(cls.__subclasses__() for cls in named)


def _subclasses(cls: type) -> list[type]:
    return [found for child in cls.__subclasses__() for found in (child, *_subclasses(child))]


@given(
    kernel=st.integers(1, 7),
    stride=st.integers(1, 5),
    dilation=st.integers(1, 4),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
)
def test_a_transposed_convolution_gives_exactly_stride_times_its_input(
    kernel: int, stride: int, dilation: int, height: int, width: int
) -> None:
    reach = dilation * (kernel - 1) + 1
    assume(reach >= stride and not (stride == 1 and reach % 2 == 0))
    operation = ConvTranspose(2, kernel, stride, dilation)
    assert operation.output_shape(((3, height, width),)) == (2, stride * height, stride * width)
    # ONNX' own formula of the output, from the attributes that are written
    for size in (height, width):
        written = stride * (size - 1) + operation.output_padding + reach - 2 * operation.padding
        assert written == stride * size
    assert 0 <= operation.output_padding < stride
    assert operation.padding >= 0


def test_the_papers_up_operations_pad_by_their_dilation() -> None:
    for dilation in (1, 2):
        operation = ConvTranspose(4, dilation=dilation)
        assert (operation.padding, operation.output_padding) == (dilation, 1)


@given(
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 4),
    size=st.integers(1, 30),
)
def test_a_convolution_gives_its_input_over_its_stride_rounded_up(
    kernel: int, stride: int, dilation: int, size: int
) -> None:
    operation = Conv(2, kernel, stride, dilation)
    expected = -(-size // stride)
    assert operation.output_shape(((1, size, size),)) == (2, expected, expected)
    assert 2 * operation.padding == dilation * (kernel - 1)


@given(size=st.integers(1, 40))
def test_the_papers_pools_halve_rounded_up(size: int) -> None:
    assert MaxPool().output_shape(((1, size, size),)) == (1, -(-size // 2), -(-size // 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conv(0), r"Conv\.out_channels is 0; expected at least 1"),
        (lambda: Conv(4, 2), r"Conv\.kernel is 2; expected an odd number"),
        (lambda: Conv(4, stride=0), r"Conv\.stride is 0"),
        (lambda: Conv(4, groups=3), r"out_channels \(=4\) must be divisible by 3"),
        (lambda: ConvTranspose(4, groups=3), r"out_channels \(=4\) must be divisible by 3"),
        (lambda: ConvTranspose(4, 1, 2), "a kernel reaching 1 pixels leaves holes at stride 2"),
        (lambda: ConvTranspose(4, 2, 1), "a kernel reaching 2 pixels needs a stride of 2 or more"),
        (lambda: ConvTranspose(4, dilation=-1), r"ConvTranspose\.dilation is -1"),
        (lambda: MaxPool(2, 2, 2), r"MaxPool\.padding is 2; expected 0 to kernel // 2"),
        (lambda: AvgPool(2, 2, -1), r"AvgPool\.padding is -1"),
        (lambda: AvgPool(0), r"AvgPool\.kernel is 0"),
        (lambda: Resize(0), r"Resize\.scale is 0"),
        (lambda: DepthToSpace(0), r"DepthToSpace\.block is 0"),
        (lambda: Linear(0), r"Linear\.out_features is 0"),
        (lambda: Conv(4, groups=2).output_shape(((3, 4, 4),)), r"input channels \(=3\) must be divisible by 2"),
        (lambda: ConvTranspose(4, groups=2).output_shape(((3, 4, 4),)), r"input channels \(=3\)"),
        (lambda: MaxPool(3, 2, 0).output_shape(((1, 2, 9),)), "does not fit into 2 x 9 pixels"),
        (lambda: Add().output_shape(((1, 2, 2), (2, 2, 2))), "Add: inputs of one shape expected"),
        (lambda: Concat().output_shape(((1, 2, 2), (1, 2, 3))), "Concat: inputs of one height and width"),
        (lambda: DepthToSpace(2).output_shape(((6, 2, 2),)), r"input channels \(=6\) must be divisible by 4"),
        (lambda: Linear(1).output_shape(((4, 1, 2),)), "a 1 x 1 map expected"),
    ],
)
def test_what_cannot_be_is_refused_with_its_value(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def _values(cls: type[Operation]) -> st.SearchStrategy[Operation]:
    """Any valid operation of a class."""
    by_type = {
        int: st.sampled_from([1, 2, 3, 4]),
        bool: st.booleans(),
        Activation: st.sampled_from(get_args(Activation)),
    }
    hints = get_type_hints(cls)
    arguments = st.fixed_dictionaries({f.name: by_type[hints[f.name]] for f in fields(cls)})

    def build(values: dict[str, Any]) -> Operation | None:
        try:
            return cls(**values)
        except InputError:
            return None

    return arguments.map(build).filter(lambda operation: operation is not None)  # type: ignore[return-value]


@given(st.sampled_from(sorted(OPERATIONS)).flatmap(lambda name: _values(OPERATIONS[name])))
def test_operations_survive_json(operation: Operation) -> None:
    assert operation_from_json(json.loads(json.dumps(operation_to_json(operation)))) == operation


def test_an_operation_of_all_defaults_needs_only_its_name() -> None:
    assert operation_from_json({"op": "MaxPool"}) == MaxPool()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "unknown operation None; known are Conv, ConvTranspose"),
        ([], r"unknown operation \[\]"),
        ({}, "unknown operation None"),
        ({"op": "Choice"}, "unknown operation 'Choice'"),
        ({"op": ["Conv"]}, r"unknown operation \['Conv'\]"),
        ({"op": "_Pool"}, "unknown operation '_Pool'"),
        ({"op": "Conv"}, "missing required field `out_channels`"),
        ({"op": "Conv", "out_channels": "4"}, "Expected `int`, got `str`"),
        ({"op": "Conv", "out_channels": True}, "Expected `int`, got `bool`"),
        ({"op": "Conv", "out_channels": 4, "kernel": 2}, r"Conv\.kernel is 2"),
        ({"op": "Conv", "out_channels": 4, "activation": "gelu"}, "Invalid enum value 'gelu'"),
        ({"op": "Conv", "out_channels": 4, "padding": 1}, "Conv: unknown field 'padding'"),
    ],
)
def test_json_that_is_no_operation_is_refused(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        operation_from_json(data)


def test_equal_operations_are_one_key() -> None:
    assert len({Conv(4), Conv(4, 3), Conv(4, groups=1), ConvTranspose(4)}) == 2
    assert MaxPool() != AvgPool()


def test_an_operation_is_shown_with_what_differs_from_the_default() -> None:
    assert str(Conv(8, stride=2)) == "Conv(out_channels=8, stride=2)"
    assert str(Identity()) == "Identity()"
