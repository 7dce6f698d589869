"""Options and arguments that several commands share, and what they stand for."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import click

from latencykit.architecture import network_graph, read_architecture
from latencykit.coverage import stride_macros
from latencykit.doctor import Verdict
from latencykit.errors import InputError, UnfitError, UsageError
from latencykit.host import read_cpu
from latencykit.kernels import Kernel, kernels_of, read_model
from latencykit.lowering import graph_to_onnx
from latencykit.macro import Macro, read_macro
from latencykit.runtime import Setting, runtime_version
from latencykit.table import LoweredNetwork, Table, model_id, network_id
from latencykit.table_file import load_table
from latencykit.topology import check_threads

FILE = click.Path(path_type=Path)
stride_option = click.option("--stride", type=int, help="Input stride of both networks; overrides --macro's.")
macro_option = click.option("--macro", "macro_path", type=FILE, help="JSON file of a macro configuration.")
pace_option = click.option("--pace", type=float, help="Calls a second; without it back to back.")


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


def model_kernels(path: Path, setting: Setting) -> list[Kernel]:
    """The kernels of an ONNX file or an `architecture.json` on this CPU."""
    is_architecture = path.suffix == ".json"
    model = graph_to_onnx(network_graph(read_architecture(path))) if is_architecture else read_model(path)
    with tempfile.TemporaryDirectory() as scratch:
        return kernels_of(model.SerializeToString(), setting, Path(scratch))


def lowered_model(path: Path) -> LoweredNetwork:
    """An ONNX file or an `architecture.json` as this CPU runs it."""
    network = read_architecture(path) if path.suffix == ".json" else None
    name = network_id(network) if network else _id_of_file(path)
    return LoweredNetwork(name, network, Counter(model_kernels(path, Setting(threads=1, pinned=False))))


def kernels_for(table: Table, path: Path) -> Mapping[Kernel, int]:
    """The kernels that a table's CPU runs for a model: as the table brought them, or as this CPU of its kind has them.

    Raises:
        NotComparableError: neither is the case.
    """
    name = network_id(read_architecture(path)) if path.suffix == ".json" else _id_of_file(path)
    if known := table.network(name):
        return known.kernels
    table.require_same_instructions(read_cpu())
    return lowered_model(path).kernels


def _id_of_file(path: Path) -> str:
    try:
        return model_id(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def table_of_this_machine(path: Path) -> Table:
    """A table that this machine's timing may be held against; raises `NotComparableError`."""
    table = load_table(path)
    table.require_same_machine(read_cpu(), {"onnxruntime": runtime_version()})
    return table


def setting_of(table: Table, threads: int) -> Setting:
    """A table's setting; what cannot be run here is refused before the table is asked for it."""
    check_threads(threads)
    return table.setting(threads)


def require_fit(verdict: Verdict) -> None:
    """Raise `UnfitError` with the doctor's first fatal reason."""
    for reason in verdict.reasons:
        if reason.fatal:
            raise UnfitError(
                f"{reason.code} is {reason.value}, expected {reason.expected}: {reason.remedy}; or pass --force"
            )
