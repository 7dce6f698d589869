"""Builds on made-up measuring processes: a few keys, and what stops a build."""

import json
from pathlib import Path
from typing import Any

from latencykit.doctor import Verdict
from latencykit.kernels import CALL_OVERHEAD
from latencykit.keys import Key, Primitive
from latencykit.runtime import Setting, runtime_version
from latencykit.spec import Conv, Identity
from latencykit.sweep import (
    Built,
    build,
    plan_build,
)
from tests.latencykit.made_up import (
    CPU,
    ONE,
    QUICK,
    relu_kernel,
)

FIT = Verdict(True, (), CPU)
CONV = Primitive((Conv(4),), ((2, 8, 8),))
IDENTITY = Primitive((Identity(),), ((2, 8, 8),))
KEYS: list[Key] = [CALL_OVERHEAD, relu_kernel(2), relu_kernel(4), CONV, IDENTITY]
TIMED = 4  # all but the identity
RUNTIME = {"onnxruntime": runtime_version()}


def journal_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.journal")


def make(out: Path, keys: list[Key] = KEYS, settings: tuple[Setting, ...] = (ONE,), **changes: Any) -> Built:
    return build(out, plan_build(out, settings, keys), **{"verdict": FIT, "protocol": QUICK, **changes})


def entries(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text().splitlines()[1:]]


def stop_after(count: int, error: type[BaseException] = KeyboardInterrupt):
    """Something to advance that raises at the n-th sample set."""
    seen: list[str] = []

    def advance(name: str) -> None:
        seen.append(name)
        if len(seen) == count:
            raise error

    return advance
