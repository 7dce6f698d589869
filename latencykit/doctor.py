"""Whether this machine is fit to measure on, and what to do where it is not.

Takes the system's own files under a root, a clock, a sleep and a piece of work, all replaceable; gives a `Verdict`
with a `Reason` for each thing found. The machine is watched twice: asleep, when whatever runs is someone else's, and
at work, since an idle virtual processor is never stolen from and a cool one never throttled.

Each check reads one `Snapshot` and gives a reason or None. What cannot be read is a reason of its own
(`unreadable-...`), never fatal and never assumed fine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from typing import Literal

from latencykit import host
from latencykit.errors import UsageError
from latencykit.host import ROOT, CpuFacts

# Each watch lasts this long, in seconds: the kernel counts ticks of 10 ms, so 1 s resolves 1 % of a core.
INTERVAL_S = 1.0

# Stolen time, in percent of one core at work. 1 % is one tick; above 5 % the error exceeds what a table promises.
STEAL_PCT = 1.0
STEAL_FATAL_PCT = 5.0

# Others' load while asleep, in percent of one core. Below 10 % is a system's own housekeeping; a process that takes
# half of a core competes in every second run, and then the median moves, not only the tail.
OTHER_LOAD_PCT = 10.0
OTHER_LOAD_FATAL_PCT = 50.0

# The last minute's load average per usable core. It holds this process's own recent work, so it is only a hint.
LOAD_AVERAGE_PER_CORE = 0.5

# Spread of equal blocks of work, in percent: middle 80 % over the median. Steady machines stay under 5 %; at 50 %
# no interval around a median is narrow enough to compare anything.
SPREAD_PCT = 10.0
SPREAD_FATAL_PCT = 50.0
WARM_UP_SHARE = 0.2  # of the blocks, dropped: the frequency still climbs
FEWEST_BLOCKS = 20  # below, the deciles of a spread mean nothing
MOST_BLOCKS = 100_000  # ends the work on a clock that stands still

# Smallest step of the clock, in ns. A small kernel takes 20 us: 1 us is 5 % of it, 100 us cannot see it at all.
CLOCK_STEP_NS = 1_000
CLOCK_STEP_FATAL_NS = 100_000
CLOCK_READS = 1_000  # a clock of nanoseconds shows its step at once, one of 15 ms (old Windows) shows none: unreadable

# Free memory, in bytes. A runtime with one network of this size needs 100 to 300 MiB; with less than 256 MiB the
# system takes pages from the process that measures.
MEMORY_BYTES = 1 << 30
MEMORY_FATAL_BYTES = 256 << 20

# Pages swapped while watched. A few come back at any time on a desktop; 256 (1 MiB) means that memory does not suffice.
SWAPPED_FATAL_PAGES = 256

Code = Literal[
    "affinity-narrow",
    "clock-coarse",
    "clock-unsteady",
    "governor",
    "hybrid-cores",
    "hypervisor",
    "load-average",
    "memory-low",
    "other-load",
    "quota-below-cores",
    "quota-below-one",
    "quota-fractional",
    "running-processes",
    "smt-on",
    "stolen-time",
    "swapping",
    "thermal-throttle",
    "throttled",
    "turbo-on",
    "unreadable-affinity",
    "unreadable-clock-steadiness",
    "unreadable-clock-step",
    "unreadable-cores",
    "unreadable-governor",
    "unreadable-hypervisor",
    "unreadable-load-average",
    "unreadable-memory",
    "unreadable-other-load",
    "unreadable-quota",
    "unreadable-running-processes",
    "unreadable-smt",
    "unreadable-stolen-time",
    "unreadable-swapping",
    "unreadable-thermal-throttle",
    "unreadable-throttled",
    "unreadable-turbo",
]


@dataclass(frozen=True)
class Reason:
    """One thing against measuring here, or one thing that could not be read."""

    code: Code
    value: str | int | float | None  # what was found, in the unit that `expected` names; None where unreadable
    expected: str
    remedy: str  # what to do or run next
    fatal: bool  # whether this alone makes the machine unfit


@dataclass(frozen=True)
class Verdict:
    """Whether to measure here: fit unless a reason is fatal. JSON-able by `dataclasses.asdict`."""

    fit: bool
    reasons: tuple[Reason, ...]  # fatal ones first
    cpu: CpuFacts


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


def doctor(
    root: Path = ROOT,
    *,
    interval_s: float = INTERVAL_S,
    sleep: Callable[[float], None] = time.sleep,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    work: Callable[[], None] | None = None,
) -> Verdict:
    """Examine this machine; takes about twice `interval_s`.

    Args:
        root: The root of the system's files; another than `/` simulates a system.
        interval_s: How long to watch asleep, and again at work, in seconds.
        sleep: Waits for so many seconds.
        clock_ns: The clock that measurements use, in nanoseconds.
        work: One block of always the same work; by default about 1 ms of arithmetic.

    Returns:
        The verdict, its fatal reasons first.

    Raises:
        UsageError: `interval_s` is not above 0.
    """
    if not interval_s > 0:
        raise UsageError(f"the interval to watch is {interval_s} s, expected more than 0: leave it at {INTERVAL_S:g}")
    return judge(take_snapshot(root, interval_s, sleep, clock_ns, work or _work))


def judge(snapshot: Snapshot) -> Verdict:
    """Run every check over one snapshot; nothing is read and no time passes."""
    reasons = [reason for check in CHECKS if (reason := check(snapshot)) is not None]
    reasons.sort(key=lambda reason: not reason.fatal)
    return Verdict(not any(reason.fatal for reason in reasons), tuple(reasons), snapshot.cpu)


def take_snapshot(
    root: Path,
    interval_s: float,
    sleep: Callable[[float], None],
    clock_ns: Callable[[], int],
    work: Callable[[], None],
) -> Snapshot:
    """Read the system, asleep for `interval_s` seconds and at work for as long; see `doctor` for the arguments."""
    cpu = host.read_cpu(root)
    step_ns = _clock_step_ns(clock_ns)
    begun = read_counters(root)
    sleep(interval_s)
    rested = read_counters(root)
    load_average, running = _load(root)
    blocks = _work_blocks(interval_s, clock_ns, work)
    return Snapshot(
        cpu=cpu,
        cores=host.physical_cpus(root, cpu.allowed_cpus),
        core_speeds=host.core_speeds(root),
        cgroup_readable=host.read_cgroup(root).readable,
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
    pages = [_number(line[1]) for line in _lines(root / "proc/vmstat") if line[0] in ("pswpin", "pswpout") and line[1:]]
    own = _read(root / "proc/self/stat").rpartition(")")[2].split()  # the name before may hold spaces
    own_ticks = [_number(word) for word in own[11:13]]  # fields 14 and 15: user and system time
    thermal = [
        _number(_read(root / f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle/{name}_throttle_count").strip())
        for cpu in host.online_cpus(root)
        for name in ("core", "package")
    ]
    return Counters(
        ticks=_ticks(root),
        own_ticks=_sum(own_ticks) if len(own_ticks) == 2 else None,
        throttled_periods=host.read_cgroup(root).throttled_periods,
        swapped_pages=_sum(pages),
        thermal_events=_sum([count for count in thermal if count is not None]),
    )


def check_cores(snapshot: Snapshot) -> Reason | None:
    """Find which cores this process may use."""
    if snapshot.cores:
        return None
    return Reason(
        "unreadable-cores", None, "the physical cores by number", "record that no thread could be pinned", False
    )


def check_smt(snapshot: Snapshot) -> Reason | None:
    """Find siblings that share a core: whatever runs on one slows the other."""
    if snapshot.cpu.smt is None:
        return _unreadable("unreadable-smt", "whether SMT is off", "look it up in the firmware's settings")
    if not snapshot.cpu.smt:
        return None
    remedy = "`echo off | sudo tee /sys/devices/system/cpu/smt/control`; threads are pinned one per core anyhow"
    return Reason("smt-on", "on", "off", remedy, False)


def check_hybrid(snapshot: Snapshot) -> Reason | None:
    """Find usable cores of different speeds: a row's time then depends on which were taken."""
    speeds = {snapshot.core_speeds[cpu] for cpu in snapshot.cores if cpu in snapshot.core_speeds}
    if len(speeds) < 2:
        return None
    fastest = [cpu for cpu in snapshot.cores if snapshot.core_speeds.get(cpu) == max(speeds)]
    remedy = f"run under `taskset -c {','.join(map(str, fastest))}`, with `--threads {len(fastest)}` or fewer"
    return Reason("hybrid-cores", len(speeds), "cores of 1 kind", remedy, False)


