"""What this CPU is, as this process sees it, and the short name that files bear.

Takes the system's own files under a root that tests replace; gives `CpuFacts`. What cannot be read is None, never a
guess. Facts of the running system that no file holds (Windows, macOS) come from the system's calls, psutil or
py-cpuinfo, each imported only where it is needed, and what numpy found out for itself.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from latencykit.cgroup import read_cgroup
from latencykit.errors import InputError
from latencykit.system_files import (
    ROOT,
    count,
    cpu_dir,
    is_live,
    read_count,
    read_cpuinfo,
    read_fields,
    read_text,
)
from latencykit.topology import allowed_cpus, ask_core_count, online_cpus, read_cores

if sys.platform == "win32":
    from latencykit.windows_topology import windows_brand, windows_layout

# The instruction sets that choose a runtime's kernels and block size, in the order they are listed.
ISA_FLAGS = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni"),
    *("avx512f", "avx512vl", "avx512bw", "avx512dq", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("neon", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
# Of these, what computes with integers or half the bits only: networks here are float32.
OF_OTHER_NUMBERS = frozenset(
    {
        *("avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
        *("asimdhp", "asimddp", "i8mm", "bf16"),
    }
)
# Other spellings of the same flags, as py-cpuinfo, CPUID lists and numpy give them.
ISA_SYNONYMS = {
    **{"avx512vnni": "avx512_vnni", "avx512bf16": "avx512_bf16", "avxvnni": "avx_vnni", "sse4.2": "sse4_2"},
    **{"sse42": "sse4_2", "fma3": "fma", "avx512fp16": "avx512_fp16"},
}

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

    @property
    def isa_float32(self) -> tuple[str, ...]:
        """The instruction sets by which a runtime chooses the kernels of a float32 network."""
        return tuple(name for name in self.isa if name not in OF_OTHER_NUMBERS)


def read_cpu(root: Path = ROOT) -> CpuFacts:
    """Read what this CPU is; never fails where something is absent.

    Takes over a second where the files lack the model or the flags (py-cpuinfo is asked), so call it outside of any
    timed process.

    Args:
        root: The root of the system's files; another than `/` simulates a system, and nothing live is mixed in.

    Returns:
        The facts, with None for each that could not be read.
    """
    live = is_live(root)
    allowed = allowed_cpus(root)
    first = allowed[0] if allowed else 0
    block = _cpuinfo_block(root, first)
    cores = read_cores(root)
    online = online_cpus(root)
    model = _known(block.get("model name")) or _arm_model(block)
    vendor = _known(block.get("vendor_id")) or block.get("CPU implementer")
    flags = frozenset((block.get("flags") or block.get("Features") or "").split())
    nominal_mhz = _nominal_mhz(root, first, model)
    hypervisor = _hypervisor(root, block)
    if live and model is None and sys.platform == "win32":
        model = windows_brand()
    if live and (model is None or not flags):
        asked = _ask_py_cpuinfo()
        model = model or asked.model
        vendor = vendor or asked.vendor
        flags = flags or asked.flags or _numpy_flags()
        nominal_mhz = nominal_mhz or asked.mhz
    caches = _caches(root, first)
    return CpuFacts(
        model=model,
        vendor=vendor,
        architecture=_kernel_text(root, "arch") or (_known(platform.machine()) if live else None),
        isa=_isa(flags),
        logical_cpus=len(online) or (os.cpu_count() if live else None),
        physical_cores=len(cores) or (ask_core_count() if live else None),
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


def _known(text: str | None) -> str | None:
    return None if text is None or text.strip().lower() in ("", "unknown") else text.strip()


def _kernel_text(root: Path, name: str) -> str | None:
    return read_text(root / "proc/sys/kernel" / name)


def _cpuinfo_block(root: Path, cpu: int) -> dict[str, str]:
    blocks = read_cpuinfo(root)
    return next((block for block in blocks if count(block.get("processor")) == cpu), blocks[0])


def _arm_model(block: dict[str, str]) -> str | None:
    """Name an ARM core by its codes: the kernel gives no brand there."""
    maker, part = block.get("CPU implementer"), block.get("CPU part")
    return f"{VENDORS.get(maker, maker)} part {part}" if maker and part else None


def _isa(flags: frozenset[str]) -> tuple[str, ...]:
    names = {ISA_SYNONYMS.get(flag, flag) for flag in flags}
    return tuple(flag for flag in ISA_FLAGS if flag in names)


def _smt(root: Path, cores: tuple[tuple[int, ...], ...]) -> bool | None:
    if (active := read_text(root / "sys/devices/system/cpu/smt/active")) in ("0", "1"):
        return active == "1"
    return any(len(core) > 1 for core in cores) if cores else None


def _caches(root: Path, cpu: int) -> dict[int, int]:
    """Sizes in bytes of one instance of each data cache, by level."""
    sizes: dict[int, int] = {}
    for index in range(8):  # Linux numbers a processor's caches from 0 without gaps; four are usual
        directory = cpu_dir(root, cpu) / "cache" / f"index{index}"
        level, size = read_count(directory / "level"), read_text(directory / "size") or ""
        parsed = re.fullmatch(r"([0-9]{1,12})([KMG]?)", size)
        if level and parsed and read_text(directory / "type") in ("Data", "Unified") and int(parsed[1]) > 0:
            sizes[level] = int(parsed[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[parsed[2]]
    if not sizes and is_live(root) and sys.platform == "win32":
        return windows_layout().caches
    return sizes


def _governor(root: Path, cpus: tuple[int, ...]) -> str | None:
    names = {read_text(cpu_dir(root, cpu) / "cpufreq/scaling_governor") for cpu in cpus}
    return "+".join(sorted(name for name in names if name)) or None


def _turbo(root: Path, cpu: int) -> bool | None:
    system = root / "sys/devices/system/cpu"
    if (off := read_text(system / "intel_pstate/no_turbo")) in ("0", "1"):
        return off == "0"
    for path in (system / "cpufreq/boost", cpu_dir(root, cpu) / "cpufreq/boost"):
        if (on := read_text(path)) in ("0", "1"):
            return on == "1"
    return None


def _nominal_mhz(root: Path, cpu: int, model: str | None) -> float | None:
    if base_khz := read_count(cpu_dir(root, cpu) / "cpufreq/base_frequency"):
        return base_khz / 1e3
    if mhz := read_count(cpu_dir(root, cpu) / "acpi_cppc/nominal_freq"):
        return float(mhz)
    branded = re.search(r"@ *([0-9]{1,3}(?:\.[0-9]+)?) *GHz", model or "")
    return round(float(branded[1]) * 1e3, 3) or None if branded else None


def _hypervisor(root: Path, block: dict[str, str]) -> bool | None:
    if read_text(root / "sys/hypervisor/type"):
        return True
    flags = block.get("flags")  # x86 only; ARM has no such flag
    return "hypervisor" in flags.split() if flags else None


def _memory_bytes(root: Path) -> int | None:
    kib = read_fields(root / "proc/meminfo").get("MemTotal", "").removesuffix("kB")
    if total := count(kib):
        return total * 1024
    if is_live(root):
        try:
            import psutil  # absent on bare machines: then the figure stays unknown
        except ImportError:
            return None
        return int(psutil.virtual_memory().total)
    return None


class _Asked(NamedTuple):
    model: str | None = None
    vendor: str | None = None
    flags: frozenset[str] = frozenset()
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
        frozenset(info.get("flags") or ()),
        hertz / 1e6 or None,
    )


def _numpy_flags() -> frozenset[str]:
    """The instruction sets that numpy, which chooses its own code by them, finds on every system."""
    try:
        from numpy._core._multiarray_umath import __cpu_features__ as found  # type: ignore[import-not-found]
    except ImportError:  # no public name, so another version of numpy may have none
        return frozenset()
    return frozenset(name.lower() for name, there in found.items() if there)
