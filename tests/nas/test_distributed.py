"""Two processes on this machine, started by `torchrun`, against one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from latencykit.errors import UsageError
from nas import distributed
from nas.distributed import average_gradients, first_alone, is_first, mean, processes, share
from tests.nas.tiny_run import nas

CLOCK = {"seconds", "images_per_s"}
DERIVED = {"op_counts", "derived_ms", "dice_selection", "dice_derived", "mae_selection", "mae_derived"}
"""Of the strongest candidates: which of two that are equally strong is one, rounding decides."""
TOGETHER = "--standalone", "--nproc-per-node", "2"


def history(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def numbers(record: dict) -> dict:
    return {key: value for key, value in record.items() if key not in CLOCK | DERIVED | {"phase"}}


def torchrun(*words: object) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *map(str, words)]


def environment() -> dict[str, str]:
    """Of the launcher; with its store shared, new processes look for the killed ones (pytorch issue 135712)."""
    return os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


@pytest.fixture(scope="module")
def words(finished_run, tmp_path_factory):
    """A search of six epochs on the tiny run's table.

    Its architecture's steps are small: Adam's are as long for a gradient that is nothing but rounding.
    """
    config = tmp_path_factory.mktemp("together") / "tiny.toml"
    text = finished_run.config.read_text()
    for short, longer in (
        ("epochs = 2\nwarmup_epochs = 1", "epochs = 6\nwarmup_epochs = 1\narchitecture_reach = 0.36"),
        ("batch_size = 4\nmax_steps_per_epoch = 1", "batch_size = 4\nmax_steps_per_epoch = 2"),
    ):
        assert short in text
        text = text.replace(short, longer)
    config.write_text(text)
    return "search", "--config", config, "--table", finished_run.out / "table.json", "--out"


@pytest.fixture(scope="module")
def alone(words, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    assert nas(*words, out).code == 0
    return history(out)


def assert_alike(found: list[dict], expected: list[dict]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one["phase"] == other["phase"]
        assert one.keys() == other.keys()
        for key, value in numbers(other).items():
            assert one[key] == pytest.approx(value, rel=0.02, abs=2e-3), key


def test_two_processes_take_the_steps_of_one(words, alone, tmp_path):
    ended = subprocess.run(
        torchrun(*TOGETHER, "-m", "nas", *words, tmp_path, "--json"), capture_output=True, text=True, env=environment()
    )
    assert ended.returncode == 0, ended.stderr
    assert_alike(history(tmp_path), alone)
    assert json.loads(ended.stdout)["command"] == "search"  # printed once


def test_a_killed_worker_is_replaced_and_the_run_goes_on_to_the_same_end(words, alone, tmp_path):
    command = torchrun(*TOGETHER, "--max-restarts", 1, "--monitor-interval", 0.2, "-m", "nas", *words, tmp_path)
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment())
    deadline_s = time.monotonic() + 120
    while not (tmp_path / "history.jsonl").exists() and child.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.02)
    os.kill(worker_of(child.pid), signal.SIGKILL)
    _, complaint = child.communicate(timeout=180)
    assert child.returncode == 0, complaint
    assert "exitcode: -9" in complaint
    assert_alike(history(tmp_path), alone)


def worker_of(parent: int) -> int:
    """A process that the launcher started."""
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if f"\nPPid:\t{parent}\n" in status.read_text():
                return int(status.parent.name)
    raise AssertionError("the launcher has no worker")


def test_one_process_is_left_as_it_is():
    batch = torch.arange(3.0)
    assert (processes(), is_first()) == (1, True)
    assert share(batch) is batch
    assert mean(batch) is batch
    assert first_alone(lambda: 7) == 7
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    average_gradients([weight])
    assert weight.grad.tolist() == [1, 1]


def test_shares_of_different_sizes_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    with pytest.raises(UsageError, match="3 frames for 2 processes"):
        share(torch.zeros(3, 1))
