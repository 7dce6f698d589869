"""JSON to frozen dataclasses and back, strictly: unknown fields, wrong types and wrong values are `InputError`s."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from latencykit.errors import InputError

T = TypeVar("T")


def decode(cls: type[T], data: Any, where: str) -> T:
    """Build `cls` from plain JSON data.

    Args:
        cls: a frozen dataclass; its `__post_init__` validates values.
        data: dictionaries, lists, numbers and strings, as `json` gives them.
        where: what is decoded, for the message: a path or a field.

    Raises:
        InputError: naming `where`, the field and what was expected.
    """
    if is_dataclass(cls) and isinstance(data, dict):
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(map(str, data)) - known):
            raise InputError(f"{where}: unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}.")
    try:
        return msgspec.convert(data, cls)
    except msgspec.ValidationError as error:
        raise InputError(f"{where}: {error}") from error


def read_json(path: Path, max_bytes: int) -> Any:
    """Parse a JSON file of at most `max_bytes`; raises `InputError` naming the file otherwise."""
    try:
        if path.stat().st_size > max_bytes:
            raise InputError(f"{path} is {path.stat().st_size} bytes; at most {max_bytes} are read.")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error


def to_json(value: Any) -> Any:
    """Plain JSON data of a (nested) dataclass."""
    return msgspec.to_builtins(value)
