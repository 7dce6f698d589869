"""What a CPU is, read from simulated systems; one test reads the real one and asserts structure only."""

import dataclasses
import json
import struct
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latencykit import host
from latencykit.errors import InputError, UnfitError, UsageError
from latencykit.host import CpuFacts, check_threads, cpu_id, parse_cpu_list, physical_cpus, read_cgroup, read_cpu

I7 = "Intel(R) Core(TM) i7-8700K CPU @ 3.70GHz"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    return root


def i7(root: Path, cores: int = 2, allowed: str = "") -> Path:
    """A machine with SMT: processors n and n + cores share core n."""
    cpus = 2 * cores
    files = {
        "proc/cpuinfo": "\n\n".join(
            f"processor\t: {cpu}\nvendor_id\t: GenuineIntel\nmodel name\t: {I7}\nphysical id\t: 0\n"
            f"core id\t\t: {cpu % cores}\nflags\t\t: fpu sse4_2 avx f16c fma avx2"
            for cpu in range(cpus)
        ),
        "proc/self/status": f"Name:\tpython\nCpus_allowed_list:\t{allowed or f'0-{cpus - 1}'}",
        "proc/meminfo": "MemTotal:       16384000 kB\nMemAvailable:   8000000 kB",
        "proc/sys/kernel/ostype": "Linux",
        "proc/sys/kernel/osrelease": "6.1.0",
        "proc/sys/kernel/arch": "x86_64",
        "sys/devices/system/cpu/online": f"0-{cpus - 1}",
        "sys/devices/system/cpu/smt/active": "1",
        "sys/devices/system/cpu/intel_pstate/no_turbo": "0",
    }
    for cpu in range(cpus):
        base = f"sys/devices/system/cpu/cpu{cpu}/"
        files[base + "topology/core_id"] = str(cpu % cores)
        files[base + "topology/physical_package_id"] = "0"
        files[base + "topology/thread_siblings_list"] = f"{cpu % cores},{cpu % cores + cores}"
        files[base + "cpufreq/scaling_governor"] = "powersave"
        files[base + "cpufreq/base_frequency"] = "3700000"
        for index, (level, kind, size) in enumerate(
            [("1", "Data", "32K"), ("1", "Instruction", "64K"), ("2", "Unified", "256K"), ("3", "Unified", "12M")]
        ):
            files[f"{base}cache/index{index}/level"] = level
            files[f"{base}cache/index{index}/type"] = kind
            files[f"{base}cache/index{index}/size"] = size
    return write(root, files)


def cgroup_v2(root: Path, path: str, **cpu_max: str) -> Path:
    """Control groups of version 2; each keyword is a depth (d0 the root) and its cpu.max."""
    parts = [part for part in path.split("/") if part]
    write(root, {"proc/self/cgroup": f"0::{path}", "sys/fs/cgroup/cgroup.controllers": "cpu memory"})
    for depth in range(len(parts) + 1):
        (root / "sys/fs/cgroup").joinpath(*parts[:depth]).mkdir(parents=True, exist_ok=True)
    for name, text in cpu_max.items():
        write(root, {"/".join(["sys/fs/cgroup", *parts[: int(name[1:])], "cpu.max"]): text})
    return root


def test_an_empty_system_gives_none_for_everything_and_does_not_fail(tmp_path: Path) -> None:
    facts = dataclasses.asdict(read_cpu(tmp_path))
    assert {name for name, value in facts.items() if value is not None and value != ()} == set()


def test_every_fact_of_a_full_system_is_read(tmp_path: Path) -> None:
    assert read_cpu(i7(tmp_path)) == CpuFacts(
        model=I7,
        vendor="GenuineIntel",
        architecture="x86_64",
        isa=("sse4_2", "avx", "f16c", "fma", "avx2"),
        logical_cpus=4,
        physical_cores=2,
        smt=True,
        allowed_cpus=(0, 1, 2, 3),
        l1d_bytes=32 << 10,
        l2_bytes=256 << 10,
        l3_bytes=12 << 20,
        governor="powersave",
        turbo=True,
        nominal_mhz=3700.0,
        cgroup_quota_cpus=None,
        memory_bytes=16384000 * 1024,
        hypervisor=False,
        system="Linux",
        system_release="6.1.0",
    )


def test_facts_survive_json(tmp_path: Path) -> None:
    facts = read_cpu(i7(tmp_path))
    text = json.dumps(dataclasses.asdict(facts), allow_nan=False)
    assert msgspec.json.decode(text, type=CpuFacts) == facts


