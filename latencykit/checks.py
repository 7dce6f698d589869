"""What speaks against measuring on a machine, each with what was found, what is expected and what to do.

Each check reads one `Snapshot` and gives a `Reason` or None. What cannot be read is a reason of its own
(`unreadable-...`), never fatal and never assumed fine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import quantiles
from typing import Literal

from latencykit.snapshot import Snapshot, Ticks

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

# Smallest step of the clock, in ns. A small kernel takes 20 us: 1 us is 5 % of it, 100 us cannot see it at all.
CLOCK_STEP_NS = 1_000
CLOCK_STEP_FATAL_NS = 100_000

# Free memory, in bytes. A runtime with one network of this size needs 100 to 300 MiB; with less than 256 MiB the
# system takes pages from the process that measures.
MEMORY_BYTES = 1 << 30
MEMORY_FATAL_BYTES = 256 << 20

# Pages swapped while watched. A few come back at any time on a desktop; 256 (1 MiB) means that memory does not suffice.
SWAPPED_FATAL_PAGES = 256

Code = Literal[
    "affinity-narrow", "clock-coarse", "clock-unsteady", "governor", "hybrid-cores", "hypervisor", "load-average",
    "memory-low", "other-load", "quota-below-cores", "quota-below-one", "quota-fractional", "running-processes",
    "smt-on", "stolen-time", "swapping", "thermal-throttle", "throttled", "turbo-on",
    "unreadable-affinity", "unreadable-clock-steadiness", "unreadable-clock-step", "unreadable-cores",
    "unreadable-governor", "unreadable-hypervisor", "unreadable-load-average", "unreadable-memory",
    "unreadable-other-load", "unreadable-quota", "unreadable-running-processes", "unreadable-smt",
    "unreadable-stolen-time", "unreadable-swapping", "unreadable-thermal-throttle", "unreadable-throttled",
    "unreadable-turbo",
]  # fmt: skip

HOST_DECIDES = "on a virtual machine its host decides: repeat over fresh processes"
CLOSE_OTHERS = "close other programs"
STOP_OTHERS = "stop other programs (`top` names them)"


@dataclass(frozen=True)
class Reason:
    """One thing against measuring here, or one thing that could not be read."""

    code: Code
    value: str | int | float | None  # what was found, in the unit that `expected` names; None where unreadable
    expected: str
    remedy: str  # what to do or run next
    fatal: bool = False  # whether this alone makes the machine unfit


def check_cores(snapshot: Snapshot) -> Reason | None:
    """Find which cores this process may use."""
    if snapshot.cores:
        return None
    return Reason("unreadable-cores", None, "the physical cores by number", "record that no thread could be pinned")


def check_smt(snapshot: Snapshot) -> Reason | None:
    """Find siblings that share a core: whatever runs on one slows the other."""
    if snapshot.cpu.smt is None:
        return Reason("unreadable-smt", None, "whether SMT is off", "look it up in the firmware's settings")
    remedy = "`echo off | sudo tee /sys/devices/system/cpu/smt/control`; threads are pinned one per core anyhow"
    return Reason("smt-on", "on", "off", remedy) if snapshot.cpu.smt else None


def check_hybrid(snapshot: Snapshot) -> Reason | None:
    """Find usable cores of different speeds: a row's time then depends on which were taken."""
    speeds = {snapshot.core_speeds[cpu] for cpu in snapshot.cores if cpu in snapshot.core_speeds}
    if len(speeds) < 2:
        return None
    fastest = [cpu for cpu in snapshot.cores if snapshot.core_speeds.get(cpu) == max(speeds)]
    remedy = f"run under `taskset -c {','.join(map(str, fastest))}`, with `--threads {len(fastest)}` or fewer"
    return Reason("hybrid-cores", len(speeds), "cores of 1 kind", remedy)


def check_hypervisor(snapshot: Snapshot) -> Reason | None:
    """Find a hypervisor: what cores and siblings there are is then only its claim."""
    if snapshot.cpu.hypervisor is None:
        return Reason("unreadable-hypervisor", None, "whether this is a virtual machine", "note it by hand")
    remedy = "use a machine, or an instance with dedicated physical cores; repeat over fresh processes"
    return Reason("hypervisor", "virtual machine", "none", remedy) if snapshot.cpu.hypervisor else None


def check_affinity(snapshot: Snapshot) -> Reason | None:
    """Find a mask that keeps this process off some processors."""
    allowed, online = len(snapshot.cpu.allowed_cpus), snapshot.cpu.logical_cpus
    if not allowed or online is None:
        remedy = "record that no thread could be pinned"
        return Reason("unreadable-affinity", None, "the processors that this process may use", remedy)
    remedy = f"start without taskset or cpuset, or under `taskset -c 0-{online - 1}`"
    return Reason("affinity-narrow", allowed, f"{online} logical processors", remedy) if allowed < online else None


