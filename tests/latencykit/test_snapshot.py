"""What is read over the interval, on a simulated machine."""

import dataclasses
from pathlib import Path

import pytest

from latencykit.snapshot import Snapshot, Ticks, read_counters, take_snapshot
from tests.latencykit.simulated import Machine, changed


def snapshot_of(machine: Machine) -> Snapshot:
    machine.write()
    return take_snapshot(machine.root, 1.0, machine.sleep, machine.clock_ns, machine.work)


def test_a_container_memory_limit_counts_as_available_memory(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    (tmp_path / "sys/fs/cgroup/box").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/box/memory.max").write_text(str(512 << 20))
    assert snapshot_of(machine).available_bytes == 512 << 20


def test_an_empty_system_has_no_counts(tmp_path: Path) -> None:
    counters = dataclasses.asdict(read_counters(tmp_path))
    assert counters.pop("ticks") == {}
    assert set(counters.values()) == {None}


def test_guest_time_is_not_counted_twice(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu 9 9 9 9\ncpu0 100 10 20 1000 5 1 2 3 70 7\n")
    assert read_counters(tmp_path).ticks == {0: Ticks(busy=133, stolen=3, total=1141)}


@pytest.mark.parametrize("line", ["cpu0 1 2 3", "cpu0 1 2 3 x", "cpux 1 2 3 4", "cpu0 1 2 3 -4", "intr 1 2 3 4"])
def test_a_damaged_line_of_ticks_is_no_processor(tmp_path: Path, line: str) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(line)
    assert read_counters(tmp_path).ticks == {}


@pytest.mark.parametrize("load", ["nan", "inf", "x"])
def test_a_load_that_is_no_number_is_unknown(tmp_path: Path, load: str) -> None:
    assert snapshot_of(changed(tmp_path, load_average=load)).load_average is None


def test_the_name_of_a_process_may_hold_spaces_and_brackets(tmp_path: Path) -> None:
    assert snapshot_of(changed(tmp_path, own=77)).begun.own_ticks == 77


def test_a_counter_that_went_back_is_no_negative_time(tmp_path: Path) -> None:
    snapshot = snapshot_of(Machine(tmp_path))
    assert snapshot.spent(snapshot.worked, snapshot.begun) == [Ticks(0, 0, 0)] * 4
