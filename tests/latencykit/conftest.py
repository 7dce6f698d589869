"""Measured once for all tests of the measuring side: a tiny network and a table of its space, on the real clock."""

from pathlib import Path

import pytest

from latencykit.calibrate import SpaceNeeds, fit_table, space_needs
from latencykit.doctor import Verdict
from latencykit.graph import chain
from latencykit.host import read_cpu
from latencykit.lowering import graph_to_onnx
from latencykit.runtime import output_types
from latencykit.sample import sample_architectures
from latencykit.space import instantiate
from latencykit.spec import Sigmoid
from latencykit.sweep import build, plan_build
from latencykit.table import Table
from tests.latencykit.command_line import model, small_builds, space, stranger, table, tool  # noqa: F401 - fixtures
from tests.latencykit.made_up import ONE, QUICK, TINY, FakeWorkers, unhurried


@pytest.fixture(scope="session", autouse=True)
def denormals_of_this_process() -> None:
    """Let the first session be one that keeps denormals: what it says stays, and other tests draw denormal floats."""
    output_types(graph_to_onnx(chain([Sigmoid()], [(1, 1, 1)])).SerializeToString())


@pytest.fixture(scope="session")
def tiny_network() -> bytes:
    """A sampled network of the tiny space, ONNX."""
    return graph_to_onnx(instantiate(sample_architectures(TINY, 1, seed=3)[0])).SerializeToString()


@pytest.fixture(scope="session")
def tiny_needs() -> SpaceNeeds:
    """What a table of the tiny space is made from; few networks hold all of its kernels."""
    return space_needs([TINY], fit_networks=20, sampled=11)


@pytest.fixture(scope="session")
def tiny_table(tiny_needs: SpaceNeeds, tmp_path_factory: pytest.TempPathFactory) -> Table:
    """A table of the whole tiny space on this machine, calibrated, with edge costs; its file is at `.path`."""
    path: Path = tmp_path_factory.mktemp("tiny") / "table.json"
    with unhurried():
        plan = plan_build(path, [ONE], tiny_needs.keys, tiny_needs.calibration)
        return build(
            path, plan, Verdict(True, (), read_cpu()), QUICK, fit=lambda t: fit_table(t, tiny_needs.samples)
        ).table


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeWorkers:
    return FakeWorkers(tmp_path, monkeypatch)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "luts" / "table.json"
