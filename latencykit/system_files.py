"""The system's own files (`/proc`, `/sys`) under a root that tests replace by a made-up tree.

Reading never fails: what is absent, forbidden or damaged gives None, or nothing. Standard library only, since
measuring processes read their processors here.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path("/")
MAX_CPUS = 1 << 16  # logical processors; a longer range in a file is damage (Linux stops at 8192)
MAX_COUNT = 1 << 64  # the kernel's counters are this wide; what is larger is damage


def is_live(root: Path) -> bool:
    """Whether this root is the running system's, so that what no file holds may be asked of the system itself."""
    return root == ROOT


def read_text(path: Path) -> str | None:
    """Read a small file, stripped; None where it is absent, empty or may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except (OSError, ValueError):  # ValueError: a path out of a damaged file that holds a NUL
        return None


def read_fields(path: Path, separator: str = ":") -> dict[str, str]:
    """Read a file of lines "name separator value"."""
    return _fields(read_text(path) or "", separator)


def read_words(path: Path) -> list[list[str]]:
    """Read the words of each line that has any."""
    return [words for line in (read_text(path) or "").splitlines() if (words := line.split())]


def read_count(path: Path) -> int | None:
    """Read a file that holds one whole number of at least 0."""
    return count(read_text(path))


def read_cpuinfo(root: Path) -> list[dict[str, str]]:
    """Read `/proc/cpuinfo`, one dictionary a logical processor; at least one, which may be empty."""
    return [_fields(block, ":") for block in re.split(r"\n\s*\n", read_text(root / "proc/cpuinfo") or "")]


def exists(path: Path) -> bool:
    """Whether something is there that may be seen."""
    try:
        return path.exists()
    except (OSError, ValueError):  # no permission on a parent; a NUL in a damaged path
        return False


def cpu_dir(root: Path, cpu: int) -> Path:
    """Folder of a logical processor."""
    return root / f"sys/devices/system/cpu/cpu{cpu}"


def count(text: str | None) -> int | None:
    """Parse a whole number of at least 0."""
    try:
        value = int(text) if text is not None else -1
    except ValueError:
        return None
    return value if 0 <= value < MAX_COUNT else None


def parse_cpu_list(text: str | None) -> tuple[int, ...]:
    """Parse the kernel's lists of processors, such as `0-3,8`; empty where the text is none."""
    cpus: set[int] = set()
    for part in (text or "").split(","):
        low, _, high = part.partition("-")
        start, stop = count(low), count(high or low)
        if start is None or stop is None or not start <= stop < MAX_CPUS:
            return ()
        cpus.update(range(start, stop + 1))
    return tuple(sorted(cpus))


def _fields(text: str, separator: str) -> dict[str, str]:
    pairs = (line.partition(separator) for line in text.splitlines())
    return {name.strip(): value.strip() for name, found, value in pairs if found}
