"""Small readers that never fail."""

from pathlib import Path

import pytest

from latencykit.system_files import count, exists, parse_cpu_list, read_count, read_cpuinfo, read_text, read_words


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        ("0", (0,)),
        ("0-2,5", (0, 1, 2, 5)),
        ("1,0,1", (0, 1)),
        ("", ()),
        (None, ()),
        ("3-1", ()),
        ("a-b", ()),
        ("0-99999999", ()),
    ],
)
def test_lists_of_processors_are_read(text: str | None, cpus: tuple[int, ...]) -> None:
    assert parse_cpu_list(text) == cpus


@pytest.mark.parametrize("text", [None, "", "-1", "1.5", "x", "9" * 5000, "9" * 30])
def test_what_is_no_count_of_the_kernels_is_none(text: str | None) -> None:
    assert count(text) is None


def test_a_count_of_zero_is_a_count() -> None:
    assert count(" 0\n") == 0


def test_absent_and_impossible_paths_read_as_nothing(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path, tmp_path / "a\0b"):
        assert read_text(path) is None
        assert read_count(path) is None
        assert read_words(path) == []
    assert not exists(tmp_path / "a\0b")


def test_cpuinfo_has_one_block_a_processor_and_one_empty_block_where_it_is_absent(tmp_path: Path) -> None:
    assert read_cpuinfo(tmp_path) == [{}]
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nflags : a: b\n\nprocessor : 1\nno separator\n")
    assert read_cpuinfo(tmp_path) == [{"processor": "0", "flags": "a: b"}, {"processor": "1"}]
