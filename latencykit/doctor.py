"""Whether this machine is fit to measure on, and what to do where it is not: watch, check, judge."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from latencykit.checks import CHECKS, Reason
from latencykit.errors import UnfitError, UsageError
from latencykit.host import CpuFacts
from latencykit.snapshot import Snapshot, take_snapshot
from latencykit.system_files import ROOT

# Each watch lasts this long, in seconds: the kernel counts ticks of 10 ms, so 1 s resolves 1 % of a core.
INTERVAL_S = 1.0


@dataclass(frozen=True)
class Verdict:
    """Whether to measure here: fit unless a reason is fatal. JSON-able by `dataclasses.asdict`."""

    fit: bool
    reasons: tuple[Reason, ...]  # fatal ones first
    cpu: CpuFacts


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


def require_fit(verdict: Verdict) -> None:
    """Raise `UnfitError` with the doctor's first fatal reason."""
    for reason in verdict.reasons:
        if reason.fatal:
            raise UnfitError(
                f"{reason.code} is {reason.value}, expected {reason.expected}: {reason.remedy}; or pass --force"
            )


def _work() -> None:
    sum(range(50_000))  # about 1 ms, within the interpreter: no allocation, no system call
