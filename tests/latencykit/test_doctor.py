"""Every check on a simulated machine: fit, a thing made wrong on purpose, and the thing absent. No real waiting."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from latencykit import doctor as doctor_module
from latencykit.doctor import CHECKS, Code, Reason, Verdict, doctor, judge, take_snapshot
from latencykit.errors import UsageError

GIB = 1 << 30
CPUINFO = "processor : {cpu}\nvendor_id : {vendor}\nmodel name : A CPU\nflags : avx2{flag}"


class Machine:
    """A made-up system of four cores whose counts move while its clock does; fit unless a field is changed."""

    def __init__(self, root: Path, absent: tuple[str, ...] = ()) -> None:
        self.root = root
        self.absent = absent
        self.now_ns = 1_000
        self.watching = 0  # 1 asleep, 2 at work
        self.vendor = "GenuineIntel"
        self.smt = "0"
        self.siblings = 1
        self.atoms = ""
        self.hypervisor = False
        self.allowed = "0-3"
        self.cpu_max = "max 100000"
        self.governor = "performance"
        self.no_turbo = "1"
        self.load_average = "0.10"
        self.running = 1
        self.available_bytes = 8 * GIB
        self.clock_step_ns = 50
        self.block_ns: Callable[[int], int] = lambda index: 10_000_000
        self.blocks = 0
        # what each watch adds; a watch is 100 ticks of each processor
        self.asleep_busy = 0  # others' ticks on cpu0
        self.asleep_own = 0
        self.work_stolen = 0
        self.throttled_by: tuple[int, int] = (0, 0)  # asleep, at work
        self.swapped = 0
        self.heated = 0
        # the counts themselves
        self.busy = [1000] * 4
        self.idle = [9000] * 4
        self.stolen = [30] * 4
        self.own = 50
        self.throttled = 7
        self.pages = 20
        self.heat = 3

    def clock_ns(self) -> int:
        self.now_ns += self.clock_step_ns
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)
        self.own += self.asleep_own
        self.busy[0] += self.asleep_busy + self.asleep_own
        self.throttled += self.throttled_by[0]
        self._idle_rest(self.asleep_busy + self.asleep_own)

    def work(self) -> None:
        self.now_ns += self.block_ns(self.blocks)
        if self.blocks == 0:
            self.stolen[1] += self.work_stolen
            self.busy[1] += 100 - self.work_stolen
            self.throttled += self.throttled_by[1]
            self.pages += self.swapped
            self.heat += self.heated
            self.idle = [idle + (0 if cpu == 1 else 100) for cpu, idle in enumerate(self.idle)]
            self.write()
        self.blocks += 1

    def _idle_rest(self, busy: int) -> None:
        self.idle = [idle + 100 - (busy if cpu == 0 else 0) for cpu, idle in enumerate(self.idle)]
        self.write()

    def files(self) -> dict[str, str]:
        cpu_dir = "sys/devices/system/cpu/"
        flag = " hypervisor" if self.hypervisor else ""
        files = {
            "proc/cpuinfo": "\n\n".join(CPUINFO.format(cpu=cpu, vendor=self.vendor, flag=flag) for cpu in range(4)),
            "proc/self/status": f"Cpus_allowed_list:\t{self.allowed}",
            "proc/self/cgroup": "0::/box",
            "proc/self/stat": f"7 (a (b) c) R {' '.join('0' * 10)} {self.own - 1} 1 0 0",
            "proc/stat": "cpu  1 2 3 4 5 6 7 8 0 0\n"
            + "\n".join(
                f"cpu{cpu} {self.busy[cpu]} 0 0 {self.idle[cpu]} 0 0 0 {self.stolen[cpu]} 0 0" for cpu in range(4)
            ),
            "proc/loadavg": f"{self.load_average} 0.05 0.01 {self.running}/84 2661",
            "proc/meminfo": f"MemTotal: 16000000 kB\nMemAvailable: {self.available_bytes // 1024} kB",
            "proc/vmstat": f"nr_free_pages 5\npswpin {self.pages}\npswpout 4",
            "sys/fs/cgroup/cgroup.controllers": "cpu memory",
            "sys/fs/cgroup/box/cpu.max": self.cpu_max,
            "sys/fs/cgroup/box/cpu.stat": f"usage_usec 1\nnr_throttled {self.throttled}",
            cpu_dir + "online": "0-3",
            cpu_dir + "smt/active": self.smt,
            cpu_dir + "intel_pstate/no_turbo": self.no_turbo,
        }
        if self.atoms:
            files["sys/devices/cpu_atom/cpus"] = self.atoms
        for cpu in range(4):
            base = f"{cpu_dir}cpu{cpu}/"
            first = cpu // self.siblings * self.siblings
            files[base + "topology/core_cpus_list"] = ",".join(str(first + n) for n in range(self.siblings))
            files[base + "cpufreq/scaling_governor"] = self.governor
            files[base + "thermal_throttle/core_throttle_count"] = str(self.heat)
        return files

    def write(self) -> None:
        for name, text in self.files().items():
            path = self.root / name
            if any(part in name for part in self.absent):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n", encoding="utf-8")

    def examine(self) -> Verdict:
        self.write()
        return doctor(self.root, interval_s=1.0, sleep=self.sleep, clock_ns=self.clock_ns, work=self.work)


def changed(root: Path, **fields: object) -> Machine:
    machine = Machine(root)
    for name, value in fields.items():
        assert hasattr(machine, name), name
        setattr(machine, name, value)
    return machine


def found(machine: Machine) -> dict[str, Reason]:
    return {reason.code: reason for reason in machine.examine().reasons}


def test_a_fit_machine_has_no_reasons(tmp_path: Path) -> None:
    verdict = Machine(tmp_path).examine()
    assert verdict.reasons == ()
    assert verdict.fit
    assert verdict.cpu.model == "A CPU"


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
    monkeypatch.setattr(doctor_module, "MOST_BLOCKS", 100)
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


def test_a_container_memory_limit_counts_as_available_memory(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (tmp_path / "sys/fs/cgroup/box").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/box/memory.max").write_text(str(512 << 20))
    assert found(machine)["memory-low"].value == 512 << 20


def test_fatal_reasons_come_first(tmp_path: Path) -> None:
    verdict = changed(tmp_path, no_turbo="0", hypervisor=True, heated=1).examine()
    assert [reason.fatal for reason in verdict.reasons] == [True, False, False]


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


def test_a_verdict_is_json(tmp_path: Path) -> None:
    verdict = changed(tmp_path, hypervisor=True).examine()
    fields = json.loads(json.dumps(dataclasses.asdict(verdict), allow_nan=False))
    assert set(fields) == {"fit", "reasons", "cpu"}
    assert set(fields["reasons"][0]) == {"code", "value", "expected", "remedy", "fatal"}


def test_judging_the_same_snapshot_twice_gives_the_same_verdict(tmp_path: Path) -> None:
    machine = changed(tmp_path, heated=1)
    machine.write()
    snapshot = take_snapshot(tmp_path, 1.0, machine.sleep, machine.clock_ns, machine.work)
    assert judge(snapshot) == judge(snapshot)


def test_every_check_of_the_module_is_run() -> None:
    named = {value for name, value in vars(doctor_module).items() if name.startswith("check_")}
    assert named == set(CHECKS)


@pytest.mark.parametrize("interval_s", [0.0, -1.0, float("nan")])
def test_an_interval_of_no_time_is_a_usage_error(tmp_path: Path, interval_s: float) -> None:
    with pytest.raises(UsageError, match="expected more than 0"):
        doctor(tmp_path, interval_s=interval_s)


@pytest.mark.real_clock
def test_the_running_machine_gets_a_verdict_whatever_it_is() -> None:
    verdict = doctor(interval_s=0.05)
    assert verdict.fit is not any(reason.fatal for reason in verdict.reasons)
    assert verdict.cpu.system is not None