def check_hypervisor(snapshot: Snapshot) -> Reason | None:
    """Find a hypervisor: what cores and siblings there are is then only its claim."""
    if snapshot.cpu.hypervisor is None:
        return _unreadable("unreadable-hypervisor", "whether this is a virtual machine", "note it by hand")
    if not snapshot.cpu.hypervisor:
        return None
    remedy = "use a machine, or an instance with dedicated physical cores; repeat over fresh processes"
    return Reason("hypervisor", "virtual machine", "none", remedy, False)


def check_affinity(snapshot: Snapshot) -> Reason | None:
    """Find a mask that keeps this process off some processors."""
    allowed, online = len(snapshot.cpu.allowed_cpus), snapshot.cpu.logical_cpus
    if not allowed or online is None:
        return _unreadable(
            "unreadable-affinity", "the processors that this process may use", "record that no thread could be pinned"
        )
    if allowed >= online:
        return None
    remedy = f"start without taskset or cpuset, or under `taskset -c 0-{online - 1}`"
    return Reason("affinity-narrow", allowed, f"{online} logical processors", remedy, False)


def check_quota(snapshot: Snapshot) -> Reason | None:
    """Find a CPU quota below what threads could use: beyond it they are stopped until the period ends."""
    quota = snapshot.cpu.cgroup_quota_cpus
    if quota is None:
        if snapshot.cgroup_readable:
            return None
        return _unreadable("unreadable-quota", "the control groups' CPU quota", "mount /sys/fs/cgroup to see it")
    if quota < 1:
        return Reason(
            "quota-below-one", quota, "at least 1 CPU", "raise the quota, such as `docker run --cpus 2`", True
        )
    if quota < len(snapshot.cores):
        remedy = f"raise the quota to {len(snapshot.cores)} CPUs, or pass `--threads {int(quota)}` or fewer"
        return Reason("quota-below-cores", quota, f"at least {len(snapshot.cores)} CPUs, or none", remedy, False)
    return None


