"""Real builds and validations, killed for real."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from latencykit.keys import key_id
from latencykit.sweep import (
    timing_id,
)
from latencykit.table import Table
from latencykit.table_file import load_table
from tests.latencykit.building import entries
from tests.latencykit.made_up import (
    TINY_JSON,
)

# a shell's background jobs ignore SIGINT, and what they start inherits that
_COMMAND = """
import signal
from functools import partial
from latencykit import bench, calibrate, sweep
from latencykit.commands import tables
from latencykit.doctor import Verdict
from latencykit.host import read_cpu
from latencykit.measurement import Protocol

signal.signal(signal.SIGINT, signal.default_int_handler)
bench.PATIENCE_S = 0
# a busy machine measures once, so that what came twice is a fault
bench.STEADY_PCT = dict.fromkeys(bench.STEADY_PCT, float("inf"))
sweep.SENTINEL_LIMIT_PCT = float("inf")  # nor does it refuse to resume, which is tested with made-up processes
sweep.CALIBRATION_PROTOCOL = Protocol(samples=2, block_us=0, warmup_ms=0, processes=2)
sweep.PACED_PROTOCOL = Protocol(samples=1, block_us=0, warmup_ms=0, processes=1)
tables.doctor = lambda: Verdict(True, (), read_cpu())
tables.space_needs = partial(calibrate.space_needs, fit_networks=10, sampled=4)
tables.build = partial(sweep.build, protocol=Protocol(samples=2, block_us=0, warmup_ms=0, processes=3))
if __name__ == "__main__":
    from latencykit.cli import main
    main()
"""
"""A small build; the last lines let processes that it starts import this without building anything."""
_KEEP_JOURNAL = f"import latencykit.journal as j; j.Journal.remove = lambda self: None\n{_COMMAND}"


@pytest.fixture
def command(tmp_path: Path) -> Iterator[list[str]]:
    (tmp_path / "space.json").write_text(TINY_JSON)
    yield ["build", "--out", str(tmp_path / "t.json"), "--space", str(tmp_path / "space.json"), "--strides", "1",
           "--threads", "1", "--force", "--json"]  # fmt: skip
    shutil.rmtree(tmp_path)


def start(command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _COMMAND, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_lines(folder: Path, count: int, running: "subprocess.Popen[str]") -> Path:
    """The journal in a folder, once it has so many lines."""
    deadline = time.monotonic() + 60
    while not any(path.read_bytes().count(b"\n") >= count for path in folder.glob("*.journal")):
        assert running.poll() is None, running.stderr.read()
        assert time.monotonic() < deadline, "no samples came"
        time.sleep(0.02)
    return next(folder.glob("*.journal"))


def whole_lines(journal: Path) -> list[str]:
    """Its lines without one that was being written."""
    return journal.read_text().rpartition("\n")[0].splitlines()


def measuring(parent: int) -> list[Path]:
    """The measuring processes that a build has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if int((path / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent:
                found.append(path)
        except OSError:
            continue
    return found


@pytest.mark.real_clock
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_killed_build_goes_on_where_it_was_and_measures_nothing_twice(command: list[str], tmp_path: Path):
    running = start(command)
    journal = wait_for_lines(tmp_path, 40, running)
    assert journal == tmp_path / "t.json.journal"
    workers = measuring(running.pid)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert running.returncode == -signal.SIGKILL
    assert not (tmp_path / "t.json").exists()
    deadline = time.monotonic() + 10
    while any(path.exists() for path in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(path.exists() for path in workers)  # the measuring process ends by itself
    before = whole_lines(journal)

    words = [sys.executable, "-c", _KEEP_JOURNAL, *command]
    resumed = subprocess.run(words, capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    result = json.loads(resumed.stdout)
    table = load_table(tmp_path / "t.json")
    assert sum(result["rows"].values()) == len(table.rows)
    assert result["measured"] == len(table.rows) - result["rows"]["edge"]
    assert result["networks"] == len(table.timings) == 16 + 8
    assert (result["repeated"], result["reused"]) == (0, 0)

    after = journal.read_text().splitlines()
    assert after[: len(before)] == before
    sets = Counter((e["sample"]["id"], e["sample"]["process"]) for e in entries(journal))
    timed = {key_id(row.key) for row in table.rows if row.origin == "measured"}
    expected = {(name, process) for name in timed for process in range(3)}
    for timing in table.timings:
        name = timing_id(timing.network, timing.pace_hz)
        expected |= {(name, process) for process in range(len(timing.medians_us))}
    assert set(sets) == expected
    assert set(sets.values()) == {1}
    assert {row.measurement.processes for row in table.rows if row.measurement} == {3}


@pytest.mark.real_clock
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_killed_validation_goes_on_where_it_was_and_measures_nothing_twice(tiny_table: Table, tmp_path: Path):
    (tmp_path / "space.json").write_text(TINY_JSON)
    shutil.copy(tiny_table.path, tmp_path / "t.json")
    command = ["validate", str(tmp_path / "t.json"), "--networks", "6", "--seed", "7", "--threads", "1",
               "--macro", str(tmp_path / "space.json"), "--json"]  # fmt: skip
    running = start(command)
    journal = wait_for_lines(tmp_path, 12, running)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert running.returncode == -signal.SIGKILL
    before, witness = whole_lines(journal), tmp_path / "witness"
    resuming = start(command)
    while resuming.poll() is None:
        with contextlib.suppress(FileNotFoundError):  # done, and deleted
            witness.write_bytes(journal.read_bytes())
        time.sleep(0.002)
    output, errors = resuming.communicate()
    assert resuming.returncode == 0, errors
    assert json.loads(output)["n"] == 6
    after = whole_lines(witness)
    assert after[: len(before)] == before
    sets = Counter((e["sample"]["id"], e["sample"]["process"]) for e in map(json.loads, after[1:]))
    assert set(sets.values()) == {1}
    assert {path.name for path in tmp_path.iterdir()} == {"space.json", "t.json", "witness"}


@pytest.mark.real_clock
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_ends_with_7_and_keeps_the_journal(command: list[str], tmp_path: Path):
    running = start(command)
    journal = wait_for_lines(tmp_path, 5, running)
    running.send_signal(signal.SIGINT)
    output, errors = running.communicate(timeout=30)
    assert running.returncode == 7
    assert output == ""
    assert "the same command resumes" in errors
    assert str(journal) in errors
    assert len(entries(journal)) >= 4
    assert not (tmp_path / "t.json").exists()
