"""Files that are wholly old or wholly new, whatever happens while they are written; and reading no more than that."""

from __future__ import annotations

import glob
import json
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

from latencykit.errors import InputError

TEMPORARY = ".tmp"
"""Suffix of files that are being written, and of folders that a build works in; their names begin as their target's,
behind a dot."""
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` durably: a temporary file beside it, flushed, renamed, the folder flushed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    if os.name == "posix":  # Windows cannot open a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of their writes of `path`; for the one process that writes it now."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{TEMPORARY}"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """`write_text` of indented JSON; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_bytes(path: Path, max_bytes: int, *, follow: bool = True) -> bytes:
    """Read a regular file; a pipe, a device or a file without end is refused before anything waits for it.

    Args:
        path: the file.
        max_bytes: more are not read.
        follow: False refuses a symbolic link in the file's own place; folders on the way may be links.

    Raises:
        InputError: naming the file.
    """
    try:
        before = path.stat() if follow else path.lstat()
        if stat.S_ISLNK(before.st_mode):
            raise InputError(f"{path} is a symbolic link; expected a regular file: name the one that it points to.")
        _require_regular(path, before, max_bytes)
        descriptor = os.open(path, _OPEN_FLAGS | (0 if follow else getattr(os, "O_NOFOLLOW", 0)))
        try:
            status = os.fstat(descriptor)
            _require_regular(path, status, max_bytes)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(status.st_size + 1)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read: {reason}.") from error
    if len(data) != status.st_size:
        raise InputError(f"{path} gave {len(data)} bytes, expected {status.st_size}: it was changed while it was read.")
    return data


def _require_regular(path: Path, status: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((word for word, test in _KINDS.items() if test(status.st_mode)), "something else")
        raise InputError(f"{path} cannot be read: it is {kind}; expected a regular file.")
    if status.st_size > max_bytes:
        raise InputError(f"{path} is {status.st_size} bytes; at most {max_bytes} are read.")


_KINDS = {
    "a folder": stat.S_ISDIR,
    "a pipe": stat.S_ISFIFO,
    "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
    "a socket": stat.S_ISSOCK,
}