def check_quota_fraction(snapshot: Snapshot) -> Reason | None:
    """Find a quota that is no whole number and binds: its last part can run no thread without stops."""
    quota = snapshot.cpu.cgroup_quota_cpus
    if quota is None or quota < 1 or quota >= len(snapshot.cores) or quota == int(quota):
        return None
    return Reason("quota-fractional", quota, "a whole number of CPUs", f"set the quota to {int(quota)} CPUs", False)


def check_throttled(snapshot: Snapshot) -> Reason | None:
    """Find periods in which the quota stopped this process's control group while it was watched."""
    before, after = snapshot.begun.throttled_periods, snapshot.worked.throttled_periods
    if before is None or after is None:
        if snapshot.cgroup_readable and snapshot.cpu.cgroup_quota_cpus is None:
            return None  # nothing is counted where no quota is set
        return _unreadable("unreadable-throttled", "the throttled periods", "mount /sys/fs/cgroup to see them")
    if after <= before:
        return None
    remedy = "raise the CPU quota, or stop what else runs in this container"
    return Reason("throttled", after - before, "0 throttled periods", remedy, True)


def check_stolen(snapshot: Snapshot) -> Reason | None:
    """Find time that a hypervisor took while this process worked."""
    spent = _spent(snapshot, snapshot.rested, snapshot.worked)
    stolen = [ticks.stolen for ticks in spent]
    core_ticks = _core_ticks(spent)
    if not core_ticks or None in stolen:
        return _unreadable("unreadable-stolen-time", "the time stolen by a hypervisor", "compare repeated builds")
    pct = round(100 * sum(count or 0 for count in stolen) / core_ticks, 1)
    if pct <= STEAL_PCT:
        return None
    remedy = "wait for a quiet hour, or take an instance with dedicated cores"
    return Reason("stolen-time", pct, f"at most {STEAL_PCT:g} % of a core", remedy, pct > STEAL_FATAL_PCT)


def check_other_load(snapshot: Snapshot) -> Reason | None:
    """Find what others ran on the usable processors while this process slept."""
    spent = _spent(snapshot, snapshot.begun, snapshot.rested)
    core_ticks = _core_ticks(spent)
    own_before, own_after = snapshot.begun.own_ticks, snapshot.rested.own_ticks
    if not core_ticks or own_before is None or own_after is None:
        return _unreadable("unreadable-other-load", "the load of other processes", "close other programs")
    others = max(0, sum(ticks.busy for ticks in spent) - (own_after - own_before))
    pct = round(100 * others / core_ticks, 1)
    if pct <= OTHER_LOAD_PCT:
        return None
    remedy = "stop other programs (`top` names them)"
    return Reason("other-load", pct, f"at most {OTHER_LOAD_PCT:g} % of a core", remedy, pct > OTHER_LOAD_FATAL_PCT)


