"""What the system shows while it is watched for a while, asleep and at work; the material that checks judge.

Asleep, whatever runs is someone else's. At work, since an idle virtual processor is never stolen from and a cool one
never throttled. The root of the files, the clock, the sleep and the work are all replaceable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from latencykit.cgroup import read_cgroup
from latencykit.host import CpuFacts, read_cpu
from latencykit.system_files import ROOT, count, cpu_dir, read_count, read_text, read_words
from latencykit.topology import core_speeds, online_cpus, physical_cpus

CLOCK_READS = 1_000  # a clock of nanoseconds shows its step at once, one of 15 ms (old Windows) shows none: unreadable
MOST_BLOCKS = 100_000  # ends the work on a clock that stands still


@dataclass(frozen=True)
class Ticks:
    """What one logical processor did since it started, in the kernel's ticks (usually 10 ms)."""

    busy: int
    stolen: int | None  # wanted to run, and the hypervisor ran someone else; None: the kernel does not count it
    total: int


@dataclass(frozen=True)
class Counters:
    """The system's running counts at one moment; None for each that could not be read."""

    ticks: Mapping[int, Ticks]  # by logical processor
    own_ticks: int | None  # this process's processor time
    throttled_periods: int | None  # of this process's control groups
    swapped_pages: int | None  # in and out
    thermal_events: int | None  # moments at which a core or package was slowed for its heat


@dataclass(frozen=True)
class Snapshot:
    """All that the checks look at."""

    cpu: CpuFacts
    cores: tuple[int, ...]  # one logical processor per usable physical core; empty where unreadable
    core_speeds: Mapping[int, int]  # no unit; empty where the kernel ranks nothing
    cgroup_readable: bool
    begun: Counters  # before sleeping
    rested: Counters  # after sleeping, before working
    worked: Counters  # after working
    load_average: float | None  # of the last minute
    running: int | None  # runnable now, this process included
    available_bytes: int | None  # memory to be had without swapping, within the control groups' limits
    clock_step_ns: int | None  # smallest step seen
    block_ns: tuple[int, ...]  # time of each equal block of work, in order

    def spent(self, before: Counters, after: Counters) -> list[Ticks]:
        """Ticks between two readings, of each processor that this process may use."""
        spent = []
        for cpu in self.cpu.allowed_cpus or tuple(after.ticks):
            if (old := before.ticks.get(cpu)) and (new := after.ticks.get(cpu)):
                stolen = None if old.stolen is None or new.stolen is None else max(0, new.stolen - old.stolen)
                spent.append(Ticks(max(0, new.busy - old.busy), stolen, max(0, new.total - old.total)))
        return spent


def take_snapshot(
    root: Path,
    interval_s: float,
    sleep: Callable[[float], None],
    clock_ns: Callable[[], int],
    work: Callable[[], None],
) -> Snapshot:
    """Read the system, asleep for `interval_s` seconds and at work for as long.

    Args:
        root: The root of the system's files; another than `/` simulates a system.
        interval_s: How long to watch asleep, and again at work, in seconds.
        sleep: Waits for so many seconds.
        clock_ns: The clock that measurements use, in nanoseconds.
        work: One block of always the same work.
    """
    cpu = read_cpu(root)
    step_ns = _clock_step_ns(clock_ns)
    begun = read_counters(root)
    sleep(interval_s)
    rested = read_counters(root)
    load_average, running = _load(root)
    blocks = _work_blocks(interval_s, clock_ns, work)
    return Snapshot(
        cpu=cpu,
        cores=physical_cpus(root, cpu.allowed_cpus),
        core_speeds=core_speeds(root),
        cgroup_readable=read_cgroup(root).readable,
        begun=begun,
        rested=rested,
        worked=read_counters(root),
        load_average=load_average,
        running=running,
        available_bytes=_available_bytes(root),
        clock_step_ns=step_ns,
        block_ns=blocks,
    )


def read_counters(root: Path = ROOT) -> Counters:
    """Read the system's running counts now; None, or no entry, for what is absent."""
    own = (read_text(root / "proc/self/stat") or "").rpartition(")")[2].split()  # the name before may hold spaces
    swapped = (
        words[1] for words in read_words(root / "proc/vmstat") if words[0] in ("pswpin", "pswpout") and words[1:]
    )
    thermal = (
        read_count(cpu_dir(root, cpu) / "thermal_throttle" / f"{name}_throttle_count")
        for cpu in online_cpus(root)
        for name in ("core", "package")
    )
    return Counters(
        ticks=_ticks(root),
        own_ticks=_sum(map(count, own[11:13])) if len(own) > 12 else None,  # fields 14 and 15: user and system time
        throttled_periods=read_cgroup(root).throttled_periods,
        swapped_pages=_sum(map(count, swapped)),
        thermal_events=_sum(events for events in thermal if events is not None),
    )


def _ticks(root: Path) -> dict[int, Ticks]:
    found: dict[int, Ticks] = {}
    for name, *words in read_words(root / "proc/stat"):
        number = count(name.removeprefix("cpu")) if name.startswith("cpu") else None
        values = [value for value in map(count, words[:8]) if value is not None]  # guest time, after, is in user time
        if number is None or not 4 <= len(values) == len(words[:8]):
            continue
        user, nice, system, idle, iowait, irq, softirq, steal = (values + [0] * 4)[:8]
        busy = user + nice + system + irq + softirq
        found[number] = Ticks(busy, steal if len(values) == 8 else None, busy + idle + iowait + steal)
    return found


def _load(root: Path) -> tuple[float | None, int | None]:
    words = (read_text(root / "proc/loadavg") or "").split()
    try:
        average = float(words[0]) if words else math.nan
    except ValueError:
        average = math.nan
    running = count(words[3].partition("/")[0]) if len(words) > 3 else None
    return average if math.isfinite(average) else None, running


def _available_bytes(root: Path) -> int | None:
    found = [
        count(words[1]) for words in read_words(root / "proc/meminfo") if words[0] == "MemAvailable:" and words[1:]
    ]
    if not found or found[0] is None:
        return None
    limit = read_cgroup(root).memory_limit_bytes
    return min(found[0] * 1024, limit or found[0] * 1024)


def _clock_step_ns(clock_ns: Callable[[], int]) -> int | None:
    reads = [clock_ns() for _ in range(CLOCK_READS)]
    return min((after - before for before, after in pairwise(reads) if after > before), default=None)


def _work_blocks(interval_s: float, clock_ns: Callable[[], int], work: Callable[[], None]) -> tuple[int, ...]:
    """Time equal blocks of work, in ns, until `interval_s` seconds have passed."""
    blocks: list[int] = []
    begun = now = clock_ns()
    while now - begun < interval_s * 1e9 and len(blocks) < MOST_BLOCKS:
        before = clock_ns()
        work()
        now = clock_ns()
        blocks.append(now - before)
    return tuple(blocks)


def _sum(counts: Iterable[int | None]) -> int | None:
    """Add up; None where nothing, or anything unreadable, is to be added."""
    known = list(counts)
    return sum(number or 0 for number in known) if known and None not in known else None
