"""A run's state on disk: safetensors and JSON, whole or absent, no pickle.

`state.json` names the tensor file that belongs to it and its hash. A save writes a new tensor file, then replaces
`state.json`, then deletes the old tensors; killed anywhere, the folder holds one consistent state.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import Optimizer

from latencykit.errors import InputError
from latencykit.files import write_bytes, write_json
from latencykit.schema import read_json
from nas.distributed import is_first

CHECKPOINT_SCHEMA = 1
STATE_FILE = "state.json"
MAX_STATE_BYTES = 100_000_000
MAX_TENSOR_BYTES = 4_000_000_000


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and everything else as JSON data."""

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace what the folder holds; of several processes the first one does."""
    if not is_first():
        return
    data = tensors_to_bytes(checkpoint.tensors)
    digest = hashlib.sha256(data).hexdigest()
    name = f"{digest[:16]}.safetensors"
    write_bytes(folder / name, data)
    files = {"schema": CHECKPOINT_SCHEMA, "tensors": name, "sha256": digest}
    write_json(folder / STATE_FILE, {**files, "state": dict(checkpoint.state)})
    for old in folder.glob("*.safetensors"):
        if old.name != name:
            old.unlink()


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """What `save_checkpoint` wrote; None where there is nothing.

    Raises:
        InputError: files that are damaged, of another schema, or do not belong together.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    file = read_json(path, MAX_STATE_BYTES)
    if not isinstance(file, dict) or file.get("schema") != CHECKPOINT_SCHEMA or not isinstance(file.get("state"), dict):
        raise InputError(f"{path}: checkpoint schema {CHECKPOINT_SCHEMA} expected; delete {folder} to start afresh.")
    name, digest = file.get("tensors"), file.get("sha256")
    if not isinstance(name, str) or Path(name).name != name:
        raise InputError(f"{path}: `tensors` is {name!r}; expected the name of a file beside it.")
    data = _read(folder / name)
    if hashlib.sha256(data).hexdigest() != digest:
        raise InputError(f"{folder / name} is not the file that {path} names; delete {folder} to start afresh.")
    return Checkpoint(tensors_from_bytes(data, folder / name), file["state"])


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors in the safetensors format."""
    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})


def tensors_from_bytes(data: bytes, path: Path) -> dict[str, Tensor]:
    """Tensors in the safetensors format; raises `InputError` naming the path."""
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file; raises `InputError`."""
    return tensors_from_bytes(_read(path), path)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_TENSOR_BYTES:
            raise InputError(f"{path} is {path.stat().st_size} bytes; at most {MAX_TENSOR_BYTES} are read.")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def fingerprint(**parts: Any) -> str:
    """Hash of what a run depends on, JSON data, so that it never goes on from another run's checkpoint."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def check_fingerprint(checkpoint: Checkpoint, expected: str, folder: Path) -> None:
    """Raise `InputError` where a checkpoint is another run's."""
    if checkpoint.state.get("fingerprint") != expected:
        raise InputError(
            f"{folder} holds a run with another configuration, seed, data or costs; choose another folder, or delete "
            "this one to start afresh."
        )


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with `prefix/` before each name."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under `prefix/`, without it."""
    return {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}


def optimiser_tensors(optimiser: Optimizer) -> dict[str, Tensor]:
    """An optimiser's state, `index/key` by parameter; rates and the like come from the configuration instead."""
    return {
        f"{index}/{key}": value
        for index, entries in optimiser.state_dict()["state"].items()
        for key, value in entries.items()
        if value is not None
    }


def restore_optimiser(optimiser: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put a state back; the optimiser keeps the parameters that it was made with."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def restore_module(module: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Copy tensors into a module's own; raises `InputError` where names or shapes differ."""
    try:
        module.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        raise InputError(f"{where} does not fit this network: {str(error).splitlines()[-1].strip()}") from error


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's state."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
