"""Warm up, calibrate, sample: the measuring loop over any callable and any clock.

The clock and the sleep are arguments, so tests run it on a simulated clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from latencykit.measurement import Protocol

WARMUP_CALLS = 3
MAX_REPEATS = 1_000_000
WARM_AGAIN_NS = 300_000
"""How long a call is made before its next round, since other calls have used the caches meanwhile."""
PLANTING_NS = 500
"""What planting a slowdown costs any call: several looks at the clock."""

Clock = Callable[[], int]
"""Nanoseconds, monotonic."""


class Sampler:
    """A call that is warm, timed under a protocol when asked; other calls may come between."""

    def __init__(
        self,
        call: Callable[[], object],
        protocol: Protocol,
        clock: Clock = time.perf_counter_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._call, self._protocol, self._clock, self._sleep = call, protocol, clock, sleep
        self._repeats = _warm_up(call, protocol, clock)

    def take(self, samples: int) -> tuple[float, ...]:
        """Microseconds a call, so many figures: means over blocks, or single calls where the protocol says so."""
        if self._protocol.pace_hz is not None:
            return _paced(self._call, samples, 1e9 / self._protocol.pace_hz, self._clock, self._sleep)
        return tuple(_block_ns(self._call, self._repeats, self._clock) / self._repeats / 1000 for _ in range(samples))

    def warm_again(self) -> None:
        """Call it as it was left by other calls, untimed: once, or for a fraction of a millisecond."""
        begin = self._clock()
        while True:
            self._call()
            if self._clock() - begin >= WARM_AGAIN_NS:
                return


def slowed(call: Callable[[], object], percent: float, clock: Clock = time.perf_counter_ns) -> Callable[[], None]:
    """A call that waits at work behind each call: `PLANTING_NS`, and `percent` of that and of what the call took.

    The wait is real time within the timed block, so the whole way from there to a verdict can be tested. Against the
    same call with 0 percent it takes that much longer; the fixed wait hides how long a look at the clock takes.
    """
    share = percent / 100

    def slow() -> None:
        begin = clock()
        call()
        end = clock()
        until = end + PLANTING_NS + share * (end - begin + PLANTING_NS)
        while clock() < until:
            pass

    return slow


def _warm_up(call: Callable[[], object], protocol: Protocol, clock: Clock) -> int:
    """Call until warm; return how many calls make a block long enough."""
    begin, calls = clock(), 0
    fastest_ns = float("inf")
    while calls < WARMUP_CALLS or clock() - begin < protocol.warmup_ms * 1e6:
        fastest_ns = min(fastest_ns, _block_ns(call, 1, clock))
        calls += 1
    if fastest_ns <= 0:
        return MAX_REPEATS if protocol.block_us else 1
    return max(1, min(MAX_REPEATS, math.ceil(protocol.block_us * 1000 / fastest_ns)))


def _block_ns(call: Callable[[], object], repeats: int, clock: Clock) -> int:
    begin = clock()
    for _ in range(repeats):
        call()
    return clock() - begin


def _paced(
    call: Callable[[], object], samples: int, period_ns: float, clock: Clock, sleep: Callable[[float], None]
) -> tuple[float, ...]:
    """One call a period; a call that overruns its period delays the next, as a scanner would drop a frame."""
    figures = []
    due_ns = float(clock())
    for _ in range(samples):
        due_ns = max(due_ns + period_ns, float(clock()))
        while (wait_ns := due_ns - clock()) > 0:
            sleep(wait_ns / 1e9)
        figures.append(_block_ns(call, 1, clock) / 1000)
    return tuple(figures)
