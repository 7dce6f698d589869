"""Making a kit, and opening it again where it is to run."""

import dataclasses
import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from latencykit import kit as module
from latencykit.archive import read_archive
from latencykit.calibrate import calibration_networks
from latencykit.coverage import COVERAGE_SEED
from latencykit.edges import fit_architectures
from latencykit.errors import InputError
from latencykit.kit import download_wheels, make_kit, read_models, runner_sources
from latencykit.kit_plan import KIT_FORMAT, KitPlan, manifest_of, plan_from_bytes, plan_to_bytes, require_manifest
from latencykit.kit_runner import open_kit
from latencykit.macro import Macro
from latencykit.table import model_id, network_id
from tests.latencykit.hostile import external
from tests.latencykit.made_up import PYTHON, TINY

PLAN = KitPlan(KIT_FORMAT, "0.1.0", (TINY, Macro()))


@pytest.fixture
def kit(tmp_path: Path, tiny_network: bytes) -> Path:
    """A kit with one model, unpacked."""
    plan = dataclasses.replace(PLAN, models={model_id(tiny_network): "mine.onnx"})
    make_kit(tmp_path / "kit.zip", plan, {"mine.onnx": tiny_network}, {})
    with zipfile.ZipFile(tmp_path / "kit.zip") as archive:
        archive.extractall(tmp_path / "kit")
    return tmp_path / "kit"


# What goes in


def test_a_kit_holds_the_runner_its_sources_the_plan_and_the_models(kit: Path, tmp_path: Path, tiny_network: bytes):
    files = read_archive(tmp_path / "kit.zip")
    assert {"run.py", "README.txt", "plan.json", "MANIFEST", "models/mine.onnx"} <= files.keys()
    assert files.keys() >= runner_sources().keys()
    assert files["models/mine.onnx"] == tiny_network
    assert files["run.py"] == Path(module.__file__).with_name("kit_start.py").read_bytes()
    assert len(files["README.txt"].splitlines()) == 5
    assert not any("torch" in name or name.startswith("nas/") for name in files)
    assert (tmp_path / "kit.zip").stat().st_size < 300_000
    require_manifest(files)


def test_equal_kits_are_equal_bytes(tmp_path: Path):
    for name in ("a", "b"):
        make_kit(tmp_path / name, PLAN, {}, {})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_manifest_is_what_sha256sum_writes():
    expected = f"{hashlib.sha256(b'x').hexdigest()}  a/b\n{hashlib.sha256(b'').hexdigest()}  c\n"
    assert manifest_of({"c": b"", "a/b": b"x"}).decode() == expected


def test_a_folder_of_models_is_read_by_name(tmp_path: Path, tiny_network: bytes):
    (tmp_path / "b.onnx").write_bytes(tiny_network)
    (tmp_path / "notes.txt").write_text("not a model")
    assert read_models(tmp_path) == {"b.onnx": tiny_network}


def test_a_bad_model_is_refused_by_name(tmp_path: Path, tiny_network: bytes):
    (tmp_path / "a.onnx").write_bytes(tiny_network)
    (tmp_path / "b.onnx").write_bytes(external("../../secret"))
    with pytest.raises(InputError, match=r"b\.onnx: .*lies in another file"):
        read_models(tmp_path)


def test_a_folder_without_models_and_a_model_twice_are_refused(tmp_path: Path, tiny_network: bytes):
    with pytest.raises(InputError, match=r"no folder that holds \*\.onnx"):
        read_models(tmp_path)
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(tiny_network)
    with pytest.raises(InputError, match=r"a\.onnx and b\.onnx are the same model"):
        read_models(tmp_path)


# Wheels


