"""ONNX files from outside: what the limited process does, and that whatever happens to it is an error of ours."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from latencykit import guard, outside
from latencykit.errors import InputError
from latencykit.guard import Limits
from latencykit.kernels import kernels_of
from latencykit.lowering import graph_to_onnx
from latencykit.outside import check_outside, open_outside, outside_kernels
from latencykit.runtime import Setting
from latencykit.sample import sample_architectures
from latencykit.space import instantiate
from tests.latencykit.hostile import FLOAT, REFUSED, SHAPE, external, one_node, valid
from tests.latencykit.made_up import PYTHON, TINY

FREE = Setting(threads=1, pinned=False)
POSIX = pytest.mark.skipif(os.name != "posix", reason="links, pipes and limits of this kind are POSIX's")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(valid().SerializeToString())
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# What gets in


def test_the_kernels_of_a_file_are_those_that_are_cut_out_here(tmp_path: Path, tiny_network: bytes) -> None:
    path = written(tmp_path / "m.onnx", tiny_network)
    assert outside_kernels(path, Setting(threads=4)) == kernels_of(tiny_network, FREE, tmp_path)


def test_an_optimised_graph_is_cut_as_it_stands(tmp_path: Path, tiny_network: bytes) -> None:
    kernels = kernels_of(tiny_network, FREE, tmp_path)
    assert outside_kernels(tmp_path / "optimised.onnx", replace(FREE, optimisation="none")) == kernels


def test_a_checked_file_gives_the_bytes_that_were_checked(model: Path) -> None:
    assert check_outside(model) == model.read_bytes()


def test_a_model_of_our_own_goes_the_same_way(tmp_path: Path) -> None:
    own = graph_to_onnx(instantiate(sample_architectures(TINY, 1, 3)[0])).SerializeToString()
    opened = open_outside(written(tmp_path / "own.onnx", own), "run", FREE)
    assert (opened.model, opened.kernels) == (own, ())


@POSIX
def test_a_folder_on_the_way_may_be_a_link(tmp_path: Path, model: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert check_outside(tmp_path / "link" / model.name) == model.read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems accept fewer limits")
def test_the_limits_that_were_set_are_told_and_warn_of_nothing(model: Path) -> None:
    opened = open_outside(model, "check", FREE)
    assert opened.limits == ("memory", "cpu", "core", "file")
    assert opened.warnings == []


# What does not


@pytest.mark.parametrize("name", ["garbage", "external, above", "an unknown domain", "a circle", "very deep branches"])
def test_a_refusal_of_the_process_names_the_file(name: str, tmp_path: Path) -> None:
    data, message = REFUSED[name]
    with pytest.raises(InputError, match=rf"evil\.onnx: .*{message}"):
        check_outside(written(tmp_path / "evil.onnx", data))


@POSIX
@pytest.mark.parametrize("place", ["../secret", "{absolute}", "link", "folder/secret", "hard"])
def test_no_other_file_is_read_by_whatever_way_it_is_named(place: str, tmp_path: Path) -> None:
    """Above the model, by its absolute path, behind a link, in a folder that is a link, and as a hard link."""
    secret = written(tmp_path / "secret", b"\x42" * 4 * 4 * 4 * 3 * 3)
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "link").symlink_to(secret)
    (folder / "folder").symlink_to(tmp_path)
    os.link(secret, folder / "hard")
    path = written(folder / "m.onnx", external(place.format(absolute=secret)))
    for task in ("check", "run", "kernels"):
        with pytest.raises(InputError, match="lies in another file"):
            open_outside(path, task, FREE)


@POSIX
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path, model: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(model)
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for path, message in (
        (tmp_path / "pipe", "it is a pipe; expected a regular file"),
        (Path("/dev/zero"), "it is a device"),
        (tmp_path, "it is a folder"),
        (tmp_path / "link", "is a symbolic link"),
        (tmp_path / "circle", "is a symbolic link"),
        (tmp_path / "absent", "cannot be read"),
        (Path("a\0b"), "cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            check_outside(path)


def test_a_file_that_is_too_large_is_not_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "MAX_MODEL_BYTES", 10)
    with pytest.raises(InputError, match=r"model\.onnx is \d+ bytes; at most 10 are read"):
        check_outside(model)


def test_a_refusal_that_quotes_the_model_drives_no_terminal(tmp_path: Path) -> None:
    model = valid()
    model.graph.node[1].domain = "\x1b[31mred"
    with pytest.raises(InputError, match="of the domain") as caught:
        check_outside(written(tmp_path / "m.onnx", model.SerializeToString()))
    assert str(caught.value).isprintable()


@POSIX
def test_a_constant_that_unfolds_to_more_than_the_memory_is_refused(tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([1 << 16, 1 << 16], np.int64), "shape")
    node = helper.make_node("ConstantOfShape", ["shape"], ["y"])
    path = written(tmp_path / "bomb.onnx", one_node(node, {}, (shape,), output=(1 << 14, 1 << 14)))
    with pytest.raises(InputError, match=r"bomb\.onnx: "):
        outside_kernels(path, FREE, Limits(memory_bytes=2 << 30))


@POSIX
def test_a_loop_without_end_runs_out_of_processor_time(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Sin", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", 7, ()),
            helper.make_tensor_value_info("go", 9, ()),
            helper.make_tensor_value_info("v", FLOAT, SHAPE),
        ],
        [helper.make_tensor_value_info("on", 9, ()), helper.make_tensor_value_info("w", FLOAT, SHAPE)],
    )
    trips = numpy_helper.from_array(np.array(2**62, np.int64), "trips")
    node = helper.make_node("Loop", ["trips", "", "x"], ["y"], body=body)
    path = written(tmp_path / "loop.onnx", one_node(node, {"x": SHAPE}, (trips,)))
    with pytest.raises(InputError, match=r"loop\.onnx: the process that opened it was ended by SIGXCPU, out of"):
        open_outside(path, "run", FREE, Limits(cpu_s=2))
    with pytest.raises(InputError, match=r"loop\.onnx: .*control flow"):
        outside_kernels(path, FREE)


# A process that goes astray


def astray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Put a script in the process's place."""
    script = tmp_path / "astray"
    script.write_text(f"#!{PYTHON} -SE\nimport os, signal, sys\nsys.stdin.buffer.read()\n{body}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


@POSIX
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV, a crash. Expected: an ONNX model that opens"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL, mostly for lack of memory"),
        ("os.kill(os.getpid(), signal.SIGRTMIN + 3)", "was ended by signal 37"),
        ("os.abort()", "was ended by SIGABRT"),
        ("sys.exit('first\\nand \\x1b[31mlast')", r"ended with exit code 1: and  \[31mlast"),
        ("sys.exit(3)", "ended with exit code 3: no message"),
        ("", "answered nonsense .*cannot be read as JSON"),
        ("print('ready')", "answered nonsense"),
        ('print(\'{"limits": [], "kernels": [\')', "answered nonsense"),
        ("print('[' * 10**6)", "answered nonsense"),
        ("print('{\"limits\": 3}')", "answered nonsense"),
        ('print(\'{"limits": [], "kernels": [{}]}\')', r"model\.onnx: .*missing required field"),
        ("sys.stdout.buffer.write(b'\\xff\\xfe')", "answered nonsense"),
        ("print('x' * 2000)", "answered with more than 1000 bytes"),
        ('print(\'{"limits": [], "error": "it is bad"}\')', r"model\.onnx: it is bad$"),
        ('print(\'{"limits": [], "error": "bad \\\\u001b[31m"}\')', "answered nonsense"),
    ],
)
def test_a_process_that_ends_or_answers_otherwise_is_an_error_that_names_the_file(
    body: str, message: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    astray(tmp_path, monkeypatch, body)
    monkeypatch.setattr(outside, "MAX_ANSWER_BYTES", 1000)
    if "10**6" in body:
        monkeypatch.undo()
        astray(tmp_path, monkeypatch, body)
    with pytest.raises(InputError, match=message) as caught:
        outside_kernels(model, FREE)
    assert "model.onnx" in str(caught.value)


@POSIX
def test_a_process_that_does_not_end_is_stopped(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    astray(tmp_path, monkeypatch, f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\nsignal.pause()")
    with pytest.raises(InputError, match=r"model\.onnx: opening it took over 1 s and was stopped"):
        check_outside(model, Limits(wall_s=1))
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_process_that_could_not_limit_its_memory_is_told(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    astray(tmp_path, monkeypatch, "print('{\"limits\": []}')")
    opened = open_outside(model, "check", FREE)
    assert opened.limits == ()
    assert "limits no process's memory" in opened.warnings[0]


# The process itself


def test_a_system_without_limits_accepts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "resource", None)
    assert guard.limit(Limits()) == []


_LIMITED = """
import resource
from latencykit.guard import Limits, limit
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
print(limit(Limits(cpu_s=7, memory_bytes=1 << 33, file_bytes=1 << 20)))
for kind in ("AS", "CPU", "CORE", "FSIZE"):
    print(resource.getrlimit(getattr(resource, f"RLIMIT_{kind}")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems accept fewer limits")
def test_the_limits_hold_and_never_loosen_those_that_are_there() -> None:
    done = subprocess.run([sys.executable, "-c", _LIMITED], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "['memory', 'cpu', 'core', 'file']",
        str((1 << 33, 1 << 33)),
        "(7, 8)",
        "(0, 0)",
        "(5000, 5000)",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="made of Linux's limits")
def test_a_limit_that_the_system_refuses_is_not_among_those_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    def refuse(kind: int, limits: tuple[int, int]) -> None:
        if kind == resource.RLIMIT_AS:
            raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert guard.limit(Limits()) == ["cpu", "core", "file"]


def test_the_process_loads_what_it_needs_and_no_more() -> None:
    script = "import sys, latencykit.guard; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"onnxruntime", "pandas", "scipy", "matplotlib", "rich", "click", "torch", "msgspec"}
