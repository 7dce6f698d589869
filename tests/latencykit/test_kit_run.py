"""A whole kit for real: made here, run where nothing else can be imported, brought back, used."""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latencykit.architecture import write_architecture
from latencykit.cli import main
from latencykit.sample import sample_architectures
from latencykit.table_file import load_table, save_table
from tests.latencykit.made_up import PYTHON, TINY, TINY_JSON

pytestmark = pytest.mark.real_clock

BLOCKED = (
    *("msgspec", "click", "rich", "pandas", "scipy", "matplotlib", "torch", "cpuinfo", "psutil", "nas", "pytest"),
    *("hypothesis", "safetensors", "PIL", "moocore", "jinja2", "monai", "nibabel", "tests"),
)

SITE = """
import os, sys
from importlib.machinery import PathFinder

class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in {blocked!r}:
            raise ModuleNotFoundError("this machine has no " + top, name=name)
        if name == "latencykit":
            found = PathFinder.find_spec(name)
            if found is None or not found.origin.startswith({kit!r}):
                raise ModuleNotFoundError("this machine has no latencykit but the kit's", name=name)
        return None

sys.meta_path.insert(0, Blocker())

if os.environ.get("BARE_SYSTEM"):
    import builtins, io
    for name in ("sched_getaffinity", "sched_setaffinity", "fork", "forkpty", "getloadavg", "sysconf"):
        if hasattr(os, name):
            delattr(os, name)

    def hiding(real):
        def look(path, *words, **named):
            text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
            if text in ("/proc", "/sys") or text.startswith(("/proc/", "/sys/")):
                raise FileNotFoundError(2, "No such file or directory", text)
            return real(path, *words, **named)
        return look

    builtins.open = io.open = hiding(io.open)
    for name in ("open", "stat", "lstat", "listdir", "scandir", "access", "readlink"):
        setattr(os, name, hiding(getattr(os, name)))
"""


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory, tiny_network: bytes) -> Path:
    """A kit of the tiny space with a model, unpacked."""
    folder = tmp_path_factory.mktemp("kit")
    (folder / "space.json").write_text(TINY_JSON)
    (folder / "models").mkdir()
    (folder / "models" / "mine.onnx").write_bytes(tiny_network)
    words = ("--space", folder / "space.json", "--strides", "1", "--models", folder / "models", "--json")
    code, out, err = tool("kit", "make", "--out", folder / "kit.zip", *words)
    assert code == 0, err
    assert list(json.loads(out)["models"].values()) == ["mine.onnx"]
    with zipfile.ZipFile(folder / "kit.zip") as archive:
        archive.extractall(folder / "kit")
    return folder / "kit"