def check_load_average(snapshot: Snapshot) -> Reason | None:
    """Find a machine that was busy over the last minute."""
    if snapshot.load_average is None:
        return _unreadable("unreadable-load-average", "the load of the last minute", "close other programs")
    limit = LOAD_AVERAGE_PER_CORE * max(1, len(snapshot.cores))
    if snapshot.load_average <= limit:
        return None
    return Reason(
        "load-average", snapshot.load_average, f"at most {limit:g}", "wait a minute, then run this again", False
    )


def check_running(snapshot: Snapshot) -> Reason | None:
    """Find others that want to run right now, on every usable core."""
    if snapshot.running is None:
        return _unreadable("unreadable-running-processes", "the processes that want to run", "close other programs")
    others, cores = snapshot.running - 1, max(1, len(snapshot.cores))
    if others < cores:
        return None
    remedy = "stop other programs (`top` names them)"
    return Reason("running-processes", others, f"fewer than {cores} others at once", remedy, False)


def check_governor(snapshot: Snapshot) -> Reason | None:
    """Find a governor that lowers the frequency between calls; the paced figures suffer most."""
    governor = snapshot.cpu.governor
    if governor is None:
        return _unreadable(
            "unreadable-governor",
            "the governor `performance`",
            "on a virtual machine its host decides: repeat over fresh processes",
        )
    if governor == "performance":
        return None
    return Reason("governor", governor, "performance", "`sudo cpupower frequency-set -g performance`", False)


def check_turbo(snapshot: Snapshot) -> Reason | None:
    """Find turbo: the frequency then depends on heat and on what other cores do."""
    if snapshot.cpu.turbo is None:
        return _unreadable(
            "unreadable-turbo",
            "whether turbo is off",
            "on a virtual machine its host decides: repeat over fresh processes",
        )
    if not snapshot.cpu.turbo:
        return None
    remedy = (
        "`echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo`"
        if snapshot.cpu.vendor == "GenuineIntel"
        else "`echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost`"
    )
    return Reason("turbo-on", "on", "off", remedy, False)


def check_clock_step(snapshot: Snapshot) -> Reason | None:
    """Find a clock too coarse for small kernels."""
    step_ns = snapshot.clock_step_ns
    if step_ns is None:
        return _unreadable("unreadable-clock-step", "a clock that moves", "use another clock source")
    if step_ns <= CLOCK_STEP_NS:
        return None
    remedy = "`cat /sys/devices/system/clocksource/clocksource0/current_clocksource`: tsc, not acpi_pm or hpet"
    return Reason(
        "clock-coarse", step_ns, f"steps of at most {CLOCK_STEP_NS} ns", remedy, step_ns > CLOCK_STEP_FATAL_NS
    )


def check_clock_steadiness(snapshot: Snapshot) -> Reason | None:
    """Find equal work that takes unequal time: the frequency moves, or something interrupts."""
    settled = snapshot.block_ns[int(len(snapshot.block_ns) * WARM_UP_SHARE) :]
    if len(settled) < FEWEST_BLOCKS:
        return _unreadable("unreadable-clock-steadiness", f"{FEWEST_BLOCKS} blocks of work", "watch for longer")
    deciles = quantiles(settled, n=10, method="inclusive")
    if not deciles[4] > 0:
        return _unreadable("unreadable-clock-steadiness", "a clock that moves during work", "use another clock source")
    pct = round(100 * (deciles[8] - deciles[0]) / deciles[4], 1)
    if pct <= SPREAD_PCT:
        return None
    remedy = "fix the frequency (governor `performance`, turbo off) and stop other programs"
    return Reason("clock-unsteady", pct, f"a spread of at most {SPREAD_PCT:g} %", remedy, pct > SPREAD_FATAL_PCT)


def check_memory(snapshot: Snapshot) -> Reason | None:
    """Find too little memory to be had."""
    free = snapshot.available_bytes
    if free is None:
        return _unreadable("unreadable-memory", "the available memory", "close other programs")
    if free >= MEMORY_BYTES:
        return None
    remedy = "close other programs, or raise the container's memory limit"
    return Reason("memory-low", free, f"at least {MEMORY_BYTES} bytes", remedy, free < MEMORY_FATAL_BYTES)


