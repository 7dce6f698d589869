"""Tasks side by side, and a run on two Ray nodes of this machine, of which one is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from latencykit.errors import InputError, UsageError
from nas.engines import outcomes
from nas.results import read_results
from nas.workspace import Workspace
from tests.nas.tiny_run import BASELINE, CONFIG

EPOCHS = 12
"""Of each training: long enough to be killed in."""


def shout(word: str) -> str:
    if word == "bad":
        raise InputError("bad word")
    return word.upper()


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_task_says_its_word(jobs):
    assert sorted(outcomes(["a", "b", "c"], shout, jobs)) == ["A", "B", "C"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_error_of_a_task_comes_out(jobs):
    with pytest.raises(InputError, match="bad word"):
        list(outcomes(["a", "bad"], shout, jobs))


def sleep_long(folder: str) -> str:
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)
    return folder


@pytest.mark.skipif(not Path("/proc").exists(), reason="who lives is seen there")
def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    """Else they would go on for hours, and a second run beside them."""
    script = tmp_path / "run.py"
    script.write_text(
        "from nas.engines import outcomes\nfrom tests.nas.test_engines import sleep_long\n"
        f"if __name__ == '__main__':\n    list(outcomes([{str(tmp_path / 'pids')!r}] * 2, sleep_long, 2))\n"
    )
    (tmp_path / "pids").mkdir()
    parent = subprocess.Popen([sys.executable, str(script)], env=os.environ | {"PYTHONPATH": os.getcwd()})
    deadline_s = time.monotonic() + 60
    while len(pids := [int(path.name) for path in (tmp_path / "pids").iterdir()]) < 2 and time.monotonic() < deadline_s:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    while (alive := [pid for pid in pids if Path("/proc", str(pid)).exists()]) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    assert (len(pids), alive) == (2, [])


def test_ray_that_is_not_installed_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'latencykit\[cluster\]'"):
        list(outcomes(["a"], shout, 1, "auto"))


@pytest.fixture
def cluster():
    """Two nodes of one processor each."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    found.add_node(num_cpus=1)
    found.wait_for_nodes()
    yield found
    found.shutdown()


def histories(out: Path) -> dict[str, list[dict]]:
    paths = out.glob(f"{BASELINE}/seed*/train/history.jsonl")
    return {path.parts[-3]: [json.loads(line) for line in path.read_text().splitlines()] for path in paths}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_run_loses_nothing_with_a_node_and_does_nothing_twice(cluster, tmp_path):
    config, out = tmp_path / "pairs.toml", tmp_path / "out"
    text = CONFIG[: CONFIG.rindex("[[rows]]")].replace("seeds = [0, 1]", "seeds = [0, 1, 2]")
    config.write_text(text.replace("[train]\nepochs = 1", f"[train]\nepochs = {EPOCHS}"))
    words = ["-m", "nas", "run", str(config), "--out", str(out), "--cluster", cluster.address]
    child = subprocess.Popen(
        [sys.executable, *words], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline_s = time.monotonic() + 120
    while len(histories(out)) < 2 and child.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.05)
    before = histories(out)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    _, complaint = child.communicate(timeout=240)
    assert child.returncode == 0, complaint
    after = histories(out)
    assert sorted(after) == ["seed0", "seed1", "seed2"]
    for seed, epochs in after.items():
        assert [epoch["epoch"] for epoch in epochs] == list(range(EPOCHS + 1))
        assert epochs[: len(before.get(seed, []))] == before.get(seed, [])  # gone on with, not begun anew
    results = read_results(out / "results.csv")
    assert {line.seed for line in results} == {0, 1, 2}
    assert all(Workspace(out).seed(BASELINE, seed).model.exists() for seed in range(3))
