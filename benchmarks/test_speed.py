"""How fast this project's own steps are: `python -m pytest benchmarks/test_speed.py --benchmark-only`.

Nothing here measures a network; the table is made up. Compare two states of the code on one machine with
`--benchmark-save NAME` and `--benchmark-compare`.
"""

import itertools
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from latencykit.edges import fit_costs
from latencykit.host import read_cpu
from latencykit.kernels import CALL_OVERHEAD, Kernel, kernels_of
from latencykit.lowering import graph_to_onnx
from latencykit.macro import Macro
from latencykit.measurement import Measurement
from latencykit.predict import predict_kernels
from latencykit.runtime import Setting, runtime_version
from latencykit.sample import sample_architectures
from latencykit.space import Architecture, instantiate
from latencykit.table import Table, make_row
from latencykit.table_file import load_table, save_table

PAPER = Macro()
ONE = Setting(threads=1)
FITTED, HELD_OUT = 240, 48


@pytest.fixture(scope="module")
def architectures() -> list[Architecture]:
    return sample_architectures(PAPER, FITTED + HELD_OUT, seed=1)


@pytest.fixture(scope="module")
def model(architectures: list[Architecture]) -> bytes:
    return bytes(graph_to_onnx(instantiate(architectures[0])).SerializeToString())


@pytest.fixture(scope="module")
def kernels(model: bytes, tmp_path_factory: pytest.TempPathFactory) -> list[Kernel]:
    return kernels_of(model, ONE, tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="module")
def table(kernels: list[Kernel]) -> Table:
    """A warm table: its rows are indexed and their intervals known."""
    rng = np.random.default_rng(0)
    rows = [
        make_row(key, ONE, Measurement(tuple(map(tuple, rng.uniform(5, 6, (3, 15))))))
        for key in dict.fromkeys([CALL_OVERHEAD, *kernels])
    ]
    found = Table(read_cpu(), {"onnxruntime": runtime_version()}, {}, tuple(rows))
    predict_kernels(found, ONE, kernels)
    return found


def test_predict_one_network_from_a_warm_table(
    benchmark: BenchmarkFixture, table: Table, kernels: list[Kernel]
) -> None:
    assert benchmark(predict_kernels, table, ONE, kernels).latency_us > 0


def test_predict_one_network_from_its_architecture(
    benchmark: BenchmarkFixture, table: Table, architectures: list[Architecture], tmp_path: Path
) -> None:
    """The bar is 300 ms: lowered, optimised, cut into kernels, looked up."""
    benchmark.extra_info["bar_s"] = 0.3

    def predict() -> float:
        model = bytes(graph_to_onnx(instantiate(architectures[0])).SerializeToString())
        return predict_kernels(table, ONE, kernels_of(model, ONE, tmp_path)).latency_us

    assert benchmark(predict) > 0


def test_price_1000_architectures_by_edge_costs(benchmark: BenchmarkFixture, architectures: list[Architecture]) -> None:
    """The bar is 100 000 a second."""
    benchmark.extra_info["bar_s"] = 0.01
    sums_ms = np.random.default_rng(0).uniform(20, 35, len(architectures))
    costs = fit_costs(architectures, sums_ms, FITTED)
    thousand = list(itertools.islice(itertools.cycle(architectures), 1000))
    assert min(benchmark(lambda: [costs.total_ms(architecture) for architecture in thousand])) > 0


def test_lower_a_network_of_the_papers_size(benchmark: BenchmarkFixture, architectures: list[Architecture]) -> None:
    graph = instantiate(architectures[0])
    assert benchmark(lambda: graph_to_onnx(graph).SerializeToString())


def test_cut_out_the_kernels_of_a_network(benchmark: BenchmarkFixture, model: bytes, tmp_path: Path) -> None:
    assert benchmark(kernels_of, model, ONE, tmp_path)


def test_expand_100_architectures(benchmark: BenchmarkFixture, architectures: list[Architecture]) -> None:
    assert len(benchmark(lambda: [instantiate(architecture) for architecture in architectures[:100]])) == 100


def test_fit_the_costs_of_a_search(benchmark: BenchmarkFixture, architectures: list[Architecture]) -> None:
    sums_ms = np.random.default_rng(0).uniform(20, 35, len(architectures))
    assert benchmark(fit_costs, architectures, sums_ms, FITTED).fixed_ms > 0


def test_load_a_table(benchmark: BenchmarkFixture, table: Table, tmp_path: Path) -> None:
    save_table(table, tmp_path / "table.json")
    assert benchmark(load_table, tmp_path / "table.json").rows
