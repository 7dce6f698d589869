"""Zip archives: read from outside without trust, written so that equal files give equal bytes."""

from __future__ import annotations

import io
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from latencykit.errors import InputError
from latencykit.files import read_bytes, write_bytes

MAX_TOTAL_BYTES = 1 << 30
MAX_FILES = 10_000
MAX_RATIO = 200.0
MAX_NAME = 200
_SMALL_BYTES = 1 << 20
"""A member up to here may be packed as tightly as it will: a few zeros are no bomb."""
_PART_BYTES = 1 << 20
_END = struct.Struct("<4s4H2LH")
_END_MARK = b"PK\x05\x06"
_DIRECTORY_ENTRY_BYTES = 1024
"""Most that one member may take of the directory, its name and extra fields included."""
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_REPARSE_POINT = 0x400
_RESERVED = frozenset({"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)})
_FIXED_DATE = (1980, 1, 1, 0, 0, 0)


def read_archive(
    path: Path, max_total_bytes: int = MAX_TOTAL_BYTES, max_files: int = MAX_FILES, max_ratio: float = MAX_RATIO
) -> dict[str, bytes]:
    """The files of a zip archive by name, folders left out.

    Args:
        path: the archive.
        max_total_bytes: of all files unpacked, counted while they are unpacked, and of the archive itself.
        max_files: number of entries.
        max_ratio: unpacked over packed bytes of a file, where it is larger than 1 MiB.

    Raises:
        InputError: naming the archive: damaged or no zip; beyond a limit; an entry that is encrypted, a link or a
            device, that bears another's name, or whose name leads out of a folder or cannot be a file on some system.
    """
    content = read_bytes(path, max_total_bytes)
    try:
        told = _require_end(content, max_files)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            if len(entries) != told:
                raise InputError(f"it lists {len(entries)} entries; its end says {told}.")
            _require_unique([entry.orig_filename for entry in entries])
            for entry in entries:
                _require_plain(entry, max_ratio)
            found: dict[str, bytes] = {}
            left = max_total_bytes
            for entry in entries:
                if not entry.is_dir():
                    found[entry.filename] = _unpacked(archive, entry, left)
                    left -= len(found[entry.filename])
            return found
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError) as e:
        raise InputError(f"{path} is not a whole zip archive: {e}") from e


def write_archive(path: Path, files: Mapping[str, bytes]) -> None:
    """Write files as a zip archive, wholly or not at all; the bytes depend on names and content alone.

    Raises:
        InputError: a name that `read_archive` would refuse.
    """
    _require_unique(list(files))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in sorted(files):
            _require_name(name)
            entry = zipfile.ZipInfo(name, _FIXED_DATE)
            entry.create_system = 3  # Unix, on every system
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, files[name], zipfile.ZIP_DEFLATED)
    write_bytes(path, packed.getvalue())


def _require_end(content: bytes, max_files: int) -> int:
    """The entries that an archive's end tells of, checked before `zipfile` reads the whole directory at once."""
    if len(content) < _END.size or content[-_END.size :][:4] != _END_MARK:
        raise InputError("it is no zip archive, or there is something behind its end.")
    _, disk, start_disk, here, entries, size, offset, _ = _END.unpack(content[-_END.size :])
    if entries > max_files or size > max_files * _DIRECTORY_ENTRY_BYTES:
        raise InputError(f"it has {entries} entries in {size} bytes; expected at most {max_files} of a usual size.")
    if disk or start_disk or here != entries or offset + size != len(content) - _END.size:
        raise InputError("its parts do not fit together: a piece of an archive, or of more than 4 GiB.")
    return int(entries)


def _require_unique(names: list[str]) -> None:
    """Raise where two names are one file on some system: upper and lower case, composed and decomposed letters."""
    seen: dict[str, str] = {}
    for name in names:
        folded = unicodedata.normalize("NFC", name.rstrip("/").casefold())
        if folded in seen:
            raise InputError(f"the entries {seen[folded][:80]!r} and {name[:80]!r} are one file.")
        seen[folded] = name
    for folded, name in seen.items():
        parts = folded.split("/")
        for length in range(1, len(parts)):
            above = seen.get("/".join(parts[:length]))
            if above is not None and not above.endswith("/"):
                raise InputError(f"the entry {name[:80]!r} lies in {above[:80]!r}, which is a file.")


def _require_name(name: str) -> None:
    """Raise for a name that is no relative path of plain parts on every system."""
    parts = name.removesuffix("/").split("/")
    plain = len(name) <= MAX_NAME and name.isprintable() and not set(name) & set('\\:*?"<>|')
    if not plain or any(not part or part.strip(". ") == "" or part[-1] in ". " or _reserved(part) for part in parts):
        raise InputError(f"the entry {name[:80]!r} has no name that is a path within a folder on every system.")


def _reserved(part: str) -> bool:
    return part.partition(".")[0].rstrip().casefold() in _RESERVED


def _require_plain(entry: zipfile.ZipInfo, max_ratio: float) -> None:
    """Raise unless an entry is a file or folder that can be unpacked as it stands."""
    name = entry.orig_filename
    _require_name(name)
    shown = repr(name[:80])
    if entry.flag_bits & _ENCRYPTED:
        raise InputError(f"the entry {shown} is encrypted.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"the entry {shown} is packed by method {entry.compress_type}; expected 0 or 8.")
    kind, expected = stat.S_IFMT(entry.external_attr >> 16), stat.S_IFDIR if entry.is_dir() else stat.S_IFREG
    if kind not in (0, expected) or entry.external_attr & _REPARSE_POINT:
        raise InputError(f"the entry {shown} is a link, a device or the like; expected a file.")
    if entry.is_dir() and entry.file_size:
        raise InputError(f"the entry {shown} is a folder of {entry.file_size} bytes.")
    if entry.file_size > max(_SMALL_BYTES, max_ratio * entry.compress_size):
        raise InputError(
            f"the entry {shown} would unpack {entry.compress_size} bytes to {entry.file_size}; expected a ratio of at "
            f"most {max_ratio:g}."
        )


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, left: int) -> bytes:
    """The content of an entry, unpacked in parts and counted, so that no header needs to be believed."""
    parts, size = [], 0
    with archive.open(entry) as file:
        while part := file.read(_PART_BYTES):
            parts.append(part)
            size += len(part)
            if size > left:
                raise InputError(f"the entry {entry.filename[:80]!r} goes beyond the bytes allowed to all files.")
    if size != entry.file_size:
        raise InputError(f"the entry {entry.filename[:80]!r} has {size} bytes; its header says {entry.file_size}.")
    return b"".join(parts)
