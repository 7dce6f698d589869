"""Every check on a simulated machine: fit, a thing made wrong on purpose, and the thing absent. No real waiting."""

import dataclasses
from pathlib import Path
from typing import get_args

import pytest

from latencykit import checks, snapshot
from latencykit.checks import CHECKS, Code
from tests.latencykit.simulated import GIB, Machine, changed, found

FIRES: list[tuple[str, dict[str, object], object, bool]] = [
    ("smt-on", {"smt": "1", "siblings": 2}, "on", False),
    ("hybrid-cores", {"atoms": "2-3"}, 2, False),
    ("hypervisor", {"hypervisor": True}, "virtual machine", False),
    ("affinity-narrow", {"allowed": "0-2"}, 3, False),
    ("quota-below-one", {"cpu_max": "99000 100000"}, 0.99, True),
    ("quota-below-cores", {"cpu_max": "300000 100000"}, 3.0, False),
    ("quota-fractional", {"cpu_max": "250000 100000"}, 2.5, False),
    ("throttled", {"throttled_by": (1, 0)}, 1, True),
    ("throttled", {"throttled_by": (0, 2)}, 2, True),
    ("stolen-time", {"work_stolen": 2}, 2.0, False),
    ("stolen-time", {"work_stolen": 6}, 6.0, True),
    ("other-load", {"asleep_busy": 11}, 11.0, False),
    ("other-load", {"asleep_busy": 51}, 51.0, True),
    ("load-average", {"load_average": "2.01"}, 2.01, False),
    ("running-processes", {"running": 5}, 4, False),
    ("governor", {"governor": "powersave"}, "powersave", False),
    ("turbo-on", {"no_turbo": "0"}, "on", False),
    ("clock-coarse", {"clock_step_ns": 1_001}, 1_001, False),
    ("clock-coarse", {"clock_step_ns": 100_001}, 100_001, True),
    ("clock-unsteady", {"block_ns": lambda index: 10_000_000 + index % 2 * 1_500_000}, None, False),
    ("clock-unsteady", {"block_ns": lambda index: 10_000_000 + index % 2 * 9_000_000}, None, True),
    ("memory-low", {"available_bytes": GIB - 1024}, GIB - 1024, False),
    ("memory-low", {"available_bytes": 255 << 20}, 255 << 20, True),
    ("swapping", {"swapped": 1}, 1, False),
    ("swapping", {"swapped": 256}, 256, True),
    ("thermal-throttle", {"heated": 1}, 4, True),
]


@pytest.mark.parametrize(("code", "fields", "value", "fatal"), FIRES)
def test_a_fault_is_found_with_its_value_and_weight(
    tmp_path: Path, code: str, fields: dict[str, object], value: object, fatal: bool
) -> None:
    machine = changed(tmp_path, **fields)
    verdict = machine.examine()
    reasons = {reason.code: reason for reason in verdict.reasons}
    assert code in reasons
    assert value is None or reasons[code].value == value
    assert reasons[code].fatal is fatal
    assert verdict.fit is not fatal


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        ("smt-on", {"smt": "0"}),
        ("hybrid-cores", {"atoms": "2-3", "allowed": "0-1"}),  # none of the slow cores may be used
        ("hypervisor", {"hypervisor": False}),
        ("affinity-narrow", {"allowed": "0-3"}),
        ("quota-below-one", {"cpu_max": "100000 100000"}),
        ("quota-below-cores", {"cpu_max": "400000 100000"}),
        ("quota-fractional", {"cpu_max": "450000 100000"}),  # wider than the cores: never binds
        ("quota-fractional", {"cpu_max": "200000 100000"}),
        ("throttled", {"throttled": 1_000}),  # before the watch
        ("stolen-time", {"work_stolen": 1}),
        ("other-load", {"asleep_busy": 10}),
        ("other-load", {"asleep_own": 60}),  # this process's own
        ("load-average", {"load_average": "2.00"}),
        ("running-processes", {"running": 4}),
        ("governor", {"governor": "performance"}),
        ("turbo-on", {"no_turbo": "1"}),
        ("clock-coarse", {"clock_step_ns": 1_000}),
        ("clock-unsteady", {"block_ns": lambda index: 10_000_000 + index % 2 * 900_000}),
        ("clock-unsteady", {"block_ns": lambda index: 10_000_000 if index > 15 else 30_000_000}),  # warm-up only
        ("memory-low", {"available_bytes": GIB}),
        ("swapping", {"pages": 5_000}),  # before the watch
        ("thermal-throttle", {"heat": 900}),  # before the watch
    ],
)
def test_what_is_within_the_limit_is_not_reported(tmp_path: Path, code: str, fields: dict[str, object]) -> None:
    assert code not in found(changed(tmp_path, **fields))


