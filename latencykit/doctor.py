"""Whether this machine is fit to measure on, and what to do where it is not.

Takes the system's own files under a root, a clock, a sleep and a piece of work, all replaceable; gives a `Verdict`
with a `Reason` for each thing found. The machine is watched twice: asleep, when whatever runs is someone else's, and
at work, since an idle virtual processor is never stolen from and a cool one never throttled.

Each check reads one `Snapshot` and gives a reason or None. What cannot be read is a reason of its own
(`unreadable-...`), never fatal and never assumed fine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from typing import Literal

from latencykit import host
from latencykit.errors import UsageError
from latencykit.host import ROOT, CgroupFacts, CpuFacts

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
    *("affinity-narrow", "clock-coarse", "clock-unsteady", "governor", "hybrid-cores", "hypervisor", "load-average"),
    *("memory-low", "other-load", "quota-below-cores", "quota-below-one", "quota-fractional", "running-processes"),
    *("smt-on", "stolen-time", "swapping", "thermal-throttle", "throttled", "turbo-on"),
]
