"""Makes hostile files of valid ones, at random: JSON by its structure and its text, ONNX by its messages, any bytes."""

from __future__ import annotations

import copy
import io
import json
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import onnx
from google.protobuf.message import EncodeError, Message

INTEGERS = (
    *(0, 1, -1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 4096, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**53, 2**53 + 1),
    *(2**62, 2**63 - 1, 2**63, 2**64, -(2**31), -(2**63), -(2**63) - 1, 10**30, 10**400),
)
FLOATS = (0.0, -0.0, 0.5, -1.5, 1e-320, 1e-7, 1e7, 1e300, -1e300, 1.7976931348623157e308, 3.4e38, 3.5e38, 5e-324)
WORDS = (
    *("", "0", "a", "none", "relu", "paper", "Conv", "Zero", "true", "../x", "/etc/passwd", "\0", "\x1b[31m", "é"),
    *(
        "\u202e",
        "\ud800",
        "😀",
        "NaN",
        "1e999",
        "measured",
        "kernel",
        "edge",
        "tensor(float)",
        "a" * 3000,
        "__class__",
        "%s{0}",
    ),
)
OPERATIONS = (
    *("Loop", "If", "Scan", "Sin", "Conv", "Relu", "Reshape", "Expand", "Tile", "Pad", "Slice", "MatMul", "Resize"),
    *("ConstantOfShape", "BatchNormalization", "Concat", "Gather", "LSTM", "MaxPool", "ConvTranspose", "Einsum"),
)
MAX_BYTES = 300_000
"""What grows beyond this is cut."""


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


def mutate_bytes(data: bytes, corpus: Sequence[bytes], rng: Random) -> bytes:
    """Bytes with one change somewhere: flipped, cut, repeated, inserted, or spliced with another file's."""
    if not data:
        return rng.randbytes(rng.randrange(1, 40))
    at = rng.randrange(len(data))
    until = min(len(data), at + rng.choice((1, 2, 4, 16, 200)))
    match rng.randrange(8):
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case 1:
            return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        case 2:
            return data[:at]
        case 3:
            return data[:at] + data[until:]
        case 4:
            return data[:at] + data[at:until] * rng.choice((2, 3, 100)) + data[until:]
        case 5:
            return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:]
        case 6:
            word = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80" * 10))
            return data[:at] + word + data[at + 4 :]
        case _:
            other = rng.choice(corpus)
            return data[:at] + other[rng.randrange(len(other) + 1) :]


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


def _messages(message: Message) -> list[tuple[Message, Any]]:
    """Every set field of a message and of those within it, with the message that it is of."""
    found, todo = [], [message]
    while todo:
        current = todo.pop()
        for field, value in current.ListFields():
            found.append((current, field))
            if field.message_type is not None:
                todo.extend(value if _repeated(value) else [value])
    return found


def _repeated(value: Any) -> bool:
    return hasattr(value, "append") or hasattr(value, "add")


def _scalar(field: Any, old: Any, rng: Random) -> Any:
    """Another value for a field that is no message."""
    kinds = type(field)
    if field.cpp_type == kinds.CPPTYPE_STRING:
        if field.type == kinds.TYPE_BYTES:
            return mutate_bytes(old, [old], rng) if old and rng.random() < 0.7 else rng.randbytes(rng.randrange(40))
        return rng.choice(("", "x", "w", "y", "c", "ai.onnx", "com.microsoft", "evil", "é", "a" * 2000, *OPERATIONS))
    if field.cpp_type in (kinds.CPPTYPE_FLOAT, kinds.CPPTYPE_DOUBLE):
        return rng.choice((*FLOATS[:8], float("nan"), float("inf"), -float("inf")))
    return rng.choice((*INTEGERS[:28], old + 1, old - 1, -old)) if isinstance(old, int) else rng.choice(INTEGERS[:28])


def mutate_message(model: onnx.ModelProto, rng: Random) -> None:
    """Change one field somewhere in a model."""
    places = _messages(model)
    if not places:
        return
    message, field = rng.choice(places)
    value = getattr(message, field.name)
    if field.message_type is None and not _repeated(value):
        setattr(message, field.name, _scalar(field, value, rng))
    elif not _repeated(value):
        donors = [getattr(m, f.name) for m, f in places if f.message_type is field.message_type]
        donor = rng.choice(donors)
        if _repeated(donor) or rng.random() < 0.5:
            message.ClearField(field.name)
        else:
            value.CopyFrom(copy.deepcopy(donor))
    elif field.message_type is None:
        at = rng.randrange(len(value))
        match rng.randrange(4):
            case 0:
                del value[at]
            case 1:
                value.append(value[at])
            case 2:
                value.extend([value[at]] * rng.choice((2, 50)))
            case _:
                value[at] = _scalar(field, value[at], rng)
    else:
        at = rng.randrange(len(value))
        match rng.randrange(4):
            case 0:
                del value[at]
            case 1:
                value.add().CopyFrom(copy.deepcopy(value[at]))
            case 2:
                value[at].CopyFrom(copy.deepcopy(value[rng.randrange(len(value))]))
            case _:
                value.add()


