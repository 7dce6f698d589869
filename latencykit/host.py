"""What this CPU is, and which of its cores a measurement may use.

Takes the system's own files (`/proc`, `/sys`, control groups) under a root that tests replace by a made-up tree; gives
`CpuFacts` and the logical processors to pin threads on. What cannot be read is None, never a guess. Facts of the
running system that no file holds (Windows, macOS) come from the system's calls, psutil or py-cpuinfo, each imported
only where it is needed, and only when the root is `/`.

`check_threads` serves measuring processes: it never imports py-cpuinfo.
"""

from __future__ import annotations

import math
import os
import platform
import re
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from latencykit.errors import InputError, UnfitError, UsageError

ROOT = Path("/")

# The instruction sets that choose a runtime's kernels and block size, in the order they are listed.
ISA_FLAGS = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni"),
    *("avx512f", "avx512vl", "avx512bw", "avx512dq", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("neon", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
# Other spellings of the same flags, as py-cpuinfo and CPUID lists give them.
ISA_SYNONYMS = {"avx512vnni": "avx512_vnni", "avx512bf16": "avx512_bf16", "avxvnni": "avx_vnni", "sse4.2": "sse4_2"}

# CPUID vendor strings and ARM implementer codes -> the short name used in slugs.
VENDORS = {
    "AuthenticAMD": "amd",
    "HygonGenuine": "hygon",
    "GenuineIntel": "intel",
    "CentaurHauls": "zhaoxin",
    "0x41": "arm",
    "0x48": "hisilicon",
    "0x4e": "nvidia",
    "0x51": "qualcomm",
    "0x61": "apple",
    "0xc0": "ampere",
}

MAX_CPUS = 1 << 16  # logical processors; a longer range in a file is damage (Linux stops at 8192)


@dataclass(frozen=True)
class CpuFacts:
    """One CPU as seen by this process; holds no host name. None is "could not be read"."""

    model: str | None  # the brand, as the CPU or the system words it
    vendor: str | None  # "AuthenticAMD", "GenuineIntel", an ARM implementer code ...
    architecture: str | None  # "x86_64", "aarch64", "AMD64" ...
    isa: tuple[str, ...]  # of `ISA_FLAGS`; empty where no list of flags could be read
    logical_cpus: int | None  # on line
    physical_cores: int | None  # on line
    smt: bool | None  # whether two logical processors share a core now
    allowed_cpus: tuple[int, ...]  # logical processors that this process may run on; empty where unreadable
    l1d_bytes: int | None  # per instance, of the first allowed processor
    l2_bytes: int | None
    l3_bytes: int | None
    governor: str | None  # one name, or several joined by "+"
    turbo: bool | None
    nominal_mhz: float | None  # without turbo; never the momentary frequency
    cgroup_quota_cpus: float | None  # the tightest of this process's control groups; None: no quota, or unreadable
    memory_bytes: int | None  # of the machine
    hypervisor: bool | None
    system: str | None  # "Linux", "Windows", "Darwin"
    system_release: str | None

    def __post_init__(self) -> None:
        for name in (
            *("logical_cpus", "physical_cores", "l1d_bytes", "l2_bytes", "l3_bytes"),
            *("nominal_mhz", "cgroup_quota_cpus", "memory_bytes"),
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"`{name}` of a CPU is {value}, expected more than 0, or None where it is unknown")


@dataclass(frozen=True)
class CgroupFacts:
    """What this process's control groups, from its own up to the root, allow and have done."""

    readable: bool  # False: the hierarchy could not be found, so None below says nothing
    quota_cpus: float | None  # the tightest level, in CPUs; None: no quota
    throttled_periods: int | None  # summed over the levels, since their start; None: not counted
    memory_limit_bytes: int | None  # the tightest level; None: no limit


def read_cpu(root: Path = ROOT) -> CpuFacts:
    """Read what this CPU is; never fails where something is absent.

    Takes over a second where the files lack the model or the flags (py-cpuinfo is asked), so call it outside of any
    timed process.

    Args:
        root: The root of the system's files; another than `/` simulates a system, and nothing live is mixed in.

    Returns:
        The facts, with None for each that could not be read.
    """
    live = root == ROOT
    allowed = allowed_cpus(root)
    first = allowed[0] if allowed else 0
    block = _cpuinfo_block(root, first)
    cores = read_cores(root)
    online = online_cpus(root)
    model = _known(block.get("model name")) or _arm_model(block)
    vendor = _known(block.get("vendor_id")) or block.get("CPU implementer")
    flags = set((block.get("flags") or block.get("Features") or "").split())
    nominal_mhz = _nominal_mhz(root, first, model)
    hypervisor = _hypervisor(root, block)
    if live and (model is None or not flags):
        asked = _ask_py_cpuinfo()
        model = model or asked.model
        vendor = vendor or asked.vendor
        flags = flags or asked.flags
        nominal_mhz = nominal_mhz or asked.mhz
    caches = _caches(root, first)
    return CpuFacts(
        model=model,
        vendor=vendor,
        architecture=_kernel_text(root, "arch") or (_known(platform.machine()) if live else None),
        isa=_isa(flags),
        logical_cpus=len(online) or (os.cpu_count() if live else None),
        physical_cores=len(cores) or (_physical_count() if live else None),
        smt=_smt(root, cores),
        allowed_cpus=allowed,
        l1d_bytes=caches.get(1),
        l2_bytes=caches.get(2),
        l3_bytes=caches.get(3),
        governor=_governor(root, allowed),
        turbo=_turbo(root, first),
        nominal_mhz=nominal_mhz,
        cgroup_quota_cpus=read_cgroup(root).quota_cpus,
        memory_bytes=_memory_bytes(root),
        hypervisor=hypervisor,
        system=_kernel_text(root, "ostype") or (_known(platform.system()) if live else None),
        system_release=_kernel_text(root, "osrelease") or (_known(platform.release()) if live else None),
    )


def check_threads(threads: int, root: Path = ROOT) -> tuple[int, ...]:
    """Choose the processors to pin `threads` threads on, one physical core each.

    More threads than cores doubled the end-to-end time and its spread, so that is refused. Call it before anything is
    pinned: a pinned thread sees only its own processor.

    Args:
        threads: How many threads will compute, the calling one included.
        root: The root of the system's files.

    Returns:
        `threads` logical processors, the fastest cores first; empty where the number of cores is known but not which
        logical processor is on which (macOS): nothing can be pinned there, and that belongs in the record.

    Raises:
        UsageError: `threads` is below 1.
        UnfitError: This process may use fewer physical cores, or their number could not be read.
    """
    if threads < 1:
        raise UsageError(f"`--threads` is {threads}, expected at least 1: pass `--threads 1`")
    cpus = physical_cpus(root)
    cores = len(cpus) or (_physical_count() if root == ROOT else None)
    if not cpus and cores and (allowed := allowed_cpus(root)):
        cores = min(cores, len(allowed))
    if cores is None:
        if threads == 1:
            return ()
        raise UnfitError(
            f"{threads} threads were asked for, the number of physical cores could not be read: "
            "install psutil, or pass `--threads 1`"
        )
    quota = read_cgroup(root).quota_cpus
    usable = cores if quota is None else max(1, min(cores, math.floor(quota)))
    if threads > usable:
        held = f" (its control group's quota is {quota:g} CPUs)" if quota is not None and usable < cores else ""
        raise UnfitError(
            f"{threads} threads were asked for, this machine has {usable} physical "
            f"{'core' if usable == 1 else 'cores'} that this process may use{held}: "
            f"pass `--threads {usable}`{' (or fewer)' if usable > 1 else ''}"
        )
    return cpus[:threads]


def physical_cpus(root: Path = ROOT, allowed: Iterable[int] | None = None) -> tuple[int, ...]:
    """Give one logical processor per physical core, so that no two threads share a core.

    Args:
        root: The root of the system's files.
        allowed: The logical processors to choose among; by default those that this process may run on.

    Returns:
        Logical processors, fastest cores first (CPUs with two kinds of core), then by number; empty where the topology
        could not be read.
    """
    among = set(allowed_cpus(root) if allowed is None else allowed)
    chosen = [min(usable) for core in read_cores(root) if (usable := among.intersection(core))]
    speed = core_speeds(root)
    return tuple(sorted(chosen, key=lambda cpu: (-speed.get(cpu, 0), cpu)))


def core_speeds(root: Path = ROOT) -> dict[int, int]:
    """Rank logical processors by the kernel's own figures: more is faster, in no unit; empty where unknown."""
    capacity = {
        cpu: value for cpu in online_cpus(root) if (value := _positive(_text(_cpu_dir(root, cpu) / "cpu_capacity")))
    }
    if len(set(capacity.values())) > 1:
        return capacity
    slow = set(parse_cpu_list(_text(root / "sys/devices/cpu_atom/cpus")))  # Intel's efficiency cores
    return {cpu: 0 if cpu in slow else 1 for cpu in online_cpus(root)} if slow else capacity


def allowed_cpus(root: Path = ROOT) -> tuple[int, ...]:
    """List the logical processors that the calling thread may run on; empty where that cannot be read."""
    if root == ROOT:
        if sys.platform == "win32":
            return _windows_affinity()
        if hasattr(os, "sched_getaffinity"):
            return tuple(sorted(os.sched_getaffinity(0)))
        return ()
    return parse_cpu_list(_fields(root / "proc/self/status").get("Cpus_allowed_list"))


def online_cpus(root: Path = ROOT) -> tuple[int, ...]:
    """List the logical processors that are on line; empty where that cannot be read."""
    return parse_cpu_list(_text(root / "sys/devices/system/cpu/online")) or tuple(
        sorted({number for block in _cpuinfo_blocks(root) if (number := _count(block.get("processor"))) is not None})
    )


def read_cores(root: Path = ROOT) -> tuple[tuple[int, ...], ...]:
    """Group the logical processors on line by the physical core they are on; empty where that cannot be read."""
    groups: dict[object, set[int]] = {}
    for cpu in online_cpus(root):
        topology = _cpu_dir(root, cpu) / "topology"
        siblings = parse_cpu_list(_text(topology / "core_cpus_list") or _text(topology / "thread_siblings_list"))
        # A core's number is unique within its package only.
        ids = tuple(_text(topology / name) for name in ("physical_package_id", "core_id"))
        if siblings:
            groups.setdefault(frozenset(siblings), set()).add(cpu)
        elif None not in ids:
            groups.setdefault(ids, set()).add(cpu)
    if not groups:
        for block in _cpuinfo_blocks(root):
            number, ids = _count(block.get("processor")), (block.get("physical id"), block.get("core id"))
            if number is not None and None not in ids:
                groups.setdefault(ids, set()).add(number)
    if not groups and root == ROOT and sys.platform == "win32":
        return _windows_layout().cores
    return tuple(sorted(tuple(sorted(group)) for group in groups.values()))


def read_cgroup(root: Path = ROOT) -> CgroupFacts:
    """Read the limits of this process's control groups, versions 1 and 2; a parent's limit holds for its children."""
    found = tuple(_cgroup_dirs(root, "cpu"))
    quotas = [value for directory in found if (value := _quota_cpus(directory)) is not None]
    throttled = [
        value
        for directory in found
        if (value := _count(_fields(directory / "cpu.stat", separator=" ").get("nr_throttled"))) is not None
    ]
    limits = [
        value
        for directory in _cgroup_dirs(root, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (value := _positive(_text(directory / name))) is not None
        and value < 1 << 60  # version 1 writes "no limit" as a number close to 2^63
    ]
    return CgroupFacts(
        readable=bool(found),
        quota_cpus=min(quotas, default=None),
        throttled_periods=sum(throttled) if throttled else None,
        memory_limit_bytes=min(limits, default=None),
    )


def cpu_id(facts: CpuFacts) -> str:
    """Name a CPU in a file's name: vendor, model, widest instruction set, physical cores.

    Returns:
        Lower-case letters, digits and dashes, such as `amd-epyc-avx512-2c`; "unknown" stands for what was not read.
    """
    model = (facts.model or "").lower().split("@")[0]
    model = re.sub(r"\((r|tm|c)\)|\b\d+(st|nd|rd|th) gen\b|\b\d+-core\b|\b(cpu|processor|with .*)", " ", model)
    words = re.findall(r"[a-z0-9]+", model)
    vendor = VENDORS.get(facts.vendor or "", "")
    words = ([vendor] if vendor else []) + [word for word in words if word != vendor]
    widest = (("avx512f", "avx512"), ("avx2", "avx2"), ("avx", "avx"), ("sse4_2", "sse4"), ("sve", "sve"))
    isa = next((short for flag, short in widest if flag in facts.isa), None)
    isa = isa or ("neon" if {"neon", "asimd"} & set(facts.isa) else "unknown")
    cores = "unknown" if facts.physical_cores is None else f"{facts.physical_cores}c"
    return "-".join([*(words or ["unknown"]), isa, cores])


def parse_cpu_list(text: str | None) -> tuple[int, ...]:
    """Read the kernel's lists of processors, such as `0-3,8`; empty where the text is none."""
    cpus: set[int] = set()
    for part in (text or "").split(","):
        low, _, high = part.partition("-")
        start, stop = _count(low), _count(high or low)
        if start is None or stop is None or not start <= stop < MAX_CPUS:
            return ()
        cpus.update(range(start, stop + 1))
    return tuple(sorted(cpus))


def _cpu_dir(root: Path, cpu: int) -> Path:
    return root / f"sys/devices/system/cpu/cpu{cpu}"


def _text(path: Path) -> str | None:
    """Read a small file, stripped; None where it is absent, empty or may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except (OSError, ValueError):  # ValueError: a path out of a damaged file that holds a NUL
        return None


def _fields(path: Path, separator: str = ":") -> dict[str, str]:
    """Read a file of lines "name separator value"."""
    pairs = (line.partition(separator) for line in (_text(path) or "").splitlines())
    return {name.strip(): value.strip() for name, found, value in pairs if found}


def _count(text: str | None) -> int | None:
    """Read a whole number of at least 0."""
    try:
        value = int(text) if text is not None else -1
    except ValueError:
        return None
    return value if value >= 0 else None


def _positive(text: str | None) -> int | None:
    return _count(text) or None


def _known(text: str | None) -> str | None:
    return None if text is None or text.strip().lower() in ("", "unknown") else text.strip()


def _kernel_text(root: Path, name: str) -> str | None:
    return _text(root / "proc/sys/kernel" / name)


def _cpuinfo_blocks(root: Path) -> list[dict[str, str]]:
    blocks = re.split(r"\n\s*\n", _text(root / "proc/cpuinfo") or "")
    return [
        {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in block.splitlines())}
        for block in blocks
    ]


def _cpuinfo_block(root: Path, cpu: int) -> dict[str, str]:
    blocks = _cpuinfo_blocks(root)
    return next((block for block in blocks if _count(block.get("processor")) == cpu), blocks[0])


def _arm_model(block: dict[str, str]) -> str | None:
    """Name an ARM core by its codes: the kernel gives no brand there."""
    maker, part = block.get("CPU implementer"), block.get("CPU part")
    return f"{VENDORS.get(maker, maker)} part {part}" if maker and part else None


def _isa(flags: set[str]) -> tuple[str, ...]:
    names = {ISA_SYNONYMS.get(flag, flag) for flag in flags}
    return tuple(flag for flag in ISA_FLAGS if flag in names)


def _smt(root: Path, cores: tuple[tuple[int, ...], ...]) -> bool | None:
    if (active := _text(root / "sys/devices/system/cpu/smt/active")) in ("0", "1"):
        return active == "1"
    return any(len(core) > 1 for core in cores) if cores else None


def _caches(root: Path, cpu: int) -> dict[int, int]:
    """Sizes in bytes of one instance of each data cache, by level."""
    sizes: dict[int, int] = {}
    for index in range(8):  # Linux numbers a processor's caches from 0 without gaps; four are usual
        directory = _cpu_dir(root, cpu) / "cache" / f"index{index}"
        level, size = _positive(_text(directory / "level")), _text(directory / "size") or ""
        parsed = re.fullmatch(r"([0-9]{1,12})([KMG]?)", size)
        if level and parsed and _text(directory / "type") in ("Data", "Unified") and int(parsed[1]) > 0:
            sizes[level] = int(parsed[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[parsed[2]]
    if not sizes and root == ROOT and sys.platform == "win32":
        return _windows_layout().caches
    return sizes


def _governor(root: Path, cpus: tuple[int, ...]) -> str | None:
    names = {_text(_cpu_dir(root, cpu) / "cpufreq/scaling_governor") for cpu in cpus}
    return "+".join(sorted(name for name in names if name)) or None


def _turbo(root: Path, cpu: int) -> bool | None:
    system = root / "sys/devices/system/cpu"
    if (off := _text(system / "intel_pstate/no_turbo")) in ("0", "1"):
        return off == "0"
    for path in (system / "cpufreq/boost", _cpu_dir(root, cpu) / "cpufreq/boost"):
        if (on := _text(path)) in ("0", "1"):
            return on == "1"
    return None


def _nominal_mhz(root: Path, cpu: int, model: str | None) -> float | None:
    if base_khz := _positive(_text(_cpu_dir(root, cpu) / "cpufreq/base_frequency")):
        return base_khz / 1e3
    if mhz := _positive(_text(_cpu_dir(root, cpu) / "acpi_cppc/nominal_freq")):
        return float(mhz)
    branded = re.search(r"@ *([0-9]{1,3}(?:\.[0-9]+)?) *GHz", model or "")
    return round(float(branded[1]) * 1e3, 3) or None if branded else None


def _hypervisor(root: Path, block: dict[str, str]) -> bool | None:
    if _text(root / "sys/hypervisor/type"):
        return True
    flags = block.get("flags")  # x86 only; ARM has no such flag
    return "hypervisor" in flags.split() if flags else None


def _memory_bytes(root: Path) -> int | None:
    kib = _fields(root / "proc/meminfo").get("MemTotal", "").removesuffix("kB")
    if total := _positive(kib):
        return total * 1024
    if root == ROOT:
        try:
            import psutil  # absent on bare machines: then the figure stays unknown
        except ImportError:
            return None
        return int(psutil.virtual_memory().total)
    return None


def _physical_count() -> int | None:
    """Ask the running system how many physical cores it has, where it tells no more than that (macOS)."""
    try:
        import psutil  # absent on bare machines: then the figure stays unknown
    except ImportError:
        return None
    return psutil.cpu_count(logical=False) or None


def _cgroup_dirs(root: Path, controller: str) -> Iterator[Path]:
    """Give this process's directories for one controller, its own first, then its parents.

    In a container the path may name a directory outside of what is mounted; then only the mount's root is found.
    """
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, first, rest = line.partition(":")
        names, second, path = rest.partition(":")
        if not first or not second or (names and controller not in names.split(",")):
            continue
        mounts = ("", "unified") if not names else (names, controller)
        parts = [part for part in path.split("/") if part]
        for mount in mounts:
            base = root / "sys/fs/cgroup" / mount
            if not any(_is_there(base / mark) for mark in ("cgroup.controllers", "cgroup.procs", "tasks")):
                continue
            depths = range(len(parts), -1, -1) if ".." not in parts else (0,)
            for depth in depths:
                directory = base.joinpath(*parts[:depth])
                if _is_there(directory):
                    yield directory
            break


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # no permission on a parent; a NUL in a damaged path
        return False


def _quota_cpus(directory: Path) -> float | None:
    """Read one level's quota, in CPUs: run time allowed per period over the period, both in microseconds."""
    words = (_text(directory / "cpu.max") or "").split()
    if len(words) == 2:
        quota, period = _positive(words[0]), _positive(words[1])
    else:
        quota, period = (_positive(_text(directory / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
    try:
        return quota / period if quota and period else None
    except OverflowError:
        return None


class _Asked(NamedTuple):
    model: str | None = None
    vendor: str | None = None
    flags: set[str] = set()  # noqa: RUF012  never changed
    mhz: float | None = None


def _ask_py_cpuinfo() -> _Asked:
    try:
        import cpuinfo  # over a second, and it starts processes

        info: dict[str, Any] = cpuinfo.get_cpu_info()
    except Exception:  # it parses other programs' output and raises whatever that leads to; the facts stay unknown
        return _Asked()
    hertz = (info.get("hz_advertised") or (0,))[0] if sys.platform != "linux" else 0  # Linux: the momentary frequency
    return _Asked(
        _known(info.get("brand_raw")),
        _known(info.get("vendor_id_raw")),
        set(info.get("flags") or ()),
        hertz / 1e6 or None,
    )


class _WindowsLayout(NamedTuple):
    cores: tuple[tuple[int, ...], ...]
    caches: dict[int, int]  # level -> bytes


def _parse_windows_records(data: bytes) -> _WindowsLayout:
    """Read SYSTEM_LOGICAL_PROCESSOR_INFORMATION records of a 64-bit Windows: mask, relation, 16 bytes by relation."""
    cores: list[tuple[int, ...]] = []
    caches: dict[int, int] = {}
    record = struct.Struct("<QI4x16s")
    for mask, relation, body in record.iter_unpack(data[: len(data) // record.size * record.size]):
        if relation == 0:  # a physical core
            cores.append(_bits(mask))
        elif relation == 2:  # a cache
            level, _, _, size, kind = struct.unpack("<BBHII", body[:12])
            if kind in (0, 2) and size:  # unified, data
                caches.setdefault(level, size)
    return _WindowsLayout(tuple(sorted(cores)), caches)


def _bits(mask: int) -> tuple[int, ...]:
    return tuple(bit for bit in range(64) if mask >> bit & 1)


if sys.platform == "win32":
    import ctypes

    def _windows_layout() -> _WindowsLayout:
        """Ask Windows for cores and caches, of this process's group of up to 64 processors."""
        kernel = ctypes.WinDLL("kernel32")
        size = ctypes.c_ulong(0)
        kernel.GetLogicalProcessorInformation(None, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        done = kernel.GetLogicalProcessorInformation(buffer, ctypes.byref(size))
        return _parse_windows_records(buffer.raw[: size.value] if done else b"")

    def _windows_affinity() -> tuple[int, ...]:
        kernel = ctypes.WinDLL("kernel32")
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        process, system = ctypes.c_size_t(0), ctypes.c_size_t(0)
        done = kernel.GetProcessAffinityMask(
            ctypes.c_void_p(kernel.GetCurrentProcess()), ctypes.byref(process), ctypes.byref(system)
        )
        return _bits(process.value) if done else ()