def check_quota(snapshot: Snapshot) -> Reason | None:
    """Find a CPU quota below what threads could use: beyond it they are stopped until the period ends."""
    quota, cores = snapshot.cpu.cgroup_quota_cpus, len(snapshot.cores)
    if quota is None:
        remedy = "mount /sys/fs/cgroup to see it"
        return (
            None
            if snapshot.cgroup_readable
            else Reason("unreadable-quota", None, "the control groups' CPU quota", remedy)
        )
    if quota < 1:
        remedy = "raise the quota, such as `docker run --cpus 2`"
        return Reason("quota-below-one", quota, "at least 1 CPU", remedy, fatal=True)
    remedy = f"raise the quota to {cores} CPUs, or pass `--threads {int(quota)}` or fewer"
    return Reason("quota-below-cores", quota, f"at least {cores} CPUs, or none", remedy) if quota < cores else None


def check_quota_fraction(snapshot: Snapshot) -> Reason | None:
    """Find a quota that is no whole number and binds: its last part can run no thread without stops."""
    quota = snapshot.cpu.cgroup_quota_cpus
    if quota is None or quota < 1 or quota >= len(snapshot.cores) or quota == int(quota):
        return None
    return Reason("quota-fractional", quota, "a whole number of CPUs", f"set the quota to {int(quota)} CPUs")


def check_throttled(snapshot: Snapshot) -> Reason | None:
    """Find periods in which the quota stopped this process's control group while it was watched."""
    periods = _rise(snapshot.begun.throttled_periods, snapshot.worked.throttled_periods)
    if periods is None:
        if snapshot.cgroup_readable and snapshot.cpu.cgroup_quota_cpus is None:
            return None  # nothing is counted where no quota is set
        return Reason("unreadable-throttled", None, "the throttled periods", "mount /sys/fs/cgroup to see them")
    remedy = "raise the CPU quota, or stop what else runs in this container"
    return Reason("throttled", periods, "0 throttled periods", remedy, fatal=True) if periods > 0 else None


def check_stolen(snapshot: Snapshot) -> Reason | None:
    """Find time that a hypervisor took while this process worked."""
    spent = snapshot.spent(snapshot.rested, snapshot.worked)
    stolen = [ticks.stolen for ticks in spent if ticks.stolen is not None]
    if not (core_ticks := _core_ticks(spent)) or len(stolen) < len(spent):
        return Reason("unreadable-stolen-time", None, "the time stolen by a hypervisor", "compare repeated builds")
    pct = round(100 * sum(stolen) / core_ticks, 1)
    remedy = "wait for a quiet hour, or take an instance with dedicated cores"
    expected = f"at most {STEAL_PCT:g} % of a core"
    return Reason("stolen-time", pct, expected, remedy, pct > STEAL_FATAL_PCT) if pct > STEAL_PCT else None


def check_other_load(snapshot: Snapshot) -> Reason | None:
    """Find what others ran on the usable processors while this process slept."""
    spent = snapshot.spent(snapshot.begun, snapshot.rested)
    own = _rise(snapshot.begun.own_ticks, snapshot.rested.own_ticks)
    if not (core_ticks := _core_ticks(spent)) or own is None:
        return Reason("unreadable-other-load", None, "the load of other processes", CLOSE_OTHERS)
    pct = round(100 * max(0, sum(ticks.busy for ticks in spent) - own) / core_ticks, 1)
    expected = f"at most {OTHER_LOAD_PCT:g} % of a core"
    if pct <= OTHER_LOAD_PCT:
        return None
    return Reason("other-load", pct, expected, STOP_OTHERS, pct > OTHER_LOAD_FATAL_PCT)


def check_load_average(snapshot: Snapshot) -> Reason | None:
    """Find a machine that was busy over the last minute."""
    load, limit = snapshot.load_average, LOAD_AVERAGE_PER_CORE * max(1, len(snapshot.cores))
    if load is None:
        return Reason("unreadable-load-average", None, "the load of the last minute", CLOSE_OTHERS)
    remedy = "wait a minute, then run this again"
    return Reason("load-average", load, f"at most {limit:g}", remedy) if load > limit else None


def check_running(snapshot: Snapshot) -> Reason | None:
    """Find others that want to run right now, on every usable core."""
    if snapshot.running is None:
        return Reason("unreadable-running-processes", None, "the processes that want to run", CLOSE_OTHERS)
    others, cores = snapshot.running - 1, max(1, len(snapshot.cores))
    expected = f"fewer than {cores} others at once"
    return Reason("running-processes", others, expected, STOP_OTHERS) if others >= cores else None


