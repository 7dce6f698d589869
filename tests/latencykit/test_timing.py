"""The measuring loop on a simulated clock: no test here waits or depends on the machine."""

import numpy as np
import pytest

from latencykit.measurement import Protocol
from latencykit.timing import MAX_REPEATS, PLANTING_NS, WARM_AGAIN_NS, WARMUP_CALLS, Sampler, slowed


class Machine:
    """A clock in whole nanoseconds that moves only while something is called or slept."""

    def __init__(self, call_ns: float = 1000, noise: float = 0.0, step_ns: int = 1) -> None:
        self.now_ns = 0
        self.calls: list[int] = []  # when each began
        self.slept_s: list[float] = []
        self._call_ns, self._noise, self._step_ns = call_ns, noise, step_ns
        self._rng = np.random.default_rng(0)
        self.cost_ns = lambda index: round(call_ns * (1 + noise * abs(self._rng.standard_normal())))

    def clock(self) -> int:
        return self.now_ns // self._step_ns * self._step_ns

    def call(self) -> None:
        self.calls.append(self.now_ns)
        self.now_ns += self.cost_ns(len(self.calls) - 1)

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept_s.append(seconds)
        self.now_ns += max(1, round(seconds * 1e9))

    def sample(self, protocol: Protocol) -> tuple[float, ...]:
        return Sampler(self.call, protocol, self.clock, self.sleep).take(protocol.samples)


def test_a_slow_call_is_still_warmed_up_with_three_calls():
    machine = Machine(call_ns=50_000_000)
    machine.sample(Protocol(samples=1, block_us=0, warmup_ms=1))
    assert len(machine.calls) == WARMUP_CALLS + 1


def test_no_warm_up_time_still_means_three_calls():
    machine = Machine()
    machine.sample(Protocol(samples=1, block_us=0, warmup_ms=0))
    assert len(machine.calls) == WARMUP_CALLS + 1


def test_a_fast_call_is_warmed_up_for_the_whole_time():
    machine = Machine(call_ns=1000)
    machine.sample(Protocol(samples=1, block_us=0, warmup_ms=5))
    assert machine.calls[-1] >= 5_000_000
    assert len(machine.calls) == 5000 + 1


def test_warm_up_is_not_among_the_samples():
    machine = Machine()
    machine.cost_ns = lambda index: 9_000_000 if index < WARMUP_CALLS else 1000
    assert machine.sample(Protocol(samples=4, block_us=0, warmup_ms=5)) == (1.0,) * 4


@pytest.mark.parametrize("call_us", [1, 7, 300, 400, 499, 500])
def test_a_block_lasts_at_least_as_long_as_the_protocol_says(call_us: int):
    machine = Machine(call_ns=1000 * call_us)
    machine.sample(Protocol(samples=1, block_us=500, warmup_ms=0))
    assert (len(machine.calls) - WARMUP_CALLS) * call_us >= 500


def test_a_call_longer_than_a_block_is_made_once_a_sample():
    machine = Machine(call_ns=2_000_000)
    assert machine.sample(Protocol(samples=6, block_us=500, warmup_ms=0)) == (2000.0,) * 6
    assert len(machine.calls) == WARMUP_CALLS + 6


def test_the_block_is_calibrated_on_the_fastest_warm_up_call():
    machine = Machine()
    machine.cost_ns = lambda index: (90_000, 10_000, 50_000)[index] if index < 3 else 10_000
    machine.sample(Protocol(samples=1, block_us=100, warmup_ms=0))
    assert len(machine.calls) - WARMUP_CALLS == 10


def test_a_block_of_no_length_times_every_call_alone():
    machine = Machine(call_ns=10)
    machine.sample(Protocol(samples=7, block_us=0, warmup_ms=0))
    assert len(machine.calls) == WARMUP_CALLS + 7


def test_a_clock_too_coarse_to_see_one_call_gets_the_longest_block():
    machine = Machine(call_ns=1, step_ns=100_000_000)
    (figure,) = machine.sample(Protocol(samples=1, block_us=500, warmup_ms=0))
    assert len(machine.calls) == WARMUP_CALLS + MAX_REPEATS
    assert figure == 0


def test_a_sample_is_the_mean_of_one_call_in_microseconds():
    assert Machine(call_ns=1500).sample(Protocol(samples=3, block_us=100, warmup_ms=0)) == (1.5,) * 3


def test_the_median_of_noisy_calls_is_near_the_median_of_the_noise():
    machine = Machine(call_ns=20_000, noise=0.05)
    median = np.median(machine.sample(Protocol(samples=400, block_us=0, warmup_ms=1)))
    assert median == pytest.approx(20 * (1 + 0.05 * 0.674), rel=0.005)  # 0.674: the half-normal's median


def test_blocks_average_the_noise_of_single_calls():
    protocol = Protocol(samples=100, block_us=0, warmup_ms=1)
    alone = np.std(Machine(call_ns=20_000, noise=0.2).sample(protocol))
    blocks = np.std(Machine(call_ns=20_000, noise=0.2).sample(Protocol(samples=100, block_us=1000, warmup_ms=1)))
    assert blocks < alone / 4


