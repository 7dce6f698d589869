"""Files are wholly old or wholly new."""

import json
import stat
from pathlib import Path

import pytest

from latencykit import files
from latencykit.files import remove_leftovers, write_bytes, write_json, write_text


def fail(*arguments: object, **options: object) -> None:
    raise OSError("no space left")


@pytest.mark.parametrize("call", ["replace", "fsync", "chmod"])
def test_a_failing_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "table.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(files.os, call, fail)
    with pytest.raises(OSError, match="no space left"):
        write_bytes(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interruption_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "table.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"a longer old content")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "c.txt", "µ")
    assert (tmp_path / "a/b/c.txt").read_bytes() == "µ".encode()


def test_others_may_read_the_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "")
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1, -float("inf")]])
def test_a_number_that_json_lacks_is_refused_and_the_old_file_stays(tmp_path: Path, value: object) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, value)
    assert json.loads(path.read_text()) == {"old": 1}


def test_json_is_indented_and_ends_with_a_line_break(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1]})
    assert (tmp_path / "a.json").read_text() == '{\n "b": [\n  1\n ]\n}\n'


def test_what_a_killed_write_left_is_removed_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table [1].json"
    path.write_bytes(b"old")
    monkeypatch.setattr(files.os, "replace", fail)
    monkeypatch.setattr(files.os, "unlink", lambda name: None)  # killed before it could tidy up
    with pytest.raises(OSError, match="no space left"):
        write_bytes(path, b"new")
    monkeypatch.undo()
    (tmp_path / ".table [1].json.journal.abc.tmp").mkdir()
    (tmp_path / ".table [1].json.journal.abc.tmp" / "kernel.onnx").write_bytes(b"")
    assert len(list(tmp_path.iterdir())) == 3
    others = [tmp_path / ".another.json.abc.tmp", tmp_path / "table [1].json.tmp", tmp_path / ".table 1.json.abc.tmp"]
    for other in others:
        other.write_bytes(b"")
    remove_leftovers(path)
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])
    remove_leftovers(tmp_path / "no folder" / "table.json")
