"""Hostile archives: of hostile entries, with changed headers, or with changed bytes."""

from __future__ import annotations

import io
import stat
import struct
import warnings
import zipfile
from collections.abc import Sequence
from random import Random

from fuzzing.any_bytes import MAX_BYTES, mutate_bytes


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
