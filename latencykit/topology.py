"""Which logical processors a measurement may use, and on which physical cores they are.

Serves measuring processes: the standard library and this package's own file readers only (psutil if present, where
the system tells no more than a number of cores).
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from latencykit.cgroup import read_cgroup
from latencykit.errors import UnfitError, UsageError
from latencykit.system_files import (
    ROOT,
    count,
    cpu_dir,
    is_live,
    parse_cpu_list,
    read_count,
    read_cpuinfo,
    read_fields,
    read_text,
)

if sys.platform == "win32":
    from latencykit.windows_topology import windows_affinity, windows_layout


def check_threads(threads: int, root: Path = ROOT) -> tuple[int, ...]:
    """Choose the processors to pin `threads` threads on, one physical core each.

    More threads than cores doubled the end-to-end time and its spread, so that is refused. Call it before anything is
    pinned: a pinned thread sees only its own processor.

    Args:
        threads: How many threads will compute, the calling one included.
        root: The root of the system's files.

    Returns:
        `threads` logical processors, the fastest cores first; empty where the number of cores is known but not which
        logical processor is on which (macOS): nothing can be pinned there, and that belongs in the record.

    Raises:
        UsageError: `threads` is below 1.
        UnfitError: This process may use fewer physical cores, or their number could not be read.
    """
    if threads < 1:
        raise UsageError(f"`--threads` is {threads}, expected at least 1: pass `--threads 1`")
    cpus = physical_cpus(root)
    cores = len(cpus) or (ask_core_count() if is_live(root) else None)
    if not cpus and cores and (allowed := allowed_cpus(root)):
        cores = min(cores, len(allowed))
    if cores is None:
        if threads == 1:
            return ()
        raise UnfitError(
            f"{threads} threads were asked for, the number of physical cores could not be read: "
            "install psutil, or pass `--threads 1`"
        )
    quota = read_cgroup(root).quota_cpus
    usable = cores if quota is None else max(1, min(cores, math.floor(quota)))
    if threads > usable:
        held = f" (its control group's quota is {quota:g} CPUs)" if quota is not None and usable < cores else ""
        raise UnfitError(
            f"{threads} threads were asked for, this machine has {usable} physical "
            f"{'core' if usable == 1 else 'cores'} that this process may use{held}: "
            f"pass `--threads {usable}`{' (or fewer)' if usable > 1 else ''}"
        )
    return cpus[:threads]


def physical_cpus(root: Path = ROOT, allowed: Iterable[int] | None = None) -> tuple[int, ...]:
    """Give one logical processor per physical core, so that no two threads share a core.

    Args:
        root: The root of the system's files.
        allowed: The logical processors to choose among; by default those that this process may run on.

    Returns:
        Logical processors, fastest cores first (CPUs with two kinds of core), then by number; empty where the topology
        could not be read.
    """
    among = set(allowed_cpus(root) if allowed is None else allowed)
    chosen = [min(usable) for core in read_cores(root) if (usable := among.intersection(core))]
    speed = core_speeds(root)
    return tuple(sorted(chosen, key=lambda cpu: (-speed.get(cpu, 0), cpu)))


def core_speeds(root: Path = ROOT) -> dict[int, int]:
    """Rank logical processors by the kernel's own figures: more is faster, in no unit; empty where unknown."""
    online = online_cpus(root)
    capacity = {cpu: value for cpu in online if (value := read_count(cpu_dir(root, cpu) / "cpu_capacity"))}
    if len(set(capacity.values())) > 1:
        return capacity
    slow = set(parse_cpu_list(read_text(root / "sys/devices/cpu_atom/cpus")))  # Intel's efficiency cores
    return {cpu: int(cpu not in slow) for cpu in online} if slow else capacity


def allowed_cpus(root: Path = ROOT) -> tuple[int, ...]:
    """List the logical processors that the calling thread may run on; empty where that cannot be read."""
    if not is_live(root):
        return parse_cpu_list(read_fields(root / "proc/self/status").get("Cpus_allowed_list"))
    if sys.platform == "win32":
        return windows_affinity()
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def online_cpus(root: Path = ROOT) -> tuple[int, ...]:
    """List the logical processors that are on line; empty where that cannot be read."""
    if online := parse_cpu_list(read_text(root / "sys/devices/system/cpu/online")):
        return online
    numbers = (count(block.get("processor")) for block in read_cpuinfo(root))
    return tuple(sorted({number for number in numbers if number is not None}))


def read_cores(root: Path = ROOT) -> tuple[tuple[int, ...], ...]:
    """Group the logical processors on line by the physical core they are on; empty where that cannot be read."""
    groups: dict[object, set[int]] = {}
    for cpu in online_cpus(root):
        topology = cpu_dir(root, cpu) / "topology"
        siblings = parse_cpu_list(
            read_text(topology / "core_cpus_list") or read_text(topology / "thread_siblings_list")
        )
        # A core's number is unique within its package only.
        ids = tuple(read_text(topology / name) for name in ("physical_package_id", "core_id"))
        if siblings:
            groups.setdefault(frozenset(siblings), set()).add(cpu)
        elif None not in ids:
            groups.setdefault(ids, set()).add(cpu)
    if not groups:
        for block in read_cpuinfo(root):
            number, ids = count(block.get("processor")), (block.get("physical id"), block.get("core id"))
            if number is not None and None not in ids:
                groups.setdefault(ids, set()).add(number)
    if not groups and is_live(root) and sys.platform == "win32":
        return windows_layout().cores
    return tuple(sorted(tuple(sorted(group)) for group in groups.values()))


def ask_core_count() -> int | None:
    """Ask the running system how many physical cores it has, where it tells no more than that (macOS)."""
    try:
        import psutil  # absent on bare machines: then the figure stays unknown
    except ImportError:
        return None
    return psutil.cpu_count(logical=False) or None