def test_paced_calls_start_on_the_grid():
    machine = Machine(call_ns=3_000_000)
    figures = machine.sample(Protocol(samples=5, block_us=500, warmup_ms=0, pace_hz=100))
    starts = machine.calls[WARMUP_CALLS:]
    assert np.diff(starts).tolist() == [10_000_000] * 4
    assert figures == (3000.0,) * 5


def test_the_first_paced_call_comes_a_period_after_the_warm_up():
    machine = Machine(call_ns=1_000_000)
    machine.sample(Protocol(samples=1, block_us=0, warmup_ms=0, pace_hz=50))
    assert machine.calls[-1] - machine.calls[-2] == 1_000_000 + 20_000_000


def test_a_paced_call_that_overruns_delays_the_next_and_the_grid_goes_on_from_there():
    machine = Machine()
    machine.cost_ns = lambda index: 25_000_000 if index == WARMUP_CALLS + 1 else 1_000_000
    machine.sample(Protocol(samples=5, block_us=0, warmup_ms=0, pace_hz=100))
    starts = machine.calls[WARMUP_CALLS:]
    assert np.diff(starts).tolist() == [10_000_000, 25_000_000, 10_000_000, 10_000_000]


def test_paced_calls_slower_than_the_pace_run_back_to_back_without_sleep():
    machine = Machine(call_ns=20_000_000)
    machine.sample(Protocol(samples=4, block_us=0, warmup_ms=0, pace_hz=100))
    assert np.diff(machine.calls[WARMUP_CALLS:]).tolist() == [20_000_000] * 3
    assert len(machine.slept_s) == 1


def test_a_sleep_that_wakes_early_is_continued():
    machine = Machine(call_ns=1_000_000)
    whole = machine.sleep
    machine.sleep = lambda seconds: whole(seconds / 2 if seconds > 1e-6 else seconds)
    machine.sample(Protocol(samples=3, block_us=0, warmup_ms=0, pace_hz=100))
    assert np.diff(machine.calls[WARMUP_CALLS:]).tolist() == pytest.approx([10_000_000] * 2, abs=10)


@pytest.mark.real_clock
def test_the_real_clock_gives_as_many_positive_figures_as_asked_for():
    figures = Sampler(lambda: sum(range(100)), Protocol(block_us=50, warmup_ms=0)).take(4)
    assert len(figures) == 4
    assert min(figures) > 0


@pytest.mark.real_clock
def test_paced_calls_on_the_real_clock_are_as_many_as_asked_for():
    figures = Sampler(lambda: sum(range(100)), Protocol(block_us=0, warmup_ms=0, pace_hz=500)).take(3)
    assert len(figures) == 3
    assert min(figures) > 0


# Planted slowdowns


def took_ns(machine: Machine, percent: float, calls: int, step_ns: int = 20) -> list[int]:
    """What slowed calls take where a look at the clock takes time too."""

    def clock() -> int:
        machine.now_ns += step_ns
        return machine.now_ns

    slow, took = slowed(machine.call, percent, clock), []
    for _ in range(calls):
        before = machine.now_ns
        slow()
        took.append(machine.now_ns - before)
    assert len(machine.calls) == calls
    return took


@pytest.mark.parametrize("percent", [5.0, 10.0, 100.0])
@pytest.mark.parametrize("call_ns", [2_000, 100_000])
def test_a_slowed_call_takes_that_much_longer_than_one_slowed_by_nothing(percent: float, call_ns: int):
    (before,), (after,) = took_ns(Machine(call_ns), 0.0, 1), took_ns(Machine(call_ns), percent, 1)
    assert before == pytest.approx(call_ns + PLANTING_NS, abs=60)
    assert after / before == pytest.approx(1 + percent / 100, abs=60 / call_ns)


def test_a_slowed_call_waits_by_what_each_call_took():
    machine = Machine()
    machine.cost_ns = lambda index: 1000 * (index + 1) ** 2
    expected = [1.5 * (1000 * n**2 + PLANTING_NS) for n in (1, 2, 3, 4)]
    assert took_ns(machine, 50.0, 4, step_ns=1) == pytest.approx(expected, abs=5)


def test_a_call_is_warmed_again_for_a_fraction_of_a_millisecond_or_once():
    for call_ns, calls in ((WARM_AGAIN_NS // 4, 4), (10 * WARM_AGAIN_NS, 1)):
        machine = Machine(call_ns=call_ns)
        sampler = Sampler(machine.call, Protocol(samples=4, block_us=0, warmup_ms=0), machine.clock, machine.sleep)
        assert len(sampler.take(2)) == 2
        sampler.warm_again()
        assert len(machine.calls) == WARMUP_CALLS + 2 + calls
        assert sampler.take(2) == (call_ns / 1000,) * 2
