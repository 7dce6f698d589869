"""JSON to frozen dataclasses and back, strictly: unknown fields, wrong types and wrong values are `InputError`s."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from latencykit.errors import InputError
from latencykit.files import read_bytes

T = TypeVar("T")

_NESTED = (dict, list, tuple)
_PLAIN = frozenset({bool, int, float, str})


def decode(cls: type[T], data: Any, where: str) -> T:
    """Build `cls` from plain JSON data.

    Args:
        cls: a frozen dataclass; its `__post_init__` validates values.
        data: dictionaries, lists, numbers and strings, as `json` gives them.
        where: what is decoded, for the message: a path or a field.

    Raises:
        InputError: naming `where`, the field and what was expected.
    """
    import msgspec  # not on a machine that only measures, which reads nothing from outside

    if is_dataclass(cls) and isinstance(data, dict):
        _refuse_unknown(cls, data, where)
    with naming(where):
        try:
            value = msgspec.convert(data, cls)
        except (msgspec.ValidationError, RecursionError) as error:
            raise InputError(str(error)) from error
    _refuse_unknown_within(value, data, where)
    return value


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Put `where` before the message of an `InputError` that validation raises inside."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _refuse_unknown(cls: Any, data: dict[str, Any], where: str) -> None:
    known, _ = _fields(cls)
    if not data.keys() <= known:
        unknown = min(set(map(str, data)) - known)
        raise InputError(f"{where}: unknown field {unknown!r}; known are {', '.join(sorted(known))}.")


@cache
def _fields(cls: Any) -> tuple[frozenset[str], tuple[str, ...]]:
    """Names of a dataclass's fields, and of those among them that may hold dataclasses."""
    hints = get_type_hints(cls)
    names = [f.name for f in fields(cls)]
    return frozenset(names), tuple(name for name in names if _mentions_dataclass(hints[name]))


def _mentions_dataclass(hint: Any) -> bool:
    return is_dataclass(hint) or any(map(_mentions_dataclass, get_args(hint)))


def _refuse_unknown_within(value: Any, data: Any, where: str) -> None:
    """Walk a decoded value beside its data, since msgspec ignores what a nested dataclass does not know."""
    if is_dataclass(value) and isinstance(data, dict):
        cls: Any = type(value)
        _refuse_unknown(cls, data, where)
        for name in _fields(cls)[1]:
            if name in data:
                _refuse_unknown_within(getattr(value, name), data[name], f"{where}: {name}")
    elif isinstance(value, list | tuple) and isinstance(data, list | tuple):
        for index, (item, part) in enumerate(zip(value, data, strict=True)):
            if isinstance(part, _NESTED):
                _refuse_unknown_within(item, part, f"{where}[{index}]")
    elif isinstance(value, dict) and isinstance(data, dict):
        for item, (key, part) in zip(value.values(), data.items(), strict=True):
            if isinstance(part, _NESTED):
                _refuse_unknown_within(item, part, f"{where}: {key}")


def read_json(path: Path, max_bytes: int) -> Any:
    """Parse a JSON file of at most `max_bytes`; raises `InputError` naming the file otherwise."""
    return parse_json(read_bytes(path, max_bytes), str(path))


def parse_json(data: bytes, where: str) -> Any:
    """Parse JSON as its standard has it: no NaN, no key twice in an object; and no text that would drive a terminal.

    Raises:
        InputError: naming `where`.
    """
    try:
        text = data.decode("utf-8")
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
        if "\\" in text or "\x7f" in text or not text.isascii():  # else all of it is printable, by JSON's own rules
            _require_printable(value)
    except (RecursionError, ValueError, MemoryError) as error:
        raise InputError(f"{where} cannot be read as JSON: {error}") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {name[:80]!r} stands twice in one object")
    return found


def _require_printable(value: Any) -> None:
    todo = [value]
    while todo:
        match todo.pop():
            case str(text) if not text.translate(_LINE_BREAKS).isprintable():
                raise ValueError(f"{text[:80]!r} holds characters that cannot be printed")
            case dict(fields):
                todo += [*fields, *fields.values()]
            case list(items):
                todo += items


_LINE_BREAKS = str.maketrans("\n\r\t", "   ")


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def to_json(value: Any) -> Any:
    """Plain JSON data of a (nested) dataclass; tuples stay tuples, which `json` writes as lists.

    Raises:
        TypeError: it holds something else, such as a number of numpy's.
    """
    kind = type(value)
    if value is None or kind in _PLAIN:
        return value
    if isinstance(value, tuple | list):
        parts = map(to_json, value)
        return tuple(parts) if isinstance(value, tuple) else list(parts)
    if isinstance(value, Mapping):
        return {key: to_json(part) for key, part in value.items()}
    if is_dataclass(kind):
        return {name: to_json(getattr(value, name)) for name in _field_names(kind)}
    raise TypeError(f"a {kind.__name__} has no JSON form here")


@cache
def _field_names(cls: type[Any]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(cls))
