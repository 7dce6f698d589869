"""Made-up systems: trees of `/proc` and `/sys` files, and a machine whose counts move while its clock does."""

from collections.abc import Callable
from pathlib import Path

from latencykit.checks import Reason
from latencykit.doctor import Verdict, doctor

GIB = 1 << 30
I7 = "Intel(R) Core(TM) i7-8700K CPU @ 3.70GHz"
CPUINFO = "processor : {cpu}\nvendor_id : {vendor}\nmodel name : A CPU\nflags : avx2{flag}"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    return root


def i7(root: Path, cores: int = 2, allowed: str = "") -> Path:
    """A machine with SMT: processors n and n + cores share core n."""
    cpus = 2 * cores
    files = {
        "proc/cpuinfo": "\n\n".join(
            f"processor\t: {cpu}\nvendor_id\t: GenuineIntel\nmodel name\t: {I7}\nphysical id\t: 0\n"
            f"core id\t\t: {cpu % cores}\nflags\t\t: fpu sse4_2 avx f16c fma avx2"
            for cpu in range(cpus)
        ),
        "proc/self/status": f"Name:\tpython\nCpus_allowed_list:\t{allowed or f'0-{cpus - 1}'}",
        "proc/meminfo": "MemTotal:       16384000 kB\nMemAvailable:   8000000 kB",
        "proc/sys/kernel/ostype": "Linux",
        "proc/sys/kernel/osrelease": "6.1.0",
        "proc/sys/kernel/arch": "x86_64",
        "sys/devices/system/cpu/online": f"0-{cpus - 1}",
        "sys/devices/system/cpu/smt/active": "1",
        "sys/devices/system/cpu/intel_pstate/no_turbo": "0",
    }
    for cpu in range(cpus):
        base = f"sys/devices/system/cpu/cpu{cpu}/"
        files[base + "topology/core_id"] = str(cpu % cores)
        files[base + "topology/physical_package_id"] = "0"
        files[base + "topology/thread_siblings_list"] = f"{cpu % cores},{cpu % cores + cores}"
        files[base + "cpufreq/scaling_governor"] = "powersave"
        files[base + "cpufreq/base_frequency"] = "3700000"
        for index, (level, kind, size) in enumerate(
            [("1", "Data", "32K"), ("1", "Instruction", "64K"), ("2", "Unified", "256K"), ("3", "Unified", "12M")]
        ):
            files[f"{base}cache/index{index}/level"] = level
            files[f"{base}cache/index{index}/type"] = kind
            files[f"{base}cache/index{index}/size"] = size
    return write(root, files)


def cgroup_v2(root: Path, path: str, **cpu_max: str) -> Path:
    """Control groups of version 2; each keyword is a depth (d0 the root) and its cpu.max."""
    parts = [part for part in path.split("/") if part]
    write(root, {"proc/self/cgroup": f"0::{path}", "sys/fs/cgroup/cgroup.controllers": "cpu memory"})
    for depth in range(len(parts) + 1):
        (root / "sys/fs/cgroup").joinpath(*parts[:depth]).mkdir(parents=True, exist_ok=True)
    for name, text in cpu_max.items():
        write(root, {"/".join(["sys/fs/cgroup", *parts[: int(name[1:])], "cpu.max"]): text})
    return root


class Machine:
    """A made-up system of four cores whose counts move while its clock does; fit unless a field is changed."""

    def __init__(self, root: Path, absent: tuple[str, ...] = ()) -> None:
        self.root = root
        self.absent = absent
        self.now_ns = 1_000
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
