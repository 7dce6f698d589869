"""Feeds every loader hostile files: `python benchmarks/fuzz.py --inputs 100000 --out benchmarks/results/fuzz.json`.

An input is made of (seed, loader, number) alone, so that a run goes on where it was stopped and every example can be
made again. Loaders run in a limited process of their own, which is started anew when one of them kills it. An input is
*accepted*, *refused* by an error of this project, or a *failure*: any other exception, a death, or 20 s of processor
time. Where ONNX kills the process, the file goes through `latencykit.outside` as a user's would, which must answer;
that counts as *ended*. One of `GUARD_EVERY` ONNX files goes that way in any case.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
from fuzzing.kits import KIT_LOADERS
from fuzzing.loaders import FREE, ROOT
from fuzzing.loaders import LOADERS as PLAIN_LOADERS

from latencykit.errors import InputError, LatencyKitError
from latencykit.files import write_json
from latencykit.guard import Limits, limit
from latencykit.outside import open_model
from latencykit.progress import progress
from latencykit.runtime import runtime_version

LOADERS = {**PLAIN_LOADERS, **KIT_LOADERS}
LIMITS = Limits(memory_bytes=3 << 30, cpu_s=10**6)
GUARD_LIMITS = Limits(wall_s=10**6, cpu_s=20)  # a run that was paused is no slow file
INPUT_CPU_S = 20.0
GUARD_EVERY = 500
SAVE_EVERY = 1000
EXAMPLES = 20


def make_input(name: str, seed: int, number: int) -> bytes:
    """The input of that number."""
    return LOADERS[name].mutate(LOADERS[name].corpus(), Random(f"{seed}/{name}/{number}"))


def attempt(name: str, path: Path, number: int) -> dict[str, Any]:
    """What a loader makes of the file: its outcome, and why."""
    try:
        LOADERS[name].use(path, number)
    except LatencyKitError as error:
        return {"outcome": "refused", "why": f"{type(error).__name__}: {error}"[:2000]}
    except Exception as error:
        lines = traceback.format_exception(error)
        return {"outcome": "failure", "why": f"{type(error).__name__}: {error}"[:500], "trace": lines[-4:]}
    return {"outcome": "accepted"}


def work(name: str, seed: int, start: int, until: int) -> None:
    """The limited process: a line of JSON for each input."""
    with os.fdopen(os.dup(1), "w", encoding="ascii") as answers, tempfile.TemporaryDirectory() as scratch:
        os.dup2(2, 1)
        LOADERS[name].corpus()
        limit(LIMITS)
        path = Path(scratch) / "input.json"
        for number in range(start, until):
            path.write_bytes(make_input(name, seed, number))
            signal.setitimer(signal.ITIMER_PROF, INPUT_CPU_S)
            found = attempt(name, path, number)
            signal.setitimer(signal.ITIMER_PROF, 0)
            answers.write(json.dumps({"number": number, **found}) + "\n")
            answers.flush()


def outcomes(name: str, seed: int, start: int, until: int) -> Iterator[dict[str, Any]]:
    """Outcomes of a range of inputs, in order; the process is started again after each one that killed it."""
    while start < until:
        command = [sys.executable, str(Path(__file__).resolve()), "--work", name, "--seed", str(seed)]
        with tempfile.TemporaryFile() as complaints:
            child = subprocess.Popen(
                [*command, "--from", str(start), "--inputs", str(until)], stdout=subprocess.PIPE, stderr=complaints
            )
            try:
                assert child.stdout is not None
                before = start
                for line in child.stdout:
                    found = json.loads(line)
                    start = found["number"] + 1
                    yield found
                code = child.wait()
                complaints.seek(0)
                if code == 1 and start == before:
                    raise RuntimeError(complaints.read().decode(errors="replace")[-3000:])  # it cannot even start
            finally:
                child.kill()
                child.wait()
                child.stdout.close()
        if start < until:
            yield {"number": start, **_death(name, seed, start, code)}
            start += 1


def _death(name: str, seed: int, number: int, code: int) -> dict[str, Any]:
    ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    if name == "onnx":
        guarded = guard(make_input(name, seed, number))
        if guarded["outcome"] != "failure":
            return {"outcome": "ended", "why": f"{ending}; {guarded['outcome']}: {guarded.get('why', '')}"}
    return {"outcome": "failure", "why": f"the process was ended by {ending}"}


def guard(data: bytes) -> dict[str, Any]:
    """What a user's own call makes of an ONNX file."""
    try:
        open_model(data, "input.onnx", "kernels", FREE, GUARD_LIMITS)
    except InputError as error:
        return {"outcome": "refused", "why": str(error)[:500]}
    except Exception as error:
        return {"outcome": "failure", "why": f"through the guard: {type(error).__name__}: {error}"[:500]}
    return {"outcome": "accepted"}


