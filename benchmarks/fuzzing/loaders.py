"""The loaders that are fuzzed: valid files of each, how they are changed, and what is done with what gets in."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fuzzing.json_files import mutate_json
from fuzzing.onnx_files import mutate_onnx
from fuzzing.zip_files import mutate_zip
from latencykit.architecture import architecture_to_json, network_graph, read_architecture
from latencykit.archive import read_archive, write_archive
from latencykit.baselines import Baseline
from latencykit.calibration import CostModel, NetworkTiming
from latencykit.errors import InputError, LatencyKitError
from latencykit.graph import chain
from latencykit.kernels import CALL_OVERHEAD, Kernel, kernel_from_json, kernel_model, kernels_of
from latencykit.keys import Edge
from latencykit.lowering import graph_to_onnx
from latencykit.macro import Macro, read_macro
from latencykit.predict import predict_kernels
from latencykit.rules import admit
from latencykit.runtime import Setting
from latencykit.sample import sample_architectures
from latencykit.schema import to_json
from latencykit.space import instantiate, template
from latencykit.spec import AvgPool, Conv, ConvTranspose, Linear, MaxPool, Resize
from latencykit.table import LoweredNetwork, Row, Table, network_id
from latencykit.table_file import load_table, save_table

ROOT = Path(__file__).resolve().parents[2]
FREE = Setting(threads=1, pinned=False)
SMALL = Macro(image_size=32, segmentation_widths=(2, 3, 4), quality_widths=(2, 3, 4))


@dataclass(frozen=True)
class Loader:
    """What is fuzzed: valid files, how they are changed, and a use of the changed file that raises what it raises."""

    corpus: Callable[[], Sequence[bytes]]
    mutate: Callable[[Sequence[bytes], Random], bytes]
    use: Callable[[Path, int], object]


# Tables

TABLE_LISTS = ("rows", "rows", "rows", "rows", "models", "networks", "timings", "sentinels")
"""Where most changes are made."""


@cache
def table_files() -> Sequence[bytes]:
    """The committed table, cut to a few rows of every kind, and the frozen one of the first schema."""
    whole = load_table(min((ROOT / "luts").glob("*.json")))
    kinds: dict[str, list[Any]] = {"": [whole.row(whole.settings[0], CALL_OVERHEAD)]}
    for row in whole.rows:
        kinds.setdefault(f"{row.level}/{row.origin}/{getattr(row.key, 'op', '')}", []).append(row)
    with tempfile.TemporaryDirectory() as scratch:
        files = []
        for count in (1, 3):
            rows = tuple(dict.fromkeys(row for found in kinds.values() for row in found[:count]))[: 6 * count]
            kept = {row.setting for row in rows}
            sentinels = tuple(sentinel for sentinel in whole.sentinels if sentinel.setting in kept)
            path = Path(scratch) / f"{count}.json"
            cut = replace(whole, rows=rows, sentinels=sentinels, networks=(), timings=(), models=())
            save_table(calibrated(cut), path)
            files.append(path.read_bytes())
    files.append((ROOT / "tests/latencykit/fixtures/table_schema1.json").read_bytes())
    return files


def calibrated(table: Table) -> Table:
    """A table with a little of all that calibration adds; its figures are made up."""
    setting = table.settings[0]
    network = sample_architectures(SMALL, 1, 4)[0]
    kernels = {row.key: 2 for row in table.rows if row.setting == setting and isinstance(row.key, Kernel)}
    edges = [Edge(SMALL, None, 0, ""), Edge(SMALL, "down", 0, "max_pool"), Edge(SMALL, "up", 0, "conv", 30.0)]
    rows = [Row(edge, setting, "fitted", 0, 0, 0, None, 12.5, 1.5) for edge in edges]
    rows.append(Row(Edge(SMALL, "up", 0, "zero"), setting, "defined", 0, 0, 0))
    covariance = ((0.1, 0.0), (0.0, 0.2))
    return replace(
        table.with_rows(rows),
        networks=(LoweredNetwork(network_id(network), network, kernels), LoweredNetwork("model-00", None, kernels)),
        timings=tuple(NetworkTiming(setting, pace_hz, "model-00", (90.5, 91.0)) for pace_hz in (None, 30.0)),
        models=(
            CostModel(setting, None, {"call": 1.5, "sum_us": 1.1}, covariance, 2.5, 1.5, 24),
            CostModel(setting, 30.0, {"call": 2.5, "sum_us": 1.2}, covariance, 3.5, 2.5, 24),
        ),
        validations=({"n": 3, "set": "uniform", "levels": {}},),
    )


def signed(data: Any, rng: Random) -> Any:
    """Data with a fitting checksum in most cases, so that what is wrong gets behind that check."""
    if isinstance(data, dict) and rng.random() < 0.85:
        content = {key: value for key, value in data.items() if key != "checksum"}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        data["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    return data


def use_table(path: Path, number: int) -> None:
    table = load_table(path)
    with let_in("a table"):
        table.require_same_machine(table.cpu, table.runtime)
        for row in table.rows:
            assert table.row(row.setting, row.key) is row
            if isinstance(row.key, Kernel):
                use_kernel(row.key)
        if number % 4 == 0:
            table.to_frame().to_json(orient="records")
            save_table(table, path)
            kept = path.read_bytes()
            save_table(load_table(path), path)
            assert path.read_bytes() == kept
    for network in table.networks:
        for setting in table.settings:
            use_network(table, setting, network)


def use_network(table: Table, setting: Setting, network: LoweredNetwork) -> None:
    """Whatever a table says, a prediction from it is a number or refused."""
    for pace_hz in (None, 30.0):
        try:
            found = predict_kernels(table, setting, network.kernels, pace_hz=pace_hz)
        except LatencyKitError:
            continue
        assert all(map(math.isfinite, (found.latency_us, found.raw_us, *found.interval_us))), found


@contextmanager
def let_in(what: str) -> Iterator[None]:
    """Whatever an accepted file leads to is no refusal."""
    try:
        yield
    except LatencyKitError as error:
        raise AssertionError(f"{what} was accepted, and then {error}") from error


def use_kernel(kernel: Kernel) -> None:
    """A kernel survives JSON, and becomes a model or is refused."""
    with let_in("a kernel"):
        data = json.loads(json.dumps(to_json(kernel), allow_nan=False))
        assert kernel_from_json(data, "again") == kernel
        assert str(kernel)
    if kernel.moved_bytes < 1 << 22:
        try:
            kernel_model(kernel)
        except InputError:
            return


# Macro configurations and architectures


@cache
def macro_files() -> Sequence[bytes]:
    macros = (Macro(), SMALL, replace(SMALL, segmentation_stride=2, quality_stride=4, head="transposed_conv"))
    return [json.dumps(asdict(macro)).encode() for macro in macros]


def use_macro(path: Path, number: int) -> None:
    macro = read_macro(str(path))
    assert template(macro).nodes
    assert instantiate(sample_architectures(macro, 1, number)[0]).macs > 0


@cache
def architecture_files() -> Sequence[bytes]:
    networks = [*sample_architectures(SMALL, 3, 1), *sample_architectures(Macro(), 1, 2), Baseline(), Baseline(2, 1, 2)]
    return [json.dumps(architecture_to_json(network)).encode() for network in networks]


def use_architecture(path: Path, _: int) -> None:
    graph = network_graph(read_architecture(path))
    assert graph.parameters > 0
    assert graph.macs > 0


# ONNX


def _plain(node: onnx.NodeProto, inputs: dict[str, tuple[int, ...]], output: tuple[int, ...], *constants: Any) -> bytes:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    written = [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants]
    graph = helper.make_graph([node], "g", values, written, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _branch(op: str) -> onnx.GraphProto:
    output = helper.make_tensor_value_info("b", TensorProto.FLOAT, (1, 4))
    return helper.make_graph([helper.make_node(op, ["x"], ["b"])], op, [], [output])


@cache
def onnx_files() -> Sequence[bytes]:
    """Small models of every kind of kernel, control flow and recurrent ones too, and a whole pair."""
    chains = (
        ((Conv(4), MaxPool()), ((3, 8, 8),)),
        ((Conv(16, groups=16), Conv(8, 1)), ((16, 6, 6),)),
        ((ConvTranspose(2), Resize(2)), ((4, 4, 4),)),
        ((AvgPool(4, 4, 0), Linear(2)), ((3, 4, 4),)),
    )
    files = [graph_to_onnx(chain(operations, shapes)).SerializeToString() for operations, shapes in chains]
    one = np.ones(4, np.float32)
    switch = helper.make_node("If", ["c"], ["y"], then_branch=_branch("Relu"), else_branch=_branch("Neg"))
    normal = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])
    names = ["x", "w", "r"]
    lstm = helper.make_node("LSTM", names, ["", "y"], hidden_size=2, activations=["Sigmoid", "Tanh", "Tanh"])
    recurrent = ("w", np.ones((1, 8, 3), np.float32)), ("r", np.ones((1, 8, 2), np.float32))
    shape = ("shape", np.array([2, 3], np.int64))
    files += [
        _plain(switch, {"x": (1, 4)}, (1, 4), ("c", np.array(True))),
        _plain(normal, {"x": (1, 4, 2, 2)}, (1, 4, 2, 2), *[(name, one) for name in "sbmv"]),
        _plain(lstm, {"x": (1, 1, 3)}, (1, 1, 2), *recurrent),
        _plain(helper.make_node("ConstantOfShape", ["shape"], ["y"]), {}, (2, 3), shape),
        _plain(helper.make_node("Expand", ["x", "shape"], ["y"]), {"x": (1, 3)}, (2, 3), shape),
    ]
    pair = graph_to_onnx(instantiate(sample_architectures(SMALL, 1, 3)[0])).SerializeToString()
    return [*files, *files, *files, pair]


def use_onnx(path: Path, _: int) -> None:
    data = path.read_bytes()
    admit(data)
    for kernel in kernels_of(data, FREE, path.parent):
        use_kernel(kernel)


# Archives


@cache
def archive_files() -> Sequence[bytes]:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "a.zip"
        files = []
        for content in ({"a.json": b"{}", "graphs/b.onnx": b"\0" * 90, "c": b""}, {"a": b"x" * 500}, {}):
            write_archive(path, content)
            files.append(path.read_bytes())
    return files


def use_archive(path: Path, _: int) -> None:
    files = read_archive(path, max_total_bytes=1 << 20, max_files=20)
    assert sum(map(len, files.values())) <= 1 << 20
    with let_in("an archive"):
        write_archive(path, files)
        assert read_archive(path) == files


LOADERS = {
    "table": Loader(table_files, partial(mutate_json, finish=signed, focus=TABLE_LISTS), use_table),
    "macro": Loader(macro_files, mutate_json, use_macro),
    "architecture": Loader(architecture_files, mutate_json, use_architecture),
    "onnx": Loader(onnx_files, mutate_onnx, use_onnx),
    "archive": Loader(archive_files, mutate_zip, use_archive),
}
