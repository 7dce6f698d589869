"""Kills real builds at random moments: `python benchmarks/kill.py --rounds 100 --out benchmarks/results/kill.json`.

A round builds a small table with the command line, one thread, and kills it with SIGKILL one to three times: at a
moment drawn from the time that a build takes, or, one time in five, as soon as it begins to write the table. Three
times in four the whole process group dies, else the building process alone, whose measuring process must then end by
itself. The same command resumes. At the end:

* the table is whole (checksum) and holds exactly the keys of an uninterrupted build;
* no (row, process) was measured again over all lives of the journal unless its sentinel told another state of the
  machine, nothing in it was lost, and the table's samples are the journal's steadiest;
* nothing but the table is left beside it, and no process of the build is alive.

The journal's lives are seen through hard links that keep it when the build replaces or deletes it. What a killed
process leaves in the system's own temporary folder is counted, not judged. The result is written after every round; the
same command goes on where it was stopped. Ends with 1 where a round failed. POSIX only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import operator
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from latencykit.bench import STEADY_PCT, Sample
from latencykit.coverage import stride_macros
from latencykit.errors import LatencyKitError, NotComparableError
from latencykit.files import write_bytes, write_json
from latencykit.keys import key_id
from latencykit.lowering import graph_to_onnx
from latencykit.macro import Macro
from latencykit.progress import progress
from latencykit.sample import sample_architectures
from latencykit.space import instantiate
from latencykit.sweep import ROW_PROTOCOL
from latencykit.table import Table
from latencykit.table_file import load_table

COMMAND = [sys.executable, "-c", "from latencykit.cli import main; main()"]
LOOK_EVERY_S = 0.002
MOST_KILLS = 3
AIMED, ALONE = 0.2, 0.25
"""Share of kills that wait for the table's writing, and of those that spare the measuring process."""
ORPHAN_PATIENCE_S = 10.0
MOST_REFUSALS = 5
"""How often a sentinel may refuse to resume; it was first measured beside other work, and the round begins anew."""
MOST_BEGINNINGS = 4

Set = tuple[str, str, int]
"""Setting (JSON), row, process: what must be measured once."""


@dataclass(frozen=True)
class Kill:
    """One kill: seconds into this life of the build, how, and what was there."""

    at_s: float
    aimed: bool
    alone: bool
    where: str
    samples: int


@dataclass
class Round:
    """What one round saw."""

    index: int
    kills: list[Kill] = field(default_factory=list)
    refused_by_sentinel: int = 0
    samples: int = 0
    left_in_tmp: int = 0
    failures: list[str] = field(default_factory=list)


class Witness:
    """Keeps every file that the journal ever was, whatever the build does with it."""

    def __init__(self, journal: Path, folder: Path) -> None:
        folder.mkdir()
        self._journal, self._folder = journal, folder
        self._kept: list[Path] = []
        self._seen = 0

    def look(self) -> None:
        """Keep the journal if it is another file than at the last look."""
        target = self._folder / f"{len(self._kept)}.journal"
        try:
            if self._journal.stat().st_ino == self._seen:
                return
            os.link(self._journal, target)
        except FileNotFoundError:
            return
        self._seen = target.stat().st_ino
        self._kept.append(target)

    def lives(self) -> list[list[dict[str, Any]]]:
        """The whole entries of every file, in order of time."""
        return [entries(path.read_text(encoding="utf-8")) for path in self._kept]


def entries(text: str) -> list[dict[str, Any]]:
    """The entries of a journal's whole lines, without its header."""
    whole = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in whole.splitlines()[1:]]


def lifetime(lives: list[list[dict[str, Any]]]) -> tuple[list[dict[str, Any]], list[str]]:
    """All entries ever appended, and where a later journal lost what an earlier one held.

    A file that goes on holds the earlier one's entries first. An empty one follows a finished table.
    """
    everything: list[dict[str, Any]] = []
    lost = []
    for index, life in enumerate(lives):
        if life[: len(everything)] == everything:
            everything = life
        elif life:
            lost.append(f"journal {index} does not go on from what was measured before")
            everything = everything + life
    return everything, lost


