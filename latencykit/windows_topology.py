"""Cores, caches and affinity where no file tells them: Windows' own calls, through ctypes, standard library only."""

from __future__ import annotations

import struct
import sys
from typing import NamedTuple


class WindowsLayout(NamedTuple):
    """What Windows says of this process's group of up to 64 processors."""

    cores: tuple[tuple[int, ...], ...]  # logical processors of each physical core
    caches: dict[int, int]  # level -> bytes of one instance


def parse_records(data: bytes) -> WindowsLayout:
    """Parse SYSTEM_LOGICAL_PROCESSOR_INFORMATION records of a 64-bit Windows: mask, relation, 16 bytes by relation."""
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
    return WindowsLayout(tuple(sorted(cores)), caches)


def _bits(mask: int) -> tuple[int, ...]:
    return tuple(bit for bit in range(64) if mask >> bit & 1)


if sys.platform == "win32":
    import ctypes

    def windows_layout() -> WindowsLayout:
        """Ask Windows for cores and caches."""
        kernel = ctypes.WinDLL("kernel32")
        size = ctypes.c_ulong(0)
        kernel.GetLogicalProcessorInformation(None, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        done = kernel.GetLogicalProcessorInformation(buffer, ctypes.byref(size))
        return parse_records(buffer.raw[: size.value] if done else b"")

    def windows_affinity() -> tuple[int, ...]:
        """Ask Windows which logical processors this process may run on; empty where it does not tell."""
        kernel = ctypes.WinDLL("kernel32")
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        process, system = ctypes.c_size_t(0), ctypes.c_size_t(0)
        done = kernel.GetProcessAffinityMask(
            ctypes.c_void_p(kernel.GetCurrentProcess()), ctypes.byref(process), ctypes.byref(system)
        )
        return _bits(process.value) if done else ()

    def windows_brand() -> str | None:
        """Ask Windows for the processor's brand."""
        import winreg

        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0") as key:
                return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip() or None
        except OSError:
            return None
