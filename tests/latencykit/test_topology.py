"""Processors and cores of simulated systems, and the threads that may be pinned on them."""

import subprocess
import sys
from pathlib import Path

import pytest

from latencykit import system_files, topology
from latencykit.errors import UnfitError, UsageError
from latencykit.topology import check_threads, physical_cpus, read_cores
from tests.latencykit.simulated import cgroup_v2, i7, write


def test_each_physical_core_gives_one_processor(tmp_path: Path) -> None:
    assert physical_cpus(i7(tmp_path)) == (0, 1)


def test_the_sibling_that_is_allowed_stands_for_its_core(tmp_path: Path) -> None:
    assert physical_cpus(i7(tmp_path), allowed=(2, 3)) == (2, 3)
    assert physical_cpus(tmp_path, allowed=(0, 2)) == (0,)


def test_cores_of_two_packages_with_the_same_number_are_two(tmp_path: Path) -> None:
    write(tmp_path, {"sys/devices/system/cpu/online": "0-1", "proc/self/status": "Cpus_allowed_list: 0-1"})
    for cpu in range(2):
        topology = f"sys/devices/system/cpu/cpu{cpu}/topology/"
        write(tmp_path, {topology + "core_id": "0", topology + "physical_package_id": str(cpu)})
    assert physical_cpus(tmp_path) == (0, 1)
    assert read_cores(tmp_path) == ((0,), (1,))


def test_without_sysfs_the_cores_come_from_cpuinfo(tmp_path: Path) -> None:
    block = "processor : {}\nphysical id : 0\ncore id : {}"
    text = "\n\n".join(block.format(cpu, cpu // 2) for cpu in range(4))
    write(tmp_path, {"proc/cpuinfo": text, "proc/self/status": "Cpus_allowed_list: 0-3"})
    assert physical_cpus(tmp_path) == (0, 2)
    assert read_cores(tmp_path) == ((0, 1), (2, 3))


def test_fast_cores_come_before_efficiency_cores(tmp_path: Path) -> None:
    write(i7(tmp_path), {"sys/devices/cpu_atom/cpus": "0,2"})
    assert physical_cpus(tmp_path) == (1, 0)


def test_cores_are_ranked_by_the_kernels_capacity(tmp_path: Path) -> None:
    i7(tmp_path)
    write(tmp_path, {f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity": str(400 + 100 * cpu) for cpu in range(4)})
    assert physical_cpus(tmp_path, allowed=(0, 1)) == (1, 0)


@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads_is_a_usage_error(tmp_path: Path, threads: int) -> None:
    with pytest.raises(UsageError, match=f"`--threads` is {threads}, expected at least 1"):
        check_threads(threads, i7(tmp_path))


def test_as_many_threads_as_physical_cores_are_pinned_apart(tmp_path: Path) -> None:
    assert check_threads(1, i7(tmp_path)) == (0,)
    assert check_threads(2, tmp_path) == (0, 1)


def test_more_threads_than_physical_cores_are_refused_with_the_number_to_pass(tmp_path: Path) -> None:
    with pytest.raises(UnfitError) as caught:
        check_threads(4, i7(tmp_path))
    assert str(caught.value) == (
        "4 threads were asked for, this machine has 2 physical cores that this process may use: "
        "pass `--threads 2` (or fewer)"
    )
    assert caught.value.exit_code == 5


def test_a_narrow_mask_leaves_fewer_cores(tmp_path: Path) -> None:
    with pytest.raises(UnfitError, match=r"has 1 physical core that this process may use: pass `--threads 1`$"):
        check_threads(2, i7(tmp_path, allowed="0,2"))


def test_a_quota_is_rounded_down_to_whole_cores(tmp_path: Path) -> None:
    cgroup_v2(i7(tmp_path, cores=4), "/box", d1="250000 100000")
    assert check_threads(2, tmp_path) == (0, 1)
    with pytest.raises(UnfitError, match=r"quota is 2\.5 CPUs\): pass `--threads 2` \(or fewer\)"):
        check_threads(3, tmp_path)


def test_a_quota_that_does_not_bind_is_not_blamed(tmp_path: Path) -> None:
    with pytest.raises(UnfitError, match=r"that this process may use: pass `--threads 2`"):
        check_threads(3, cgroup_v2(i7(tmp_path), "/box", d1="350000 100000"))


@pytest.mark.parametrize(("counted", "allowed", "usable"), [(8, (), 8), (8, (0, 1), 2), (1, (0, 1), 1)])
def test_where_only_the_number_of_cores_is_known_nothing_is_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: int, allowed: tuple[int, ...], usable: int
) -> None:
    monkeypatch.setattr(system_files, "ROOT", tmp_path)
    monkeypatch.setattr(topology, "ask_core_count", lambda: counted)
    monkeypatch.setattr(topology, "allowed_cpus", lambda root: allowed)
    assert check_threads(usable, tmp_path) == ()
    with pytest.raises(UnfitError, match=f"pass `--threads {usable}`"):
        check_threads(usable + 1, tmp_path)


def test_a_quota_below_one_cpu_still_leaves_one_thread(tmp_path: Path) -> None:
    assert check_threads(1, cgroup_v2(i7(tmp_path), "/box", d1="50000 100000")) == (0,)


def test_where_no_topology_can_be_read_only_one_thread_goes_unpinned(tmp_path: Path) -> None:
    assert check_threads(1, tmp_path) == ()
    with pytest.raises(UnfitError, match=r"could not be read: .*`--threads 1`"):
        check_threads(2, tmp_path)


def imported_by(code: str) -> set[str]:
    script = f"import sys; {code}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere psutil may be asked")
def test_checking_threads_imports_the_standard_library_only() -> None:
    extra = imported_by("from latencykit.topology import check_threads; check_threads(1)") - set(
        sys.stdlib_module_names
    )
    assert not extra & {"cpuinfo", "psutil", "numpy", "onnx", "onnxruntime", "torch", "msgspec"}
    assert "latencykit" in extra


def test_the_check_of_imports_can_fail() -> None:
    assert "numpy" in imported_by("import numpy")