UNREADABLE = [
    ("unreadable-cores", ("topology",)),
    ("unreadable-smt", ("topology", "smt/active")),
    ("unreadable-hypervisor", ("proc/cpuinfo",)),
    ("unreadable-affinity", ("self/status",)),
    ("unreadable-quota", ("self/cgroup",)),
    ("unreadable-throttled", ("self/cgroup",)),
    ("unreadable-stolen-time", ("proc/stat",)),
    ("unreadable-other-load", ("self/stat",)),
    ("unreadable-load-average", ("loadavg",)),
    ("unreadable-running-processes", ("loadavg",)),
    ("unreadable-governor", ("scaling_governor",)),
    ("unreadable-turbo", ("no_turbo",)),
    ("unreadable-memory", ("meminfo",)),
    ("unreadable-swapping", ("vmstat",)),
    ("unreadable-thermal-throttle", ("thermal_throttle",)),
]


@pytest.mark.parametrize(("code", "absent"), UNREADABLE)
def test_what_cannot_be_read_is_said_and_not_fatal(tmp_path: Path, code: str, absent: tuple[str, ...]) -> None:
    machine = Machine(tmp_path, absent)
    verdict = machine.examine()
    reasons = {reason.code: reason for reason in verdict.reasons}
    assert reasons[code] == dataclasses.replace(reasons[code], value=None, fatal=False)  # type: ignore[index]
    assert verdict.fit
    assert all(reason.code.startswith("unreadable-") for reason in verdict.reasons)


def test_a_clock_that_stands_still_is_said_and_ends_the_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "MOST_BLOCKS", 100)
    machine = changed(tmp_path, clock_step_ns=0, block_ns=lambda index: 0)
    assert {"unreadable-clock-step", "unreadable-clock-steadiness"} <= set(found(machine))


def test_too_few_blocks_of_work_say_nothing_about_steadiness(tmp_path: Path) -> None:
    machine = changed(tmp_path, block_ns=lambda index: 100_000_000)
    assert set(found(machine)) == {"unreadable-clock-steadiness"}


def test_every_code_is_tested() -> None:
    tested = {code for code, *_ in FIRES} | {code for code, _ in UNREADABLE}
    assert tested | {"unreadable-clock-step", "unreadable-clock-steadiness"} == set(get_args(Code))


def test_an_empty_system_is_reported_as_unreadable_throughout_and_not_as_unfit(tmp_path: Path) -> None:
    machine = Machine(tmp_path, absent=("",))
    verdict = machine.examine()
    assert verdict.fit
    assert {reason.code for reason in verdict.reasons} == {code for code, _ in UNREADABLE}


def test_a_kernel_that_counts_no_stolen_time_is_unreadable_not_free_of_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    files = machine.files()
    machine.files = lambda: {**files, "proc/stat": "cpu0 1 2 3 4 5 6 7"}  # type: ignore[method-assign]
    assert "unreadable-stolen-time" in found(machine)


def test_load_on_processors_that_this_process_may_not_use_does_not_count(tmp_path: Path) -> None:
    assert "other-load" not in found(changed(tmp_path, allowed="2-3", asleep_busy=90))


def test_the_remedy_for_turbo_names_the_file_of_the_driver(tmp_path: Path) -> None:
    assert "intel_pstate/no_turbo" in found(changed(tmp_path, no_turbo="0"))["turbo-on"].remedy
    assert "cpufreq/boost" in found(changed(tmp_path, no_turbo="0", vendor="AuthenticAMD"))["turbo-on"].remedy


def test_the_remedy_for_two_kinds_of_core_names_the_fast_ones(tmp_path: Path) -> None:
    remedy = found(changed(tmp_path, atoms="2-3"))["hybrid-cores"].remedy
    assert "taskset -c 0,1" in remedy
    assert "--threads 2" in remedy


def test_every_reason_has_an_expectation_and_a_remedy(tmp_path: Path) -> None:
    machine = changed(tmp_path, smt="1", governor="ondemand", no_turbo="0", cpu_max="150000 100000", swapped=1)
    reasons = (*machine.examine().reasons, *Machine(tmp_path / "empty", absent=("",)).examine().reasons)
    assert all(reason.expected and reason.remedy for reason in reasons)


def test_every_check_of_the_module_is_run() -> None:
    named = {value for name, value in vars(checks).items() if name.startswith("check_")}
    assert named == set(CHECKS)
