"""`architecture.json`: which network pair, as data, never as code."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latencykit.baselines import Baseline, baseline_graph
from latencykit.builder import floor_graph
from latencykit.errors import InputError
from latencykit.files import write_json
from latencykit.graph import Graph
from latencykit.macro import Macro
from latencykit.schema import decode, naming, read_json
from latencykit.space import Architecture, CellType, instantiate

ARCHITECTURE_SCHEMA = 1
MAX_FILE_BYTES = 1_000_000

Network = Architecture | Baseline
"""Everything that a graph can be made of: a member of the search space, or a hand-made pair."""


def network_graph(network: Network) -> Graph:
    """The plain graph of a network pair."""
    return instantiate(network) if isinstance(network, Architecture) else baseline_graph(network)


def network_floor(network: Network) -> Graph:
    """A network pair without its two networks: the part of its latency that strides, head and image size decide."""
    if isinstance(network, Baseline):
        stride = network.stride
        return floor_graph(network.image_size, stride, stride, stride, network.head, "entropy")
    m = network.macro
    return floor_graph(m.image_size, m.segmentation_stride, m.logit_stride, m.quality_stride, m.head, m.uncertainty)


def architecture_to_json(network: Network) -> dict[str, Any]:
    """A network pair as JSON data; `architecture_from_json` reads it back."""
    if isinstance(network, Baseline):
        return {"schema": ARCHITECTURE_SCHEMA, "space": "unet-resnet18", "macro": asdict(network)}
    choices = {cell_type: list(chosen) for cell_type, chosen in network.choices.items()}
    return {"schema": ARCHITECTURE_SCHEMA, "space": "paper", "macro": asdict(network.macro), "choices": choices}


def architecture_from_json(data: Any, where: str) -> Network:
    """The network pair that JSON data describes; raises `InputError` naming `where`."""
    file = decode(_ArchitectureFile, data, where)
    if file.schema != ARCHITECTURE_SCHEMA:
        raise InputError(f"{where}: architecture schema {ARCHITECTURE_SCHEMA} expected, found {file.schema}.")
    if file.space == "unet-resnet18":
        if file.choices is not None:
            raise InputError(f"{where}: the space 'unet-resnet18' has no `choices`.")
        return decode(Baseline, file.macro, f"{where}: macro")
    if file.space != "paper":
        raise InputError(f"{where}: unknown space {file.space!r}; known are 'paper' and 'unet-resnet18'.")
    if file.choices is None:
        raise InputError(f"{where}: the space 'paper' needs `choices`; `latencykit sample` writes examples.")
    macro = decode(Macro, file.macro, f"{where}: macro")
    with naming(where):
        return Architecture(macro, file.choices)


def read_architecture(path: Path) -> Network:
    """Read `architecture.json`; raises `InputError` naming the file."""
    return architecture_from_json(read_json(path, MAX_FILE_BYTES), str(path))


def write_architecture(path: Path, network: Network) -> None:
    """Write `architecture.json`, wholly or not at all."""
    write_json(path, architecture_to_json(network))


@dataclass(frozen=True)
class _ArchitectureFile:
    schema: int
    space: str
    macro: dict[str, Any]
    choices: dict[CellType, tuple[str, ...]] | None = None