def shape_of(why: str) -> str:
    """A refusal without the values in it, so that like ones are counted together."""
    text = re.sub(r"/tmp/\S*?input\.json|'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\([^)]*\)", "_", why)
    return re.sub(r"-?\d[\d.e+]*", "N", text.split("\n")[0])[:100]


class Tally:
    """Counts of one loader, as the results file has them."""

    def __init__(self, data: dict[str, Any] | None = None) -> None:
        empty = {"inputs": 0, "accepted": 0, "refused": 0, "ended": 0, "failures": 0, "guarded": {}, "examples": []}
        self.data: dict[str, Any] = {**empty, "refused_as": {}, **(data or {})}
        self._shapes = Counter(self.data["refused_as"])

    def add(self, found: dict[str, Any], make: Callable[[], bytes]) -> None:
        """Count one outcome; a failure keeps the bytes."""
        outcome, why = found["outcome"], found.get("why", "")
        self.data["inputs"] += 1
        self.data["failures" if outcome == "failure" else outcome] += 1
        if outcome in ("refused", "ended"):
            self._shapes[shape_of(why)] += 1
        alike = sum(shape_of(example["why"]) == shape_of(why) for example in self.data["examples"])
        if outcome == "failure" and alike < 3 and len(self.data["examples"]) < EXAMPLES:
            content = base64.b64encode(make()[:20_000]).decode()
            self.data["examples"].append({**found, "base64": content})

    def add_guarded(self, outcome: str) -> None:
        """Count an input that went through the guard."""
        self.data["guarded"][outcome] = self.data["guarded"].get(outcome, 0) + 1

    def as_json(self) -> dict[str, Any]:
        """The counts, refusals by how often they came."""
        return {**self.data, "refused_as": dict(self._shapes.most_common(150))}


def versions() -> dict[str, str]:
    """What the loaders ran on."""
    return {
        "python": platform.python_version(),
        "onnx": onnx.__version__,
        "onnxruntime": runtime_version(),
        "numpy": np.__version__,
    }


def sources() -> str:
    """What was attacked and with what: a hash of the sources of the core and of the attacks."""
    digest = hashlib.sha256()
    for path in sorted([*(ROOT / "latencykit").rglob("*.py"), *(ROOT / "benchmarks/fuzzing").glob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def fuzz(name: str, inputs: int, seed: int, tally: Tally, save: Callable[[], None] = lambda: None) -> None:
    """Bring a loader's tally to so many inputs."""
    start = tally.data["inputs"]
    with progress(f"fuzz {name}", inputs, start) as advance:
        for found in outcomes(name, seed, start, inputs):
            number = found["number"]
            if name == "onnx" and number % GUARD_EVERY == 0:
                guarded = guard(make_input(name, seed, number))
                tally.add_guarded(guarded["outcome"])
                found = guarded | {"number": number} if guarded["outcome"] == "failure" else found
            tally.add(found, partial(make_input, name, seed, number))
            advance(note=f"{tally.data['failures']} failures")
            if tally.data["inputs"] % SAVE_EVERY == 0:
                save()
    save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="for each loader, those of earlier runs included")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/fuzz.json")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--loader", action="append", choices=LOADERS, help="only this one; may be repeated")
    parser.add_argument("--work", choices=LOADERS, help=argparse.SUPPRESS)
    parser.add_argument("--from", dest="start", type=int, default=0, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.work:
        work(words.work, words.seed, words.start, words.inputs)
        return
    head = {"schema": 1, "seed": words.seed, "versions": versions(), "sources": sources()}
    results: dict[str, Any] = {**head, "loaders": {}}
    if words.out.exists():
        results = json.loads(words.out.read_text(encoding="utf-8"))
        if {key: results.get(key) for key in head} != head:
            sys.exit(
                f"{words.out} is of another seed, other versions or other sources; name another --out, or delete it."
            )
    for name in words.loader or LOADERS:
        tally = Tally(results["loaders"].get(name))

        def save(name: str = name, tally: Tally = tally) -> None:
            results["loaders"][name] = tally.as_json()
            write_json(words.out, results)

        fuzz(name, words.inputs, words.seed, tally, save)
        print(f"{name}: " + ", ".join(f"{tally.data[key]} {key}" for key in ("inputs", "accepted", "refused", "ended")))
        print(f"{name}: {tally.data['failures']} failures")
    sys.exit(any(results["loaders"][name]["failures"] for name in words.loader or LOADERS))


if __name__ == "__main__":
    main()
