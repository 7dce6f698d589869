"""Options and arguments that several commands share, and what they stand for."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import click

from latencykit.architecture import network_graph, read_architecture
from latencykit.bounds import MAX_MODEL_BYTES
from latencykit.coverage import stride_macros
from latencykit.errors import UsageError
from latencykit.files import read_bytes
from latencykit.instructions import used_cpu
from latencykit.kernels import Kernel, kernels_of
from latencykit.lowering import graph_to_onnx
from latencykit.macro import Macro, read_macro
from latencykit.outside import open_outside
from latencykit.runtime import Setting, runtime_version
from latencykit.table import LoweredNetwork, Table, model_id, network_id
from latencykit.table_file import load_table
from latencykit.topology import check_threads

FILE = click.Path(path_type=Path)
stride_option = click.option("--stride", type=int, help="Input stride of both networks; overrides --macro's.")
macro_option = click.option("--macro", "macro_path", type=FILE, help="JSON file of a macro configuration.")
PACE = click.FloatRange(min=0, min_open=True)
pace_option = click.option("--pace", type=PACE, help="Calls a second; without it back to back.")


def numbers(option: str, text: str) -> list[int]:
    """The whole numbers of a list with commas; raises `UsageError`."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"{option} is {text!r}; numbers with commas expected, such as 1,2") from error
    if min(found) < 1:
        raise UsageError(f"{option} is {text!r}; every number must be at least 1.")
    return list(dict.fromkeys(found))


def macro_of(path: Path | None, stride: int | None) -> Macro:
    """The macro configuration of `--macro` and `--stride`."""
    macro = read_macro(str(path)) if path else Macro()
    return stride_macros(macro, [stride])[0] if stride is not None else macro


def lowered_model(path: Path) -> LoweredNetwork:
    """An ONNX file, opened in a limited process, or an `architecture.json` as this CPU runs it."""
    setting = Setting(threads=1, pinned=False)
    if path.suffix != ".json":
        opened = open_outside(path, "kernels", setting)
        return LoweredNetwork(model_id(opened.model), None, Counter(opened.kernels))
    network = read_architecture(path)
    model = graph_to_onnx(network_graph(network)).SerializeToString()
    with tempfile.TemporaryDirectory() as scratch:
        return LoweredNetwork(network_id(network), network, Counter(kernels_of(model, setting, Path(scratch))))


def kernels_for(table: Table, path: Path) -> Mapping[Kernel, int]:
    """The kernels that a table's CPU runs for a model: as the table brought them, or as this CPU of its kind has them.

    Raises:
        NotComparableError: neither is the case.
    """
    known = table.network(_name_of(path))
    if known is None:
        table.require_same_kernels(used_cpu(), {"onnxruntime": runtime_version()})
        known = lowered_model(path)
    return known.kernels


def _name_of(path: Path) -> str:
    if path.suffix == ".json":
        return network_id(read_architecture(path))
    return model_id(read_bytes(path, MAX_MODEL_BYTES, follow=False))


def table_of_this_machine(path: Path) -> Table:
    """A table that this machine's timing may be held against; raises `NotComparableError`."""
    table = load_table(path)
    table.require_same_machine(used_cpu(), {"onnxruntime": runtime_version()})
    return table


def setting_of(table: Table, threads: int) -> Setting:
    """A table's setting; what cannot be run here is refused before the table is asked for it."""
    check_threads(threads)
    return table.setting(threads)
