"""ONNX files from outside, opened in a process that is limited in memory and time and never sees the file's path.

The parent reads the bytes and hands them over; whatever happens to the process, the parent gets an `InputError`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from latencykit.bounds import MAX_MODEL_BYTES
from latencykit.errors import InputError
from latencykit.files import read_bytes
from latencykit.guard import MOST_CHARACTERS, Limits, Task, printable
from latencykit.kernels import Kernel, kernel_from_json
from latencykit.runtime import Setting
from latencykit.schema import decode, parse_json

LIMITS = Limits()
MAX_ANSWER_BYTES = 64 << 20
OUTLINED_AT_ONCE = 50
_SINGLE_THREADED = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Opened:
    """What the limited process made of a model.

    Attributes:
        model: the bytes that were opened.
        kernels: empty unless they were asked for.
        limits: what the process could limit itself to (`latencykit.guard.limit`); time is limited everywhere.
    """

    model: bytes
    kernels: tuple[Kernel, ...]
    limits: tuple[str, ...]

    @property
    def warnings(self) -> list[str]:
        """What this system could not limit."""
        if "memory" in self.limits:
            return []
        return ["this system limits no process's memory: a file from outside was opened under a limit of time alone"]


def outside_kernels(path: Path, setting: Setting, limits: Limits = LIMITS) -> list[Kernel]:
    """The kernels that onnxruntime runs for an ONNX file from outside (`latencykit.kernels.kernels_of`), in order.

    With the setting's optimisation at "none" they are those of a graph that is an optimised one already.

    Raises:
        InputError: naming the file: no regular file, refused by `latencykit.rules`, `kernels_of` or onnxruntime, or
            one that crashed its process or took more than the limits.
    """
    return list(open_outside(path, "kernels", setting, limits).kernels)


def check_outside(path: Path, limits: Limits = LIMITS) -> bytes:
    """The bytes of an ONNX file from outside that `latencykit.rules` admits; errors as `outside_kernels`."""
    return open_outside(path, "check", Setting(threads=1, pinned=False), limits).model


def open_outside(path: Path, task: Task, setting: Setting, limits: Limits = LIMITS) -> Opened:
    """Do a task with an ONNX file from outside; errors as `outside_kernels`."""
    return open_model(read_bytes(path, MAX_MODEL_BYTES, follow=False), str(path), task, setting, limits)


def open_model(model: bytes, where: str, task: Task, setting: Setting, limits: Limits = LIMITS) -> Opened:
    """`open_outside` for bytes, such as a member of an archive; `where` names them in errors."""
    found = _guarded({"task": task, "setting": asdict(setting)}, model, where, limits)
    kernels = tuple(kernel_from_json(kernel, where) for kernel in found.kernels)
    return Opened(model, kernels, found.limits)


def outside_outlines(graphs: Mapping[str, bytes], where: str, limits: Limits = LIMITS) -> dict[str, Counter[Kernel]]:
    """The outlines (`latencykit.evidence`) of optimised graphs from outside and how often each comes, by graph.

    Args:
        graphs: ONNX bytes by name.
        where: what they were found in, for errors.
        limits: of each process; it opens `OUTLINED_AT_ONCE` graphs.

    Raises:
        InputError: naming the graph, as `outside_kernels`.
    """
    found: dict[str, Counter[Kernel]] = {}
    todo = list(graphs)
    for names in (todo[start : start + OUTLINED_AT_ONCE] for start in range(0, len(todo), OUTLINED_AT_ONCE)):
        job = {"task": "outlines", "names": names, "sizes": [len(graphs[name]) for name in names]}
        answer = _guarded(job, b"".join(graphs[name] for name in names), where, limits)
        kernels = [kernel_from_json(kernel, where) for kernel in answer.kernels]
        indices = [index for counts in answer.graphs for index, _ in counts]
        if len(answer.graphs) != len(names) or not all(0 <= index < len(kernels) for index in indices):
            raise _refusal(where, "the process that opened it answered nonsense", limits)
        for name, counts in zip(names, answer.graphs, strict=True):
            found[name] = Counter({kernels[index]: count for index, count in counts})
    return found


def _guarded(job: dict[str, Any], models: bytes, where: str, limits: Limits) -> _Answer:
    """What the limited process answers; raises `InputError` whatever happens to it."""
    line = json.dumps({**job, "limits": asdict(limits)}).encode()
    with (
        tempfile.TemporaryDirectory() as scratch,
        tempfile.TemporaryFile() as answer,  # files, not pipes: a process that went astray may print without end
        tempfile.TemporaryFile() as complaints,
    ):
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "latencykit.guard"],
                input=line + b"\n" + models,
                stdout=answer,
                stderr=complaints,
                cwd=scratch,
                env={**os.environ, **_SINGLE_THREADED},
                timeout=limits.wall_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise _refusal(where, f"opening it took over {limits.wall_s:g} s and was stopped", limits) from error
        if done.returncode:
            raise _refusal(where, _ending(done.returncode, complaints), limits)
        found = _answer(answer, where, limits)
    if found.error is not None:
        raise InputError(f"{where}: {printable(found.error)}")
    return found


@dataclass(frozen=True)
class _Answer:
    limits: tuple[str, ...]
    kernels: tuple[dict[str, Any], ...] = ()
    graphs: tuple[tuple[tuple[int, int], ...], ...] = ()
    error: str | None = None


def _answer(file: IO[bytes], where: str, limits: Limits) -> _Answer:
    file.seek(0)
    content = file.read(MAX_ANSWER_BYTES + 1)
    if len(content) > MAX_ANSWER_BYTES:
        raise _refusal(where, f"the process that opened it answered with more than {MAX_ANSWER_BYTES} bytes", limits)
    try:
        return decode(_Answer, parse_json(content, "its answer"), "its answer")
    except InputError as error:
        raise _refusal(where, f"its process answered nonsense ({printable(str(error))})", limits) from error


def _ending(code: int, complaints: IO[bytes]) -> str:
    """How a process ended that did not end well."""
    if code >= 0:
        complaints.seek(max(0, complaints.seek(0, os.SEEK_END) - MOST_CHARACTERS))
        lines = complaints.read().decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        return f"the process that opened it ended with exit code {code}: {printable(lines[0])}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    reason = _REASONS.get(name)
    return f"the process that opened it was ended by {name}" + (f", {reason}" if reason else "")


_REASONS = {
    "SIGXCPU": "out of processor time",
    "SIGKILL": "mostly for lack of memory",
    "SIGABRT": "a failed check or a lack of memory",
    "SIGSEGV": "a crash",
}


def _refusal(where: str, what: str, limits: Limits) -> InputError:
    return InputError(
        f"{where}: {what}. Expected: an ONNX model that opens within {limits.wall_s:g} s, {limits.cpu_s} s of "
        f"processor time and {limits.memory_bytes >> 20} MiB. Export it again, or use a smaller one."
    )