class FakePip:
    """Stands for pip: writes a wheel, or complains."""

    def __init__(self, complaint: str = "") -> None:
        self.complaint, self.command = complaint, [""]

    def run(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.command = command
        if not self.complaint:
            (Path(command[command.index("--dest") + 1]) / "numpy-2.whl").write_bytes(b"wheel")
        return subprocess.CompletedProcess(command, int(bool(self.complaint)), "", self.complaint)


def test_wheels_are_asked_for_in_this_host_s_versions(monkeypatch: pytest.MonkeyPatch):
    pip = FakePip()
    monkeypatch.setattr(module.subprocess, "run", pip.run)
    assert download_wheels(["win_amd64", "any"], "3.12") == {"numpy-2.whl": b"wheel"}
    words = " ".join(pip.command)
    assert "--only-binary=:all:" in words
    assert "--python-version 3.12 --platform win_amd64 --platform any" in words
    assert [word.partition("==")[0] for word in pip.command[-3:]] == ["numpy", "onnx", "onnxruntime"]
    assert all("==" in word for word in pip.command[-3:])


def test_what_pip_cannot_get_is_bad_input_with_its_words(monkeypatch: pytest.MonkeyPatch):
    pip = FakePip("ERROR: Could not find a version\nERROR: No matching distribution found\n\n[notice] new pip\n")
    monkeypatch.setattr(module.subprocess, "run", pip.run)
    with pytest.raises(
        InputError, match=r"for amiga and Python 3\.11: .*No matching distribution found\. Name another"
    ):
        download_wheels(["amiga"], "3.11")


# The plan


def test_a_plan_survives_its_file():
    plan = dataclasses.replace(PLAN, models={"model-0123456789abcdef": "ä b.onnx"}, validation_networks=7)
    assert plan_from_bytes(plan_to_bytes(plan), "plan.json") == plan


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"format": KIT_FORMAT + 1}, rf"kit format \d+, this version reads {KIT_FORMAT}; update latencykit"),
        ({"format": KIT_FORMAT - 1}, rf"kit format \d+, this version reads {KIT_FORMAT}; make and run the kit anew"),
        ({"format": "1"}, "kit format 1"),
        ({"macros": ()}, "at least one expected"),
        ({"macros": (TINY, TINY)}, "each once"),
        ({"fit_networks": 0}, "fit_networks is 0"),
        ({"fit_networks": 10**12}, "at most 2000"),
        ({"sampled_networks": 7}, "expected at least 8"),
        ({"validation_networks": 1}, "expected at least 2"),
        ({"validation_seed": COVERAGE_SEED}, "draws what tables are made with"),
        ({"validation_seed": -1}, "expected at least 0"),
        ({"models": {"x": "a.onnx"}}, "expected an id and a plain name"),
        ({"models": {"model-0123456789abcdef": "../a.onnx"}}, "expected an id and a plain name"),
        ({"models": {"model-0123456789abcdef": "a\x1b[31m.onnx"}}, "expected an id and a plain name"),
        ({"latencykit": "1\n"}, "expected a version"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(changes: dict[str, Any], why: str):
    with pytest.raises(InputError, match=why):
        dataclasses.replace(PLAN, **changes)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"macros": 3}',
        b'{"macros": [3]}',
        b'{"macros": [{"image_size": "256"}]}',
        plan_to_bytes(PLAN).replace(b'"trial"', b'"trail"'),
        plan_to_bytes(PLAN).replace(b'"fit_networks": ', b'"fit_networks": "many", "x": '),
        plan_to_bytes(PLAN).replace(b'"models": {}', b'"models": {"model-0123456789abcdef": 3}'),
    ],
)
def test_a_damaged_plan_is_bad_input(content: bytes):
    with pytest.raises(InputError, match=r"plan\.json"):
        plan_from_bytes(content, "plan.json")