def complaints(table: Table, wanted: set[tuple[str, str]], everything: list[dict[str, Any]]) -> list[str]:
    """What is wrong with a finished table and the journal that it was made from."""
    found = []
    rows = {(name_of(asdict(row.setting)), key_id(row.key)): row for row in table.rows}
    if rows.keys() != wanted:
        found.append(f"{len(rows.keys() ^ wanted)} keys are not those of an uninterrupted build")
    taken: dict[Set, Sample] = {}
    seen: dict[str, list[Sample]] = {}
    for entry in everything:
        setting, sample = name_of(entry["setting"]), sample_of(entry["sample"])
        which, before = (setting, sample.id, sample.process), seen.setdefault(setting, [])
        if which in taken and taken[which].state_us <= _surely_steady_us(before):
            found.append(f"{which} was measured again though its sentinel was as fast as any")
        before.append(sample)
        if which not in taken or sample.state_us <= taken[which].state_us:
            taken[which] = sample
    timed = {where: row.measurement.samples_us for where, row in rows.items() if row.measurement}
    expected = {(*where, process) for where, samples in timed.items() for process in range(len(samples))}
    found += [f"{which} is in the table and not in the journal" for which in sorted(expected - taken.keys())]
    found += [f"{which} is in the journal and not in the table" for which in sorted(taken.keys() - expected)]
    for where, samples in timed.items():
        kept = [taken.get((*where, process)) for process in range(ROW_PROTOCOL.processes)]
        if samples != tuple(tuple(round(v, 3) for v in one.samples_us) if one else () for one in kept):
            found.append(f"{where}: the table's samples are not the journal's")
    return found


def _surely_steady_us(before: Iterable[Sample]) -> float:
    """A sentinel that no limit of a build was below: limits follow the best state, the fastest figure is below that."""
    fastest_us = min((us for sample in before for us in sample.sentinel_us), default=math.inf)
    return fastest_us * (1 + STEADY_PCT["convolution"] / 100)


def sample_of(data: dict[str, Any]) -> Sample:
    """What a build goes by in a journal's sample."""
    figures = tuple(data["samples_us"]), tuple(data["sentinel_us"])
    return Sample(data["id"], data["process"], figures[0], (), None, 0.0, figures[1])


def name_of(setting: dict[str, Any]) -> str:
    """A setting as one word."""
    return json.dumps(setting, sort_keys=True)


class Builder:
    """Builds one table in a folder of its own, and kills what it has started."""

    def __init__(self, model: Path, folder: Path) -> None:
        for name in ("out", "tmp"):
            (folder / name).mkdir(parents=True)
        self.table = folder / "out" / "table.json"
        self.witness = Witness(self.table.with_name("table.json.journal"), folder / "journals")
        self.errors = folder / "errors"
        self._tmp = folder / "tmp"
        self._group = -1
        self._stale: frozenset[str] = frozenset()
        options = ["--threads", "1", "--only-added", "--add", str(model), "--force", "--json"]
        self._words = [*COMMAND, "build", "--out", str(self.table), *options]

    @property
    def left_in_tmp(self) -> int:
        """Files and folders in the temporary folder that the builds were given."""
        return len(list(self._tmp.iterdir()))

    def run(self, over: Callable[[float], bool] = lambda seconds: False, alone: bool = False) -> tuple[int, float]:
        """Build until it ends or is killed, once `over` says so of the seconds that have passed.

        Returns:
            The exit code, -9 where it was killed, and the seconds.
        """
        begin_s, self._stale = time.monotonic(), frozenset(self.beside)
        with self.errors.open("w") as errors:
            child = subprocess.Popen(
                self._words, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True,
                env={**os.environ, "TMPDIR": str(self._tmp)},
            )  # fmt: skip
        try:
            while child.poll() is None:
                self.witness.look()
                if over(time.monotonic() - begin_s):
                    (os.kill if alone else os.killpg)(child.pid, signal.SIGKILL)
                    break
                time.sleep(LOOK_EVERY_S)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # it has a group of its own, which no Ctrl-C reaches
            raise
        seconds = time.monotonic() - begin_s
        code = child.wait()
        self._group = child.pid
        self.witness.look()
        return code, seconds

    def orphans(self) -> list[int]:
        """Processes of the last build that are alive after all patience."""
        deadline_s = time.monotonic() + ORPHAN_PATIENCE_S
        while (alive := members(self._group)) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        return alive

    @property
    def beside(self) -> list[str]:
        """What lies in the table's folder."""
        return sorted(path.name for path in self.table.parent.iterdir())

    @property
    def writes(self) -> bool:
        """Whether this life of the build has begun to write the table."""
        fresh = set(self.beside) - self._stale
        return any(name == self.table.name or (name.endswith(".tmp") and ".journal." not in name) for name in fresh)

    @property
    def where(self) -> str:
        """What the last kill left behind, in words."""
        journal = self.table.with_name("table.json.journal")
        if self.table.exists():
            return "table written, journal still there" if journal.exists() else "table written"
        if self.writes:
            return "table being written"
        return "measuring" if journal.exists() else "before the first sample"


def members(group: int) -> list[int]:
    """Process ids of a group that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            state, _, its_group = (path / "stat").read_text().rsplit(")", 1)[1].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(path.name))
    return found


def small_model(path: Path, seed: int) -> Path:
    """A network of the paper's space at stride 4, whose build takes a few seconds."""
    (macro,) = stride_macros(Macro(), [4])
    write_bytes(path, graph_to_onnx(instantiate(sample_architectures(macro, 1, seed)[0])).SerializeToString())
    return path


