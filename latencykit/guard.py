"""The limited process that opens ONNX files from outside: `python -m latencykit.guard`.

Standard input is a line of JSON, then the model's bytes, or those of several models for outlines; no path comes in. Its
answer is one JSON object:

    {"limits": ["memory", "cpu", "core", "file"], "kernels": [...]}
    {"limits": [...], "kernels": [...], "graphs": [[[kernel, count], ...], ...]}
    {"limits": [...], "error": "it is not a valid ONNX model: ..."}
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from latencykit.errors import LatencyKitError
from latencykit.rules import admit

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

MOST_CHARACTERS = 1000
"""Of an error that comes out of the process."""
Task = Literal["check", "run", "kernels"]
"""Check what the model holds; also have onnxruntime load it and run it once; also cut out its kernels."""


@dataclass(frozen=True)
class Limits:
    """What opening one file may take.

    Attributes:
        wall_s: from start to answer; the parent sees to it.
        cpu_s: processor time.
        memory_bytes: address space, the libraries included.
        file_bytes: of a file that is written, the optimised model being one.
    """

    wall_s: float = 60.0
    cpu_s: int = 60
    memory_bytes: int = 4 << 30
    file_bytes: int = 1 << 30


def limit(limits: Limits) -> list[str]:
    """Limit this process; return the names of the limits that the system accepted, none on Windows."""
    if resource is None:
        return []
    wanted = {
        "memory": (resource.RLIMIT_AS, limits.memory_bytes),
        "cpu": (resource.RLIMIT_CPU, limits.cpu_s),
        "core": (resource.RLIMIT_CORE, 0),
        "file": (resource.RLIMIT_FSIZE, limits.file_bytes),
    }
    accepted = []
    for name, (kind, value) in wanted.items():
        _, most = resource.getrlimit(kind)
        open_ended = most == resource.RLIM_INFINITY
        soft = value if open_ended else min(value, most)
        spare = 1 if name == "cpu" and (open_ended or soft < most) else 0  # so that the signal tells what has run out
        try:
            resource.setrlimit(kind, (soft, soft + spare))
        except (OSError, ValueError):  # macOS refuses to limit the address space
            continue
        accepted.append(name)
    return accepted


def perform(task: Task, setting: dict[str, Any], model: bytes) -> dict[str, Any]:
    """Do a task with a model's bytes in the current folder, which is the caller's scratch.

    Raises:
        InputError: the model is refused.
    """
    admit(model)
    if task == "check":
        return {}
    from latencykit.kernels import kernels_of  # onnxruntime, which takes as long to load as all the rest
    from latencykit.runtime import Session, Setting
    from latencykit.schema import to_json

    alone = replace(Setting(**setting), threads=1, pinned=False)  # kernels do not depend on the threads
    if task == "kernels":
        return {"kernels": to_json(kernels_of(model, alone, Path.cwd()))}
    with Session(model, alone, ()) as session:
        session.bound(session.random_inputs(0))
    return {}


def outline(names: Sequence[str], models: Sequence[bytes]) -> dict[str, Any]:
    """The outlines of optimised graphs, which need not be such that this CPU could run them.

    Raises:
        InputError: naming a model that is refused.
    """
    from latencykit.evidence import outlines_in
    from latencykit.schema import naming, to_json

    kernels: dict[Any, int] = {}
    graphs = []
    for name, model in zip(names, models, strict=True):
        with naming(name):
            counts = Counter(outlines_in(admit(model)))
        graphs.append([[kernels.setdefault(kernel, len(kernels)), count] for kernel, count in counts.items()])
    return {"kernels": to_json(list(kernels)), "graphs": graphs}


def printable(text: str) -> str:
    """The beginning of a text that may quote what is not to be trusted, fit for a terminal."""
    return "".join(c if c.isprintable() else " " for c in text[:MOST_CHARACTERS])


def main() -> None:
    """Read a job and a model, or several, print the answer."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as answer:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no answer
        job = json.loads(sys.stdin.buffer.readline())
        found: dict[str, Any] = {"limits": limit(Limits(**job["limits"]))}
        try:
            if job["task"] == "outlines":
                found |= outline(job["names"], [sys.stdin.buffer.read(size) for size in job["sizes"]])
            else:
                found |= perform(job["task"], job["setting"], sys.stdin.buffer.read())
        except LatencyKitError as error:
            found["error"] = printable(str(error))
        except MemoryError:
            found["error"] = f"it needs more than {job['limits']['memory_bytes'] >> 20} MiB of memory."
        json.dump(found, answer, allow_nan=False)


if __name__ == "__main__":
    main()