def run(kit: Path, out: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`run.py` where the kit's own latencykit is the only one and nothing but numpy, onnx and onnxruntime is there."""
    site = out.with_suffix(".site")
    site.mkdir()
    blocked = (*BLOCKED, "resource") if environment else BLOCKED
    (site / "sitecustomize.py").write_text(SITE.format(blocked=blocked, kit=str(kit)))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_"))}
    return subprocess.run(
        [PYTHON, "run.py", "--out", str(out), "--threads", "1", "--force", "--quick", *words],
        cwd=kit,
        env={**kept, **environment, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def tool(*words: object) -> tuple[int, str, str]:
    """`latencykit WORDS` in this process: exit code, standard output and error."""
    out, err, code, before = io.StringIO(), io.StringIO(), 0, sys.argv
    sys.argv = ["latencykit", *map(str, words)]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = before
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def table(kit: Path) -> Path:
    """The table of a quick run, ingested."""
    done = run(kit, kit.parent / "result.zip")
    assert done.returncode == 0, done.stderr
    assert "calibrated at 1 thread, pinned" in done.stderr
    assert done.stdout == ""
    code, out, err = tool("kit", "ingest", kit.parent / "result.zip", "--out", kit.parent / "table.json", "--json")
    assert code == 0, err
    data: dict[str, Any] = json.loads(out)
    assert data["command"] == "kit ingest"
    assert data["rows"].keys() == {"isolated", "kernel", "edge"}
    assert set(data["validations"][0]["levels"]) == {"isolated", "kernel", "edge"}
    assert data["models"][0]["file"] == "mine.onnx"
    return kit.parent / "table.json"


def test_a_kit_runs_where_nothing_else_is_installed_and_its_table_predicts(table: Path, tmp_path: Path, tiny_network):
    loaded = load_table(table)
    assert loaded.settings[0].pinned
    (tmp_path / "mine.onnx").write_bytes(tiny_network)
    code, out, err = tool("predict", table, tmp_path / "mine.onnx", "--threads", 1, "--json")
    assert code == 0, err
    data = json.loads(out)
    assert data["calibrated"] is True
    assert data["coverage_pct"] == 100
    assert data["latency_ms"] > 0


def test_its_table_of_other_instructions_predicts_what_the_kit_brought_and_refuses_the_rest(
    table: Path, tmp_path: Path, tiny_network: bytes
):
    loaded = load_table(table)
    foreign = tmp_path / "foreign.json"
    other = {"model": "Another", "isa": ("neon", "asimd")}
    save_table(replaced(loaded, **other), foreign)
    (tmp_path / "mine.onnx").write_bytes(tiny_network)
    unseen, stranger = sample_architectures(TINY, 1, 30_000)[0], sample_architectures(TINY, 1, 77)[0]
    write_architecture(tmp_path / "unseen.json", unseen)
    write_architecture(tmp_path / "stranger.json", stranger)
    for name in ("mine.onnx", "unseen.json"):
        code, out, err = tool("predict", foreign, tmp_path / name, "--threads", 1, "--json")
        assert code == 0, err
        assert json.loads(out)["latency_ms"] > 0
    code, _, err = tool("predict", foreign, tmp_path / "stranger.json", "--threads", 1)
    assert code == 4
    assert "kit make --models DIR" in err


def replaced(table: Any, **changes: Any) -> Any:
    return replace(table, cpu=replace(table.cpu, **changes))


def test_a_kit_runs_where_the_system_tells_nothing_and_pins_nothing(kit: Path, tmp_path: Path):
    """No affinity, no /proc or /sys, no fork, no resource module: as on Windows, but for the file names."""
    shutil.copytree(kit, tmp_path / "kit")
    done = run(tmp_path / "kit", tmp_path / "r.zip", BARE_SYSTEM="1")
    assert done.returncode == 0, done.stderr
    assert "unreadable-cores" in done.stderr
    code, out, err = tool("kit", "ingest", tmp_path / "r.zip", "--out", tmp_path / "t.json")
    assert code == 0, err
    assert "affinity is not verified" in err
    assert "edge, calibrated" in out
    loaded = load_table(tmp_path / "t.json")
    assert [(s.threads, s.pinned) for s in loaded.settings] == [(1, False)]
    assert loaded.cpu.allowed_cpus == ()
    assert loaded.cpu.physical_cores is None
    assert {reason["code"] for reason in loaded.doctor["reasons"]} >= {"unreadable-affinity", "unreadable-load-average"}
    assert loaded.cpu.isa  # by numpy


def test_ingest_does_not_overwrite_another_table(table: Path, kit: Path, tmp_path: Path):
    words = ("kit", "ingest", kit.parent / "result.zip", "--out")
    assert tool(*words, table)[0] == 0  # the same one
    (tmp_path / "thesis").write_text("my thesis")
    assert tool(*words, tmp_path / "thesis")[0] == 6
    assert (tmp_path / "thesis").read_text() == "my thesis"
    save_table(replaced(load_table(table), model="Another"), tmp_path / "other.json")
    assert tool(*words, tmp_path / "other.json")[0] == 2
