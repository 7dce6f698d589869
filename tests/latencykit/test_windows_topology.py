"""Windows' records of cores and caches, from bytes."""

import struct

from latencykit.windows_topology import parse_records


def test_windows_records_give_cores_and_data_caches() -> None:
    def record(mask: int, relation: int, body: bytes = b"") -> bytes:
        return struct.pack("<QI4x16s", mask, relation, body)

    def cache(level: int, size: int, kind: int) -> bytes:
        return record(3, 2, struct.pack("<BBHII", level, 8, 64, size, kind))

    data = record(0b0011, 0) + record(0b1100, 0) + record(0b1111, 1) + cache(1, 32768, 2) + cache(1, 65536, 1)
    layout = parse_records(data + cache(3, 1 << 20, 0) + b"rest")
    assert layout.cores == ((0, 1), (2, 3))
    assert layout.caches == {1: 32768, 3: 1 << 20}
