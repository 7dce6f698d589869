"""Hostile JSON made of valid files: by its structure, and by its text where no encoder would write it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from fuzzing.any_bytes import FLOATS, INTEGERS, MAX_BYTES, WORDS, mutate_bytes


def any_value(rng: Random) -> Any:
    """A value of JSON that is likely to be wrong."""
    match rng.randrange(9):
        case 0:
            return rng.choice(INTEGERS)
        case 1:
            return rng.choice(FLOATS)
        case 2:
            return rng.choice(WORDS)
        case 3:
            return rng.choice((None, True, False))
        case 4:
            return rng.choice(([], {}, [[]], [{}], {"a": {}}))
        case 5:
            return [rng.choice(INTEGERS) for _ in range(rng.randrange(5))]
        case 6:
            return {rng.choice(WORDS): rng.choice(INTEGERS)}
        case 7:
            return [rng.choice(WORDS)] * rng.choice((1, 3, 2000))
        case _:
            return nested(rng.choice((2, 30, 300)), rng)


def nested(depth: int, rng: Random) -> Any:
    """Lists or objects within each other."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value)
    return list(range(len(value))) if isinstance(value, list) else []


def _place(data: Any, rng: Random) -> tuple[Any, Any] | None:
    """A container somewhere in the data and a key of it; where there is more, one lands more often."""
    if not _children(data):
        return None
    while True:
        keys = _children(data)
        (key,) = rng.choices(keys, [1 + 2 * len(_children(data[key])) for key in keys])
        if not _children(data[key]) or rng.random() < 0.15:
            return data, key
        data = data[key]


def _alike(old: Any, rng: Random) -> Any:
    """Another value of the same type, which gets behind the check of types."""
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        return rng.choice(INTEGERS)
    if isinstance(old, float):
        return rng.choice(FLOATS)
    if isinstance(old, str):
        return rng.choice(WORDS)
    return old[: rng.randrange(len(old) + 1)] if isinstance(old, list) else {}


def mutate_data(data: Any, rng: Random) -> Any:
    """Data with one change somewhere."""
    place = _place(data, rng)
    if place is None:
        return any_value(rng)
    parent, key = place
    old = parent[key]
    match rng.randrange(14):
        case 0 | 1:
            parent[key] = any_value(rng)
        case 10 | 11 | 12 | 13:
            parent[key] = _alike(old, rng)
        case 2:
            del parent[key]
        case 3 if isinstance(parent, dict):
            parent[rng.choice(WORDS)] = old
        case 4 if isinstance(parent, list):
            parent[key:key] = [old] * rng.choice((1, 2, 40))
        case 5 if isinstance(old, int | float) and not isinstance(old, bool):
            parent[key] = (
                rng.choice((old + 1, old - 1, -old, old * 2, old * 1.0, old * 10**9)) if abs(old) < 1e290 else 0
            )
        case 6:
            parent[key] = str(old)[:200] if rng.random() < 0.5 else [old]
        case 7:
            other = _place(data, rng)
            if other is not None:
                parent[key] = copy.deepcopy(other[0][other[1]])
        case 8:
            other = _place(data, rng)
            if other is not None and other[0] is not old:
                parent[key], other[0][other[1]] = other[0][other[1]], old
        case _:
            parent[key] = any_value(rng)
    return data


def mutate_text(text: str, rng: Random) -> bytes:
    """JSON text with something in it that no encoder writes."""
    at = rng.randrange(len(text) + 1)
    after = text.find(":", at) + 1
    match rng.randrange(8):
        case 0:
            word = rng.choice(("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 4300, "0x1", "01", "1.", "T"))
            end = next((i for i in range(after, len(text)) if text[i] in ",]}"), len(text))
            return (text[:after] + word + text[end:]).encode(errors="surrogatepass")
        case 1:
            return b"\xef\xbb\xbf" + text.encode(errors="surrogatepass")
        case 2:
            return text.encode(rng.choice(("utf-16", "utf-32", "utf-16-be")), errors="surrogatepass")
        case 3:
            return (text[:at] + rng.choice(("\\ud800", "\ud800", "\\u0000", "\0", "\\x", "\u2028"))).encode(
                errors="surrogatepass"
            ) + text[at:].encode(errors="surrogatepass")
        case 4:
            depth = rng.choice((100, 1000, 100_000))
            return (text[:after] + "[" * depth + "]" * depth + text[after:]).encode(errors="surrogatepass")
        case 5:  # a key twice
            end = text.find(",", after)
            start = text.rfind("{", 0, after) + 1
            return (text[:start] + text[start:end] + "," + text[start:]).encode(errors="surrogatepass")
        case 6:
            return (text + text[:at]).encode(errors="surrogatepass")
        case _:
            return text.replace(rng.choice('{}[],:"'), rng.choice('{}[],:" '), 1 + rng.randrange(3)).encode(
                errors="surrogatepass"
            )


def mutate_json(
    corpus: Sequence[bytes], rng: Random, finish: Callable[[Any, Random], Any] | None = None, focus: Sequence[str] = ()
) -> bytes:
    """A hostile JSON file.

    Args:
        corpus: valid files.
        rng: decides everything.
        finish: puts right what would hide the rest, such as a checksum.
        focus: the fields that most changes are made in.
    """
    kind = rng.random()
    original = rng.choice(corpus)
    if kind < 0.15:
        for _ in range(rng.randrange(1, 4)):
            original = mutate_bytes(original, corpus, rng)
        return original[:MAX_BYTES]
    data = json.loads(original)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 6))):
        field = rng.choice(focus) if focus and rng.random() < 0.65 else ""
        if isinstance(data, dict) and field in data:
            data[field] = mutate_data(data[field], rng)
        else:
            data = mutate_data(data, rng)
    try:
        text = json.dumps(data if finish is None else finish(data, rng))
    except (RecursionError, ValueError):  # a value was put into itself
        text = original.decode()
    return (mutate_text(text, rng) if kind < 0.3 else text.encode())[:MAX_BYTES]
