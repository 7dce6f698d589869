"""What this process's control groups (versions 1 and 2) allow it, and how often they stopped it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from latencykit.system_files import ROOT, count, exists, read_count, read_fields, read_text

NO_LIMIT_BYTES = 1 << 60  # version 1 writes "no limit" as a number close to 2^63


@dataclass(frozen=True)
class CgroupFacts:
    """What the control groups of this process, from its own up to the root, allow and have done."""

    readable: bool  # False: the hierarchy could not be found, so None below says nothing
    quota_cpus: float | None  # the tightest level, in CPUs; None: no quota
    throttled_periods: int | None  # summed over the levels, since their start; None: not counted
    memory_limit_bytes: int | None  # the tightest level; None: no limit


def read_cgroup(root: Path = ROOT) -> CgroupFacts:
    """Read the limits of this process's control groups; a parent's limit holds for its children."""
    found = tuple(_group_dirs(root, "cpu"))
    quotas = [quota for directory in found if (quota := _quota_cpus(directory))]
    counts = [count(read_fields(directory / "cpu.stat", separator=" ").get("nr_throttled")) for directory in found]
    throttled = [periods for periods in counts if periods is not None]
    limits = [
        limit
        for directory in _group_dirs(root, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (limit := read_count(directory / name)) and limit < NO_LIMIT_BYTES
    ]
    return CgroupFacts(
        readable=bool(found),
        quota_cpus=min(quotas, default=None),
        throttled_periods=sum(throttled) if throttled else None,
        memory_limit_bytes=min(limits, default=None),
    )


def _group_dirs(root: Path, controller: str) -> Iterator[Path]:
    """Give this process's directories for one controller, its own first, then its parents.

    In a container the path may name a directory outside of what is mounted; then only the mount's root is found.
    """
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        _, first, rest = line.partition(":")
        names, second, path = rest.partition(":")
        if not first or not second or (names and controller not in names.split(",")):
            continue
        bases = [root / "sys/fs/cgroup" / mount for mount in ((names, controller) if names else ("", "unified"))]
        marks = ("cgroup.controllers", "cgroup.procs", "tasks")
        mounted = next((base for base in bases if any(exists(base / mark) for mark in marks)), None)
        if mounted is None:
            continue
        parts = [part for part in path.split("/") if part]
        depths = range(len(parts), -1, -1) if ".." not in parts else (0,)
        yield from filter(exists, (mounted.joinpath(*parts[:depth]) for depth in depths))


def _quota_cpus(directory: Path) -> float | None:
    """Read one level's quota, in CPUs: run time allowed per period over the period, both in microseconds."""
    words = (read_text(directory / "cpu.max") or "").split()
    if len(words) == 2:
        quota, period = map(count, words)
    else:
        quota, period = (read_count(directory / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return quota / period if quota and period else None