def attack_model(model: onnx.ModelProto, rng: Random) -> None:
    """Put one of the known attacks into a model, somewhere."""
    graph = model.graph
    tensor = rng.choice(graph.initializer) if graph.initializer else graph.initializer.add()
    node = rng.choice(graph.node) if graph.node else graph.node.add()
    match rng.randrange(8):
        case 0:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=rng.choice(("../x", "/etc/passwd", "w.bin", "")))
        case 1:
            node.domain = rng.choice(("evil", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "ai.onnx"))
        case 2:
            tensor.dims[:] = [rng.choice(INTEGERS[:28]) for _ in range(rng.randrange(7))]
        case 3:
            node.attribute.add(name="body", type=onnx.AttributeProto.GRAPH).g.CopyFrom(copy.deepcopy(graph))
        case 4:
            node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(copy.deepcopy(tensor))
        case 5:
            graph.sparse_initializer.add().values.CopyFrom(copy.deepcopy(tensor))
        case 6:
            model.functions.add(name=node.op_type, domain=node.domain).node.add().CopyFrom(copy.deepcopy(node))
        case _:
            node.op_type = rng.choice(OPERATIONS)


def mutate_onnx(corpus: Sequence[bytes], rng: Random) -> bytes:
    """A hostile ONNX file."""
    data = rng.choice(corpus)
    kind = rng.random()
    if kind < 0.9:
        model = onnx.load_model_from_string(data)
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            try:
                (attack_model if rng.random() < 0.15 else mutate_message)(model, rng)
            except (TypeError, ValueError, OverflowError):  # a value that the field cannot hold
                continue
        try:
            data = model.SerializeToString()
        except (EncodeError, ValueError):
            data = rng.choice(corpus)
    if kind > 0.82:
        for _ in range(rng.randrange(1, 4)):
            data = mutate_bytes(data, corpus, rng)
    return data[:MAX_BYTES]


def _entry(rng: Random) -> zipfile.ZipInfo:
    names = ("a", "b/c.json", "../x", "/x", "C:/x", "a\\b", "CON", "a/", "é", "A", "b", "x" * 300, "a:b", ".", "b/../c")
    entry = zipfile.ZipInfo(rng.choice(names))
    kinds = (0, stat.S_IFREG, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK)
    entry.external_attr = rng.choice(kinds) << 16 | rng.choice((0, 0x10, 0x20, 0x400))
    entry.create_system = rng.choice((0, 3))
    entry.extra = rng.choice((b"", b"", b"\1\0\0\0", b"\1\0\x10\0" + b"\xff" * 16, b"up\0\0", rng.randbytes(9)))
    entry.comment = rng.choice((b"", b"", b"x" * 50))
    return entry


def _zip(rng: Random) -> bytes:
    packed = io.BytesIO()
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(packed, "w") as archive:  # names that stand twice
        for _ in range(rng.randrange(5)):
            content = rng.choice((b"", b"x", rng.randbytes(300), bytes(30_000)))
            archive.writestr(_entry(rng), content, rng.choice(methods))
        archive.comment = rng.choice((b"", b"", b"", b"PK\5\6" * 6))
    return packed.getvalue()


def mutate_zip(corpus: Sequence[bytes], rng: Random) -> bytes:
    """A hostile archive: one of hostile entries, or one whose headers are changed, or whose bytes are."""
    data = rng.choice(corpus) if rng.random() < 0.6 else _zip(rng)
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        places = [i for mark in (b"PK\1\2", b"PK\3\4", b"PK\5\6") for i in _finds(data, mark)]
        if places and rng.random() < 0.7:
            at = rng.choice(places) + rng.randrange(4, 46)
            size = rng.choice((1, 2, 4))
            value = rng.choice((0, 1, 2, 0xFF, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF, rng.randrange(2**16))) % 256**size
            data = data[:at] + value.to_bytes(size, "little") + data[at + size :]
        else:
            data = mutate_bytes(data, corpus, rng)
    return (_ended(data) if rng.random() < 0.6 else data)[:MAX_BYTES]


def _ended(data: bytes) -> bytes:
    """An archive whose end fits what is before it, so that its entries are looked at."""
    directory, end = data.find(b"PK\1\2"), data.rfind(b"PK\5\6")
    if not 0 <= directory < end:
        return data
    count = len(_finds(data[directory:end], b"PK\1\2"))
    return data[:end] + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, end - directory, directory, 0)


def _finds(data: bytes, mark: bytes) -> list[int]:
    found, at = [], data.find(mark)
    while at >= 0:
        found.append(at)
        at = data.find(mark, at + 1)
    return found