def reference(model: Path, folder: Path) -> tuple[set[tuple[str, str]], float]:
    """The (setting, key) of an uninterrupted build, and its seconds."""
    builder = Builder(model, folder)
    code, seconds = builder.run()
    if code:
        raise LatencyKitError(f"an uninterrupted build ends with {code}: {builder.errors.read_text().strip()}")
    return {(name_of(asdict(row.setting)), key_id(row.key)) for row in load_table(builder.table).rows}, seconds


def one_round(index: int, seed: str, model: Path, folder: Path, wanted: set[tuple[str, str]], build_s: float) -> Round:
    """Build, kill, resume, look; begin anew where the build ended before its first kill, or the machine is another."""
    rng = random.Random(f"{seed}/{index}")
    seen = Round(index)
    builder = Builder(model, folder)
    for _ in range(rng.randint(1, MOST_KILLS)):
        aimed, alone, at_s = rng.random() < AIMED, rng.random() < ALONE, rng.uniform(0, build_s)
        over = partial(writing, builder) if aimed else partial(operator.le, at_s)
        code, seconds = builder.run(over, alone)
        if code != -signal.SIGKILL:
            break
        if orphans := builder.orphans():
            seen.failures.append(f"processes {orphans} outlived kill {len(seen.kills) + 1}")
        everything, _ = lifetime(builder.witness.lives())
        seen.kills.append(Kill(round(seconds, 3), aimed, alone, builder.where, len(everything)))
    else:
        code, _ = builder.run()
    while code == NotComparableError.exit_code and seen.refused_by_sentinel < MOST_REFUSALS:
        seen.refused_by_sentinel += 1  # a busy machine; the message says to run the same command again
        code, _ = builder.run()
    idle = code == NotComparableError.exit_code or not (seen.kills or code)
    if idle and folder.name.count("+") < MOST_BEGINNINGS:
        return one_round(index, f"{seed}+", model, folder.with_name(f"{folder.name}+"), wanted, build_s)
    if code:
        seen.failures.append(f"resumed, the build ends with {code}: {builder.errors.read_text().strip()[-500:]}")
        return seen
    everything, lost = lifetime(builder.witness.lives())
    seen.samples, seen.left_in_tmp = len(everything), builder.left_in_tmp
    seen.failures += [*lost, *complaints(load_table(builder.table), wanted, everything)]
    if (left := builder.beside) != [builder.table.name]:
        seen.failures.append(f"{builder.table.name} alone was to be left, found: {', '.join(left)}")
    if orphans := builder.orphans():
        seen.failures.append(f"processes {orphans} outlived the build")
    return seen


def writing(builder: Builder, seconds: float) -> bool:
    """Whether a build writes its table, whatever the time."""
    return builder.writes


def summary(seed: int, build_s: float, rows: int, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The result as JSON."""
    kills = [kill for found in rounds for kill in found["kills"]]
    return {
        "schema": 1,
        "seed": seed,
        "rounds": len(rounds),
        "failed": sum(bool(found["failures"]) for found in rounds),
        "failures": [f"round {found['index']}: {failure}" for found in rounds for failure in found["failures"]],
        "kills": len(kills),
        "where": Counter(kill["where"] for kill in kills),
        "whole_group": sum(not kill["alone"] for kill in kills),
        "refused_by_sentinel": sum(found["refused_by_sentinel"] for found in rounds),
        "rows": rows,
        "build_s": build_s,
        "details": rounds,
    }


def main() -> None:
    """Run the rounds that the result does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    earlier = json.loads(chosen.out.read_text(encoding="utf-8")) if chosen.out.exists() else {"seed": chosen.seed}
    if earlier["seed"] != chosen.seed:
        parser.error(f"{chosen.out} holds rounds of seed {earlier['seed']}; pass that seed or another --out")
    rounds: list[dict[str, Any]] = earlier.get("details", [])
    with tempfile.TemporaryDirectory() as scratch:
        model = small_model(Path(scratch) / "model.onnx", chosen.seed)
        wanted, build_s = reference(model, Path(scratch) / "reference")
        with progress("kill and resume", chosen.rounds, len(rounds)) as advance:
            for index in range(len(rounds), chosen.rounds):
                found = one_round(index, str(chosen.seed), model, Path(scratch) / f"round{index}", wanted, build_s)
                rounds.append(asdict(found))
                write_json(chosen.out, summary(chosen.seed, build_s, len(wanted), rounds))
                advance(note=f"{sum(bool(r['failures']) for r in rounds)} failed")
    result = summary(chosen.seed, build_s, len(wanted), rounds)
    print(json.dumps({key: value for key, value in result.items() if key != "details"}, indent=1))
    sys.exit(bool(result["failed"]))


if __name__ == "__main__":
    main()
