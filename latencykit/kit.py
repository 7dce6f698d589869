"""Makes a kit: one archive that measures a machine which has no network, no torch and no right to install.

It holds the sources that the runner imports, computed from these sources themselves, and what it is to measure. Whole
networks travel as architectures and seeds: the same sampler and the same lowering run on the target.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from latencykit.archive import write_archive
from latencykit.bounds import MAX_MODEL_BYTES
from latencykit.errors import InputError
from latencykit.kit_plan import MANIFEST, PLAN, KitPlan, manifest_of, plan_to_bytes
from latencykit.outside import open_outside
from latencykit.runtime import Setting
from latencykit.table import model_id

TARGET_PACKAGES = ("numpy", "onnx", "onnxruntime")
TARGET_PYTHON = "3.11"
"""The oldest that the runner works with."""
_FOLDER = Path(__file__).parent
_STARTED = ("kit_runner", "worker")
"""Modules that the target starts: the rest is what they import."""
README = """\
1. Unpack this into a folder on the machine to measure; Python {python} or later, numpy, onnx and onnxruntime suffice.
2. Stop other programs. In that folder: python run.py --out result.zip          (--quick is a trial of a minute)
3. What is missing is named, with the command that puts it beside run.py; nothing is installed or written elsewhere.
4. Stopped or killed, the same command goes on where it was. How long it takes is said while it runs.
5. Bring result.zip back: latencykit kit ingest result.zip --out TABLE.json
"""


def make_kit(out: Path, plan: KitPlan, models: Mapping[str, bytes], wheels: Mapping[str, bytes]) -> dict[str, bytes]:
    """Write a kit, wholly or not at all; equal contents give equal bytes.

    Args:
        out: the archive.
        plan: what to measure.
        models: the user's own models by file name, as the plan lists them.
        wheels: packages for the target by file name.

    Returns:
        The archive's files.
    """
    files = {
        "run.py": (_FOLDER / "kit_start.py").read_bytes(),
        "README.txt": README.format(python=TARGET_PYTHON).encode(),
        PLAN: plan_to_bytes(plan),
        **runner_sources(),
        **{f"models/{name}": content for name, content in models.items()},
        **{f"wheels/{name}": content for name, content in wheels.items()},
    }
    files[MANIFEST] = manifest_of(files)
    write_archive(out, files)
    return files


def runner_sources() -> dict[str, bytes]:
    """The sources of the runner, of the measuring process and of all that these import of this package."""
    found = {"latencykit/__init__.py": (_FOLDER / "__init__.py").read_bytes()}
    todo = list(_STARTED)
    while todo:
        name = f"latencykit/{todo.pop()}.py"
        if name not in found:
            found[name] = (_FOLDER.parent / name).read_bytes()
            todo += _siblings(ast.parse(found[name]))
    return found


def _siblings(tree: ast.Module) -> Iterator[str]:
    """Modules of this package that a module imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("latencykit."):
            yield node.module.removeprefix("latencykit.")


def read_models(folder: Path) -> dict[str, bytes]:
    """The user's models by file name, each opened in a limited process first.

    Raises:
        InputError: naming the file that is refused; a folder without any, or with the same model twice.
    """
    paths = sorted(folder.glob("*.onnx"))
    if not paths:
        raise InputError(f"{folder} is no folder that holds *.onnx; expected a folder of models.")
    models = {path.name: open_outside(path, "kernels", Setting(threads=1, pinned=False)).model for path in paths}
    names: dict[str, str] = {}
    for name, content in models.items():
        if (other := names.setdefault(model_id(content), name)) != name:
            raise InputError(f"{folder}: {other} and {name} are the same model; keep one.")
    return models


def pinned_packages() -> list[str]:
    """The packages that the target needs, in this host's versions."""
    return [f"{name}=={version(name)}" for name in TARGET_PACKAGES]


def download_wheels(platforms: Sequence[str], python: str) -> dict[str, bytes]:
    """Packages for a target by file name, in this host's versions, with all that they need.

    Args:
        platforms: as pip names them, such as win_amd64 or manylinux_2_28_x86_64; any of them will do.
        python: the target's version, such as 3.11.

    Raises:
        InputError: pip finds none, or is not there.
    """
    with tempfile.TemporaryDirectory() as scratch:
        where = [word for platform in platforms for word in ("--platform", platform)]
        command = [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--dest", scratch),
            *("--python-version", python, *where, *pinned_packages()),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            complaints = [line for line in done.stderr.splitlines() if line.strip() and "[notice]" not in line]
            raise InputError(
                f"pip cannot get {', '.join(pinned_packages())} for {', '.join(platforms)} and Python {python}: "
                f"{' '.join(complaints[-2:]) or 'no message'}. Name another --wheels or --python-version, or make the "
                "kit without."
            )
        found = {path.name: path.read_bytes() for path in sorted(Path(scratch).iterdir())}
    if too_large := [name for name, content in found.items() if len(content) > MAX_MODEL_BYTES]:
        raise InputError(f"the package {too_large[0]} has more than {MAX_MODEL_BYTES} bytes.")
    return found
