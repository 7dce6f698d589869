"""The tree of errors: what its docstring draws is what there is."""

import re

import pytest

from latencykit import errors
from latencykit.errors import LatencyKitError

CLASSES = {
    name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)
}


def drawn() -> dict[str, int]:
    """Name and exit code of each line of the docstring's tree."""
    return {name: int(code) for name, code in re.findall(r"(\w+Error) +(\d+) ", errors.__doc__ or "")}


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    assert drawn() == {name: cls.exit_code for name, cls in CLASSES.items()}


def test_the_drawing_is_parsed_at_all() -> None:
    assert len(drawn()) == 8


def test_every_error_hangs_directly_under_the_base() -> None:
    assert all(cls.__bases__ == (LatencyKitError,) for cls in CLASSES.values() if cls is not LatencyKitError)
    assert LatencyKitError.__bases__ == (Exception,)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("LatencyKitError", 70),
        ("UsageError", 2),
        ("MissingRowError", 3),
        ("NotComparableError", 4),
        ("UnfitError", 5),
        ("InputError", 6),
        ("InterruptedRunError", 7),
        ("RegressionError", 8),
    ],
)
def test_exit_codes_are_those_of_the_contract(name: str, code: int) -> None:
    assert CLASSES[name].exit_code == code


def test_no_two_errors_share_an_exit_code() -> None:
    codes = [cls.exit_code for cls in CLASSES.values()]
    assert len(codes) == len(set(codes))
