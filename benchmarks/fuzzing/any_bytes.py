"""Values and bytes that are likely to be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

INTEGERS = (
    *(0, 1, -1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 4096, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**53, 2**53 + 1),
    *(2**62, 2**63 - 1, 2**63, 2**64, -(2**31), -(2**63), -(2**63) - 1, 10**30, 10**400),
)
FLOATS = (0.0, -0.0, 0.5, -1.5, 1e-320, 1e-7, 1e7, 1e300, -1e300, 1.7976931348623157e308, 3.4e38, 3.5e38, 5e-324)
WORDS = (
    *("", "0", "a", "none", "relu", "paper", "Conv", "Zero", "true", "../x", "/etc/passwd", "\0", "\x1b[31m", "é"),
    *(
        "\u202e",
        "\ud800",
        "😀",
        "NaN",
        "1e999",
        "measured",
        "kernel",
        "edge",
        "tensor(float)",
        "a" * 3000,
        "__class__",
        "%s{0}",
    ),
)
MAX_BYTES = 300_000
"""What grows beyond this is cut."""


def mutate_bytes(data: bytes, corpus: Sequence[bytes], rng: Random) -> bytes:
    """Bytes with one change somewhere: flipped, cut, repeated, inserted, or spliced with another file's."""
    if not data:
        return rng.randbytes(rng.randrange(1, 40))
    at = rng.randrange(len(data))
    until = min(len(data), at + rng.choice((1, 2, 4, 16, 200)))
    match rng.randrange(8):
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case 1:
            return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        case 2:
            return data[:at]
        case 3:
            return data[:at] + data[until:]
        case 4:
            return data[:at] + data[at:until] * rng.choice((2, 3, 100)) + data[until:]
        case 5:
            return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:]
        case 6:
            word = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80" * 10))
            return data[:at] + word + data[at + 4 :]
        case _:
            other = rng.choice(corpus)
            return data[:at] + other[rng.randrange(len(other) + 1) :]
