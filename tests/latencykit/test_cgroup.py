"""Limits of control groups, versions 1 and 2, in simulated systems."""

from pathlib import Path

from latencykit.cgroup import CgroupFacts, read_cgroup
from tests.latencykit.simulated import cgroup_v2, write


def test_the_tightest_quota_on_the_way_to_the_root_holds(tmp_path: Path) -> None:
    cgroup_v2(tmp_path, "/pod/box", d0="max 100000", d1="150000 100000", d2="400000 100000")
    assert read_cgroup(tmp_path).quota_cpus == 1.5


def test_max_is_no_quota(tmp_path: Path) -> None:
    found = read_cgroup(cgroup_v2(tmp_path, "/", d0="max 100000"))
    assert (found.readable, found.quota_cpus) == (True, None)


def test_a_container_that_sees_only_its_own_group_reads_it_at_the_root(tmp_path: Path) -> None:
    write(tmp_path, {"proc/self/cgroup": "0::/../../box", "sys/fs/cgroup/cgroup.controllers": "cpu"})
    write(tmp_path, {"sys/fs/cgroup/cpu.max": "200000 100000"})
    assert read_cgroup(tmp_path).quota_cpus == 2.0


def test_quota_throttling_and_memory_limit_of_version_1_are_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/box\n4:cpu,cpuacct:/box\n0::/",
            "sys/fs/cgroup/cpu,cpuacct/tasks": "1",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "300000",
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "200000",
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.stat": "nr_periods 9\nnr_throttled 4\nthrottled_time 12",
            "sys/fs/cgroup/memory/tasks": "1",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "1073741824",
        },
    )
    found = read_cgroup(tmp_path)
    assert found == CgroupFacts(True, 1.5, 4, 1 << 30)


def test_absent_control_groups_are_unreadable_not_unlimited(tmp_path: Path) -> None:
    assert read_cgroup(tmp_path) == CgroupFacts(False, None, None, None)
