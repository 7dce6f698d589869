"""One process of this machine at a time writes a file: two builds of one table would lose what either measured."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from latencykit.errors import InterruptedRunError


@contextmanager
def only_writer(path: Path, patience_s: float = 0) -> Iterator[None]:
    """Keep other processes from making `path` meanwhile; one that is killed keeps nobody. Nothing is left beside it.

    Args:
        path: the file.
        patience_s: how long to wait for another process.

    Raises:
        InterruptedRunError: another process is at it.
    """
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    try:
        held = FileLock(Path(tempfile.gettempdir()) / f"latencykit-{name}.lock", timeout=patience_s).acquire()
    except Timeout as error:
        raise InterruptedRunError(
            f"another process is making {path}; when it has ended, the same command goes on from there."
        ) from error
    with held:
        yield