def check_swapping(snapshot: Snapshot) -> Reason | None:
    """Find pages swapped while the machine was watched."""
    before, after = snapshot.begun.swapped_pages, snapshot.worked.swapped_pages
    if before is None or after is None:
        return _unreadable("unreadable-swapping", "the pages swapped", "close other programs")
    if after <= before:
        return None
    pages, remedy = after - before, "close other programs; `sudo swapoff -a` where memory suffices"
    return Reason("swapping", pages, "0 pages", remedy, pages >= SWAPPED_FATAL_PAGES)


def check_thermal(snapshot: Snapshot) -> Reason | None:
    """Find a CPU that slowed down for its heat while it was watched."""
    before, after = snapshot.begun.thermal_events, snapshot.worked.thermal_events
    if before is None or after is None:
        return _unreadable("unreadable-thermal-throttle", "the thermal throttle counts", "watch `clock-unsteady`")
    if after <= before:
        return None
    return Reason(
        "thermal-throttle", after - before, "0 events", "let it cool, improve its cooling, or turn turbo off", True
    )


CHECKS: tuple[Callable[[Snapshot], Reason | None], ...] = (
    check_cores,
    check_smt,
    check_hybrid,
    check_hypervisor,
    check_affinity,
    check_quota,
    check_quota_fraction,
    check_throttled,
    check_stolen,
    check_other_load,
    check_load_average,
    check_running,
    check_governor,
    check_turbo,
    check_clock_step,
    check_clock_steadiness,
    check_memory,
    check_swapping,
    check_thermal,
)


def _unreadable(code: Code, expected: str, remedy: str) -> Reason:
    return Reason(code, None, expected, remedy, False)


def _spent(snapshot: Snapshot, before: Counters, after: Counters) -> list[Ticks]:
    """Ticks between two readings, of each processor that this process may use."""
    spent = []
    for cpu in snapshot.cpu.allowed_cpus or tuple(after.ticks):
        if (old := before.ticks.get(cpu)) and (new := after.ticks.get(cpu)):
            stolen = None if old.stolen is None or new.stolen is None else max(0, new.stolen - old.stolen)
            spent.append(Ticks(max(0, new.busy - old.busy), stolen, max(0, new.total - old.total)))
    return spent


def _core_ticks(spent: list[Ticks]) -> float:
    """Ticks of one processor: the whole that a percentage "of a core" refers to; 0 where nothing was counted."""
    return sum(ticks.total for ticks in spent) / len(spent) if spent else 0.0


def _ticks(root: Path) -> dict[int, Ticks]:
    found: dict[int, Ticks] = {}
    for name, *words in _lines(root / "proc/stat"):
        number = _number(name.removeprefix("cpu")) if name.startswith("cpu") else None
        values = [_number(word) for word in words[:8]]  # guest time, after these, is within user time
        if number is None or len(values) < 4 or None in values:
            continue
        user, nice, system, idle, iowait, irq, softirq, steal = ([value or 0 for value in values] + [0] * 4)[:8]
        busy = user + nice + system + irq + softirq
        found[number] = Ticks(busy, steal if len(values) == 8 else None, busy + idle + iowait + steal)
    return found


def _load(root: Path) -> tuple[float | None, int | None]:
    words = _read(root / "proc/loadavg").split()
    try:
        average = float(words[0]) if words else None
    except ValueError:
        average = None
    if average is not None and not math.isfinite(average):
        average = None
    return average, _number(words[3].partition("/")[0]) if len(words) > 3 else None


def _available_bytes(root: Path) -> int | None:
    found = [_number(line[1]) for line in _lines(root / "proc/meminfo") if line[0] == "MemAvailable:" and line[1:]]
    if not found or found[0] is None:
        return None
    limit = host.read_cgroup(root).memory_limit_bytes
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


def _work() -> None:
    sum(range(50_000))  # about 1 ms, within the interpreter: no allocation, no system call


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _lines(path: Path) -> list[list[str]]:
    return [words for line in _read(path).splitlines() if (words := line.split())]


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _sum(counts: list[int | None]) -> int | None:
    """Add up; None where nothing, or anything unreadable, is to be added."""
    return sum(count or 0 for count in counts) if counts and None not in counts else None
