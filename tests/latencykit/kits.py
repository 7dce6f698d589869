"""Results of kits on a made-up clock (`benchmarks/synthetic_kit.py`), taken apart and put together again."""

import hashlib
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from latencykit.archive import write_archive
from latencykit.kit_plan import MANIFEST, manifest_of

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
Files = dict[str, bytes]


def benchmark(name: str) -> ModuleType:
    """A script of `benchmarks`, which is no package."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


def signed(files: Files) -> Files:
    """Files with a manifest and a table checksum that fit."""
    kept = {name: content for name, content in files.items() if name != MANIFEST}
    if "table.json" in kept:
        data = json.loads(kept["table.json"])
        data.pop("checksum")
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        checksum = hashlib.sha256(text.encode()).hexdigest()
        kept["table.json"] = json.dumps({"checksum": checksum, **data}).encode()
    return {**kept, MANIFEST: manifest_of(kept)}


def changed(files: Files, name: str, change: Callable[[Any], object]) -> Files:
    """Files after a change to the data of one that is JSON, signed again; `change` may return other data."""
    data = json.loads(files[name])
    other = change(data)
    return signed({**files, name: json.dumps(data if other is None else other).encode()})


def packed(files: Files, path: Path) -> Path:
    """The archive of some files."""
    write_archive(path, files)
    return path
