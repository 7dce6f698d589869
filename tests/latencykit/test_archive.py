"""Zip archives from outside, and those that are written here."""

import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from latencykit import archive as module
from latencykit.archive import read_archive, write_archive
from latencykit.errors import InputError

FILES = {"graphs/b.onnx": b"\0\1\2", "a.json": b"{}", "graphs/a.onnx": b"", "ü.txt": b"x" * 1000}
Entry = tuple[str | zipfile.ZipInfo, bytes]


def zipped(*entries: Entry, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return packed.getvalue()


def info(name: str, **fields: object) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    for field, value in fields.items():
        setattr(entry, field, value)
    return entry


def of_kind(kind: int) -> bytes:
    return zipped((info("a", create_system=3, external_attr=(kind | 0o777) << 16), b"/etc/passwd"))


def patched(data: bytes, mark: bytes, offset: int, fmt: str, value: int) -> bytes:
    """A field of the first structure with that mark, overwritten."""
    changed = bytearray(data)
    struct.pack_into(fmt, changed, data.index(mark) + offset, value)
    return bytes(changed)


LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"
PLAIN = zipped(("a.txt", b"hello" * 10))
NULS = zipped(("zeros", bytes(40 << 20)))


def overlapping() -> bytes:
    """Two names of one member's bytes."""
    content = zipped(("a.txt", b"hello" * 10), ("b.txt", b"hello" * 10))
    second = content.index(CENTRAL, content.index(CENTRAL) + 1)
    changed = bytearray(content)
    struct.pack_into("<L", changed, second + 42, 0)
    return bytes(changed)


def named(name: str) -> bytes:
    """A member of a name that `zipfile` itself would clean."""
    placeholder = "n" * len(name.encode())
    return zipped((placeholder, b"x")).replace(placeholder.encode(), name.encode())


NAMES = [
    *("../a", "a/../../b", "/etc/passwd", "//host/share", "a//b", "./a", "a/.", "..", "."),
    *("C:/a", "C:a", "c:\\a", "..\\a", "a\\b", "\\\\host\\share", "a:stream", "a*", "a?", "a|b", 'a"b', "a<b"),
    *("a\0b", "a\nb", "\x1b[31m", "a ", "a.", "a/ /b", "CON", "nul.txt", "x/LPT1", "com5.json", "a" * 201),
]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_name_that_leads_elsewhere_on_some_system_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(named(name))
    with pytest.raises(InputError, match=r"a\.zip: the entry .* no name that is a path within a folder"):
        read_archive(tmp_path / "a.zip")
    with pytest.raises(InputError, match="no name that is a path within a folder"):
        write_archive(tmp_path / "b.zip", {name: b"x"})
    assert not (tmp_path / "b.zip").exists()


REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "no zip archive"),
    "garbage": (b"\0" * 500, "no zip archive"),
    "json": (b'{"a": 1}' * 10, "no zip archive"),
    "tar": (b"a.txt".ljust(257, b"\0") + b"ustar\0".ljust(800, b"\0"), "no zip archive"),
    "truncated": (PLAIN[:-30], "no zip archive"),
    "something behind it": (PLAIN + b"#!/bin/sh", "something behind its end"),
    "something before it": (b"#!/bin/sh\n" + PLAIN, "do not fit together"),
    "a piece of several": (patched(PLAIN, END, 4, "<H", 1), "do not fit together"),
    "fewer entries than told": (
        patched(patched(PLAIN, END, 8, "<H", 2), END, 10, "<H", 2),
        "its end says 2",
    ),
    "very many entries": (patched(PLAIN, END, 10, "<H", 60_000), "it has 60000 entries"),
    "a symbolic link": (of_kind(stat.S_IFLNK), "is a link, a device or the like"),
    "a pipe": (of_kind(stat.S_IFIFO), "is a link, a device or the like"),
    "a device": (of_kind(stat.S_IFBLK), "is a link, a device or the like"),
    "a folder that is a file": (of_kind(stat.S_IFDIR), "is a link, a device or the like"),
    "a junction": (zipped((info("a", create_system=0, external_attr=0x400), b"x")), "is a link, a device"),
    "two of one name": (zipped(("aa", b"1"), ("ab", b"2")).replace(b"ab", b"aa"), "'aa' and 'aa' are one file"),
    "two that differ by case": (zipped(("A.json", b"1"), ("a.JSON", b"2")), "'A.json' and 'a.JSON' are one file"),
    "two that differ by composition": (zipped(("\u00e9", b"1"), ("e\u0301", b"2")), "are one file"),
    "a file that is a folder too": (zipped(("a", b"1"), ("a/b", b"2")), "'a/b' lies in 'a', which is a file"),
    "a folder with content": (zipped(("a/", b"1")), "is a folder of 1 bytes"),
    "encrypted": (patched(PLAIN, CENTRAL, 8, "<H", 1), "'a.txt' is encrypted"),
    "another method": (zipped(("a", b"x" * 99), method=zipfile.ZIP_LZMA), "method 14; expected 0 or 8"),
    "a tightly packed one": (NULS, "would unpack .* to 41943040; expected a ratio"),
    "a name in the directory alone": (patched(PLAIN, CENTRAL, 46, "<B", 0x7A), "not a whole zip archive"),
    "damaged content": (patched(PLAIN, LOCAL, 37, "<B", 0xFF), "not a whole zip archive|has .* bytes"),
    "a wrong checksum": (patched(PLAIN, CENTRAL, 16, "<L", 1), "not a whole zip archive"),
    "more than its header says": (patched(PLAIN, CENTRAL, 24, "<L", 7), "not a whole zip archive"),
    "less than its header says": (patched(PLAIN, CENTRAL, 24, "<L", 900), "has 50 bytes; its header says 900"),
    "one member of two names": (overlapping(), "not a whole zip archive"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_an_archive_that_must_not_get_in_is_refused_by_name(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(InputError, match=rf"a\.zip.*({message})"):
        read_archive(tmp_path / "a.zip")


def test_a_header_that_lies_about_sizes_does_not_get_more_memory(tmp_path: Path) -> None:
    """The sizes in all headers say a few bytes; what comes out is counted."""
    lying = patched(patched(NULS, CENTRAL, 24, "<L", 100), LOCAL, 22, "<L", 100)
    (tmp_path / "a.zip").write_bytes(lying)
    with pytest.raises(InputError, match=r"a\.zip"):
        read_archive(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_files": 3}, "it has 4 entries"),
        ({"max_total_bytes": 1002 + 2}, "goes beyond the bytes allowed"),
        ({"max_total_bytes": 100}, r"a\.zip is \d+ bytes; at most 100 are read"),
    ],
)
def test_an_archive_beyond_a_limit_is_refused(limits: dict[str, int], message: str, tmp_path: Path) -> None:
    write_archive(tmp_path / "a.zip", FILES)
    with pytest.raises(InputError, match=message):
        read_archive(tmp_path / "a.zip", **limits)


def test_an_archive_at_its_limits_is_read(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.zip", FILES)
    assert read_archive(tmp_path / "a.zip", 1005, 4) == FILES


def test_the_ratio_counts_for_large_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_archive(tmp_path / "a.zip", {"zeros": bytes(100_000)})
    assert read_archive(tmp_path / "a.zip", max_ratio=2) == {"zeros": bytes(100_000)}
    monkeypatch.setattr(module, "_SMALL_BYTES", 50_000)
    with pytest.raises(InputError, match="ratio of at most 2"):
        read_archive(tmp_path / "a.zip", max_ratio=2)


def test_what_other_programs_write_is_read_and_folders_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(
        zipped(("graphs/", b""), ("graphs/a.onnx", b"1"), (info("b", create_system=0, external_attr=0x20), b"2"))
    )
    assert read_archive(tmp_path / "a.zip") == {"graphs/a.onnx": b"1", "b": b"2"}


def test_equal_files_give_equal_bytes_in_whatever_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_archive(tmp_path / "a.zip", FILES)
    monkeypatch.setattr("time.time", lambda: 1.7e9)
    write_archive(tmp_path / "b.zip", dict(reversed(FILES.items())))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == sorted(FILES)
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {entry.external_attr >> 16 for entry in archive.infolist()} == {stat.S_IFREG | 0o644}


def test_an_archive_without_files_is_one(tmp_path: Path) -> None:
    write_archive(tmp_path / "a.zip", {})
    assert read_archive(tmp_path / "a.zip") == {}


def test_a_write_that_fails_leaves_the_old_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    write_archive(tmp_path / "a.zip", FILES)
    before = (tmp_path / "a.zip").read_bytes()
    monkeypatch.setattr("latencykit.files.os.replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_archive(tmp_path / "a.zip", {"other": b"1"})
    assert (tmp_path / "a.zip").read_bytes() == before


PARTS = st.text("abcXYZ019_-. é", min_size=1, max_size=6).filter(lambda part: part.strip(". ") and part[-1] not in ". ")


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.lists(PARTS, min_size=1, max_size=3).map("/".join), st.binary(max_size=50), max_size=5))
def test_what_is_written_reads_back_the_same(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.zip"
    lower = {name.casefold() for name in files}
    assume(len(lower) == len(files) and not any(b.startswith(f"{a}/") for a in lower for b in lower))
    write_archive(path, files)
    assert read_archive(path) == files
