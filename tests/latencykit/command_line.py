"""`latencykit` in this process, as its entry point runs it, and files to run it on."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from latencykit.calibrate import space_needs
from latencykit.cli import main
from latencykit.commands import machine, tables
from latencykit.doctor import Verdict
from latencykit.graph import chain
from latencykit.host import read_cpu
from latencykit.lowering import graph_to_onnx
from latencykit.spec import Conv
from latencykit.table import Table
from latencykit.topology import physical_cpus
from tests.ended import Tool, run_command
from tests.latencykit.made_up import TINY_JSON, unhurried

TOO_MANY = str(len(physical_cpus()) + 1)


def doctor_says(monkeypatch: pytest.MonkeyPatch, verdict: Verdict) -> None:
    for module in (tables, machine):
        monkeypatch.setattr(module, "doctor", lambda: verdict)


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Runs `latencykit WORDS` in this process, on a machine that the doctor calls fit."""
    doctor_says(monkeypatch, Verdict(True, (), read_cpu()))

    return partial(run_command, main, "latencykit")


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.json"
    path.write_text(TINY_JSON)
    return path


@pytest.fixture
def table(tiny_table: Table, tmp_path: Path) -> Path:
    """A copy of the measured table of the tiny space."""
    assert tiny_table.path is not None
    return Path(shutil.copy(tiny_table.path, tmp_path / "table.json"))


@pytest.fixture
def model(tiny_network: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "network.onnx"
    path.write_bytes(tiny_network)
    return path


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A model whose kernels the table does not hold."""
    path = tmp_path / "stranger.onnx"
    path.write_bytes(graph_to_onnx(chain([Conv(24)], [(5, 24, 24)])).SerializeToString())
    return path


@pytest.fixture
def small_builds(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Builds of a space lower few networks and time them hardly."""
    monkeypatch.setattr(tables, "space_needs", partial(space_needs, fit_networks=10, sampled=11))
    with unhurried():
        yield


def build_words(out: Path, space: Path, *more: object) -> tuple[object, ...]:
    return ("build", "--out", out, "--space", space, "--strides", "1", "--threads", "1", "--json", *more)