def check_governor(snapshot: Snapshot) -> Reason | None:
    """Find a governor that lowers the frequency between calls; the paced figures suffer most."""
    governor = snapshot.cpu.governor
    if governor is None:
        return Reason("unreadable-governor", None, "the governor `performance`", HOST_DECIDES)
    if governor == "performance":
        return None
    return Reason("governor", governor, "performance", "`sudo cpupower frequency-set -g performance`")


def check_turbo(snapshot: Snapshot) -> Reason | None:
    """Find turbo: the frequency then depends on heat and on what other cores do."""
    if snapshot.cpu.turbo is None:
        return Reason("unreadable-turbo", None, "whether turbo is off", HOST_DECIDES)
    intel = snapshot.cpu.vendor == "GenuineIntel"
    value, file = ("1", "intel_pstate/no_turbo") if intel else ("0", "cpufreq/boost")
    remedy = f"`echo {value} | sudo tee /sys/devices/system/cpu/{file}`"
    return Reason("turbo-on", "on", "off", remedy) if snapshot.cpu.turbo else None


def check_clock_step(snapshot: Snapshot) -> Reason | None:
    """Find a clock too coarse for small kernels."""
    step_ns, expected = snapshot.clock_step_ns, f"steps of at most {CLOCK_STEP_NS} ns"
    if step_ns is None:
        return Reason("unreadable-clock-step", None, "a clock that moves", "use another clock source")
    if step_ns <= CLOCK_STEP_NS:
        return None
    remedy = "`cat /sys/devices/system/clocksource/clocksource0/current_clocksource`: tsc, not acpi_pm or hpet"
    return Reason("clock-coarse", step_ns, expected, remedy, step_ns > CLOCK_STEP_FATAL_NS)


def check_clock_steadiness(snapshot: Snapshot) -> Reason | None:
    """Find equal work that takes unequal time: the frequency moves, or something interrupts."""
    settled = snapshot.block_ns[int(len(snapshot.block_ns) * WARM_UP_SHARE) :]
    if len(settled) < FEWEST_BLOCKS:
        expected = f"{FEWEST_BLOCKS} blocks of work"
        return Reason("unreadable-clock-steadiness", None, expected, "watch for longer")
    deciles = quantiles(settled, n=10, method="inclusive")
    if not deciles[4] > 0:
        expected = "a clock that moves during work"
        return Reason("unreadable-clock-steadiness", None, expected, "use another clock source")
    pct = round(100 * (deciles[8] - deciles[0]) / deciles[4], 1)
    if pct <= SPREAD_PCT:
        return None
    remedy = "fix the frequency (governor `performance`, turbo off) and stop other programs"
    return Reason("clock-unsteady", pct, f"a spread of at most {SPREAD_PCT:g} %", remedy, pct > SPREAD_FATAL_PCT)


def check_memory(snapshot: Snapshot) -> Reason | None:
    """Find too little memory to be had."""
    free = snapshot.available_bytes
    if free is None:
        return Reason("unreadable-memory", None, "the available memory", CLOSE_OTHERS)
    if free >= MEMORY_BYTES:
        return None
    remedy = "close other programs, or raise the container's memory limit"
    return Reason("memory-low", free, f"at least {MEMORY_BYTES} bytes", remedy, free < MEMORY_FATAL_BYTES)


def check_swapping(snapshot: Snapshot) -> Reason | None:
    """Find pages swapped while the machine was watched."""
    pages = _rise(snapshot.begun.swapped_pages, snapshot.worked.swapped_pages)
    if pages is None:
        return Reason("unreadable-swapping", None, "the pages swapped", CLOSE_OTHERS)
    remedy = "close other programs; `sudo swapoff -a` where memory suffices"
    return Reason("swapping", pages, "0 pages", remedy, pages >= SWAPPED_FATAL_PAGES) if pages > 0 else None


def check_thermal(snapshot: Snapshot) -> Reason | None:
    """Find a CPU that slowed down for its heat while it was watched."""
    events = _rise(snapshot.begun.thermal_events, snapshot.worked.thermal_events)
    if events is None:
        return Reason("unreadable-thermal-throttle", None, "the thermal throttle counts", "watch `clock-unsteady`")
    remedy = "let it cool, improve its cooling, or turn turbo off"
    return Reason("thermal-throttle", events, "0 events", remedy, fatal=True) if events > 0 else None


CHECKS: tuple[Callable[[Snapshot], Reason | None], ...] = (
    check_cores, check_smt, check_hybrid, check_hypervisor, check_affinity, check_quota, check_quota_fraction,
    check_throttled, check_stolen, check_other_load, check_load_average, check_running, check_governor, check_turbo,
    check_clock_step, check_clock_steadiness, check_memory, check_swapping, check_thermal,
)  # fmt: skip


def _rise(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _core_ticks(spent: list[Ticks]) -> float:
    """Ticks of one processor: the whole that a percentage "of a core" refers to; 0 where nothing was counted."""
    return sum(ticks.total for ticks in spent) / len(spent) if spent else 0.0