def test_the_networks_that_seeds_draw_are_those_of_this_format():
    """A result is of the networks that its seeds draw. Where they draw others now, raise `KIT_FORMAT`."""
    plan = dataclasses.replace(PLAN, macros=(Macro(),), fit_networks=5, sampled_networks=8, validation_networks=2)
    timed = calibration_networks(Macro(), plan.sampled_networks)
    drawn = [*timed, *fit_architectures(Macro(), plan.fit_networks), *plan.unseen_networks()]
    digest = hashlib.sha256("".join(map(network_id, drawn)).encode()).hexdigest()
    assert (KIT_FORMAT, digest[:16]) == (6, "906b91e6a7bc3db9")


def test_a_trial_takes_fewest_networks():
    trial = PLAN.as_trial
    assert trial.trial
    assert (trial.macros, trial.validation_seed) == (PLAN.macros, PLAN.validation_seed)
    assert trial.fit_networks < PLAN.fit_networks


# Opening


def test_a_kit_that_was_unpacked_is_whole(kit: Path, tiny_network: bytes):
    (kit / "packages").mkdir()
    (kit / "packages" / "x.py").write_text("what else lies there does not matter")
    opened = open_kit(kit)
    assert opened.plan.macros == PLAN.macros
    assert opened.models == {model_id(tiny_network): tiny_network}


def test_a_kit_that_was_damaged_is_refused(kit: Path):
    (kit / "models" / "mine.onnx").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"'models/mine\.onnx' does not fit its MANIFEST.*Unpack the kit again"):
        open_kit(kit)
    (kit / "models" / "mine.onnx").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        open_kit(kit)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", ""])
def test_a_manifest_that_leads_out_of_the_kit_is_refused(kit: Path, name: str):
    (kit / "MANIFEST").write_text(f"{'0' * 64}  {name}\n")
    with pytest.raises(InputError, match="expected files of the kit"):
        open_kit(kit)


def test_a_kit_without_a_plan_is_refused(kit: Path):
    (kit / "MANIFEST").write_bytes(manifest_of({"run.py": (kit / "run.py").read_bytes()}))
    with pytest.raises(InputError, match=r"lacks 'plan\.json'"):
        open_kit(kit)


# run.py itself


def run(kit: Path, *words: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """`run.py` after some code, in an isolated interpreter."""
    start = f"runpy.run_path({str(kit / 'run.py')!r}, run_name='__main__')"
    script = f"import sys, runpy\n{before}\nsys.argv = ['run.py', *{list(words)}]\n{start}"
    return subprocess.run([PYTHON, "-P", "-c", script], capture_output=True, text=True, timeout=60, check=False)


def test_an_old_python_is_told_so(kit: Path):
    done = run(kit, "--out", "r.zip", before="sys.version_info = (3, 8, 1)")
    assert done.returncode == 5
    assert "needs Python 3.11 or later" in done.stderr


def test_the_start_parses_on_any_python(kit: Path):
    """No annotations, no formatted strings, no keyword that old versions lack."""
    text = (kit / "run.py").read_text()
    assert "def " not in text
    assert " f'" not in text
    assert ' f"' not in text
    assert compile(text, "run.py", "exec", dont_inherit=True)


@pytest.mark.parametrize("wheels", [False, True])
def test_missing_packages_are_named_with_the_command_that_gets_them(kit: Path, wheels: bool):
    if wheels:
        (kit / "wheels").mkdir()
    done = run(kit, "--out", "r.zip", before="sys.modules['onnxruntime'] = None")
    assert done.returncode == 5
    assert "onnxruntime cannot be imported" in done.stderr
    assert "numpy cannot" not in done.stderr
    source = "--no-index --find-links wheels " if wheels else ""
    assert f"{PYTHON} -m pip install {source}--target packages numpy onnx onnxruntime" in done.stderr
    assert ("--wheels PLATFORM" in done.stderr) is not wheels


def test_packages_beside_it_are_found(kit: Path):
    (kit / "packages").mkdir()
    (kit / "packages" / "onnxruntime.py").write_text("raise ImportError('this is the one beside it')")
    done = run(kit, "--out", "r.zip")
    assert "this is the one beside it" in done.stderr