def test_facts_refuse_a_count_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`physical_cores` of a CPU is 0, expected more than 0"):
        dataclasses.replace(read_cpu(tmp_path), physical_cores=0)


@settings(max_examples=15, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_never_make_reading_fail(tmp_path: Path, data: st.DataObject) -> None:
    root = cgroup_v2(i7(tmp_path, cores=1), "/a", d1="50000 100000")
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3)):
        text = st.one_of(
            st.text(max_size=20), st.sampled_from(["9" * 5000, "0-99999999", "-1", "0::/../\0", ": :\n\n:"])
        )
        (root / name).write_text(data.draw(text), encoding="utf-8", errors="surrogatepass")
    json.dumps(dataclasses.asdict(read_cpu(root)))


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
    assert read_cpu(tmp_path).smt is False


def test_without_sysfs_the_cores_come_from_cpuinfo(tmp_path: Path) -> None:
    block = "processor : {}\nphysical id : 0\ncore id : {}"
    text = "\n\n".join(block.format(cpu, cpu // 2) for cpu in range(4))
    write(tmp_path, {"proc/cpuinfo": text, "proc/self/status": "Cpus_allowed_list: 0-3"})
    assert physical_cpus(tmp_path) == (0, 2)
    assert read_cpu(tmp_path).smt is True


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
    monkeypatch.setattr(host, "ROOT", tmp_path)
    monkeypatch.setattr(host, "_physical_count", lambda: counted)
    monkeypatch.setattr(host, "allowed_cpus", lambda root: allowed)
    assert check_threads(usable, tmp_path) == ()
    with pytest.raises(UnfitError, match=f"pass `--threads {usable}`"):
        check_threads(usable + 1, tmp_path)


def test_a_quota_below_one_cpu_still_leaves_one_thread(tmp_path: Path) -> None:
    assert check_threads(1, cgroup_v2(i7(tmp_path), "/box", d1="50000 100000")) == (0,)


def test_where_no_topology_can_be_read_only_one_thread_goes_unpinned(tmp_path: Path) -> None:
    assert check_threads(1, tmp_path) == ()
    with pytest.raises(UnfitError, match=r"could not be read: .*`--threads 1`"):
        check_threads(2, tmp_path)


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
    assert found == host.CgroupFacts(True, 1.5, 4, 1 << 30)


def test_absent_control_groups_are_unreadable_not_unlimited(tmp_path: Path) -> None:
    assert read_cgroup(tmp_path) == host.CgroupFacts(False, None, None, None)


@pytest.mark.parametrize(
    ("files", "turbo"),
    [
        ({"intel_pstate/no_turbo": "1"}, False),
        ({"intel_pstate/no_turbo": "0"}, True),
        ({"cpufreq/boost": "0"}, False),
        ({"cpufreq/boost": "1"}, True),
        ({"cpu0/cpufreq/boost": "1"}, True),
        ({"cpufreq/boost": "?"}, None),
        ({}, None),
    ],
)
def test_turbo_is_read_from_whichever_driver_is_there(
    tmp_path: Path, files: dict[str, str], turbo: bool | None
) -> None:
    write(tmp_path, {f"sys/devices/system/cpu/{name}": text for name, text in files.items()})
    assert read_cpu(tmp_path).turbo is turbo


def test_governors_that_differ_are_all_named(tmp_path: Path) -> None:
    write(i7(tmp_path), {"sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance"})
    assert read_cpu(tmp_path).governor == "performance+powersave"


def test_the_momentary_frequency_is_not_taken_for_the_nominal_one(tmp_path: Path) -> None:
    write(tmp_path, {"proc/cpuinfo": "processor : 0\nmodel name : AMD EPYC\ncpu MHz : 1234.5\nflags : avx hypervisor"})
    facts = read_cpu(tmp_path)
    assert facts.nominal_mhz is None
    assert facts.hypervisor is True


def test_the_nominal_frequency_may_stand_in_the_brand(tmp_path: Path) -> None:
    write(tmp_path, {"proc/cpuinfo": f"processor : 0\nmodel name : {I7}"})
    assert read_cpu(tmp_path).nominal_mhz == 3700.0


def test_an_arm_core_is_named_by_its_codes(tmp_path: Path) -> None:
    text = "processor : 0\nFeatures : fp asimd asimddp sve\nCPU implementer : 0x41\nCPU part : 0xd0c"
    facts = read_cpu(write(tmp_path, {"proc/cpuinfo": text}))
    assert (facts.model, facts.vendor, facts.isa) == ("arm part 0xd0c", "0x41", ("asimd", "asimddp", "sve"))
    assert facts.hypervisor is None
    assert cpu_id(facts) == "arm-part-0xd0c-sve-unknown"


@pytest.mark.parametrize(
    ("model", "vendor", "isa", "cores", "slug"),
    [
        ("AMD EPYC", "AuthenticAMD", ("avx2", "avx512f"), 2, "amd-epyc-avx512-2c"),
        (I7, "GenuineIntel", ("avx", "avx2"), 6, "intel-core-i7-8700k-avx2-6c"),
        ("12th Gen Intel(R) Core(TM) i7-12700", "GenuineIntel", ("avx2",), 12, "intel-core-i7-12700-avx2-12c"),
        ("AMD EPYC 7763 64-Core Processor", "AuthenticAMD", ("avx2",), 64, "amd-epyc-7763-avx2-64c"),
        ("AMD Ryzen 7 5800U with Radeon Graphics", "AuthenticAMD", ("avx2",), 8, "amd-ryzen-7-5800u-avx2-8c"),
        ("Apple M2", None, ("asimd",), 8, "apple-m2-neon-8c"),
        ("../../etc: a\\b", None, (), 1, "etc-a-b-unknown-1c"),
        (None, None, (), None, "unknown-unknown-unknown"),
    ],
)
def test_a_cpu_is_named_for_a_file(
    tmp_path: Path, model: str | None, vendor: str | None, isa: tuple[str, ...], cores: int | None, slug: str
) -> None:
    facts = dataclasses.replace(read_cpu(tmp_path), model=model, vendor=vendor, isa=isa, physical_cores=cores)
    assert cpu_id(facts) == slug


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


def test_windows_records_give_cores_and_data_caches() -> None:
    def record(mask: int, relation: int, body: bytes = b"") -> bytes:
        return struct.pack("<QI4x16s", mask, relation, body)

    def cache(level: int, size: int, kind: int) -> bytes:
        return record(3, 2, struct.pack("<BBHII", level, 8, 64, size, kind))

    data = record(0b0011, 0) + record(0b1100, 0) + record(0b1111, 1) + cache(1, 32768, 2) + cache(1, 65536, 1)
    layout = host._parse_windows_records(data + cache(3, 1 << 20, 0) + b"rest")
    assert layout.cores == ((0, 1), (2, 3))
    assert layout.caches == {1: 32768, 3: 1 << 20}


def test_py_cpuinfo_gives_what_the_files_of_the_running_system_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = {
        "brand_raw": "Some CPU",
        "vendor_id_raw": "GenuineIntel",
        "flags": ["avx512vnni", "avx2"],
        "hz_advertised": (2, 0),
    }
    fake = type(sys)("cpuinfo")
    fake.get_cpu_info = lambda: info  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cpuinfo", fake)
    monkeypatch.setattr(host, "ROOT", tmp_path)
    facts = read_cpu(tmp_path)
    assert (facts.model, facts.vendor, facts.isa) == ("Some CPU", "GenuineIntel", ("avx2", "avx512_vnni"))


def test_a_failing_py_cpuinfo_leaves_the_facts_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cpuinfo", None)
    monkeypatch.setattr(host, "ROOT", tmp_path)
    facts = read_cpu(tmp_path)
    assert (facts.model, facts.isa) == (None, ())


def test_a_simulated_system_never_takes_facts_from_the_running_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise AssertionError("the running system was asked")

    for name in ("_ask_py_cpuinfo", "_physical_count"):
        monkeypatch.setattr(host, name, refuse)
    assert read_cpu(tmp_path).architecture is None


def imported_by(code: str) -> set[str]:
    script = f"import sys; {code}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere psutil may be asked")
def test_checking_threads_imports_the_standard_library_only() -> None:
    extra = imported_by("from latencykit.host import check_threads; check_threads(1)") - set(sys.stdlib_module_names)
    assert not extra & {"cpuinfo", "psutil", "numpy", "onnx", "onnxruntime", "torch", "msgspec"}
    assert "latencykit" in extra


def test_the_check_of_imports_can_fail() -> None:
    assert "psutil" in imported_by("import psutil")


def test_the_running_system_is_read_whatever_it_is() -> None:
    facts = read_cpu()
    json.dumps(dataclasses.asdict(facts))
    assert facts.system is not None
    assert facts.architecture is not None
    assert len(check_threads(1)) <= 1
    assert set(physical_cpus()) <= set(facts.allowed_cpus)
