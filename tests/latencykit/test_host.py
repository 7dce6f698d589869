"""What a CPU is, read from simulated systems; one test reads the real one and asserts structure only."""

import dataclasses
import json
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latencykit import host, system_files
from latencykit.errors import InputError
from latencykit.host import CpuFacts, cpu_id, read_cpu
from latencykit.topology import check_threads, physical_cpus
from tests.latencykit.simulated import I7, cgroup_v2, i7, write


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
    monkeypatch.setattr(system_files, "ROOT", tmp_path)
    facts = read_cpu(tmp_path)
    assert (facts.model, facts.vendor, facts.isa) == ("Some CPU", "GenuineIntel", ("avx2", "avx512_vnni"))


def test_where_nothing_else_tells_numpy_gives_the_instruction_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = type(sys)("numpy._core._multiarray_umath")
    found = {"SSE42": True, "AVX2": True, "FMA3": True, "AVX512VNNI": True, "AVX512F": False, "X86_V3": True}
    fake.__cpu_features__ = found  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "numpy._core._multiarray_umath", fake)
    monkeypatch.setitem(sys.modules, "cpuinfo", None)
    monkeypatch.setattr(system_files, "ROOT", tmp_path)
    facts = read_cpu(tmp_path)
    assert (facts.model, facts.isa) == (None, ("sse4_2", "fma", "avx2", "avx512_vnni"))


def test_numpy_knows_this_processor() -> None:
    files = set(read_cpu().isa)
    assert host._isa(host._numpy_flags())
    assert not files or set(host._isa(host._numpy_flags())) <= files


def test_a_failing_py_cpuinfo_leaves_the_facts_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cpuinfo", "numpy._core._multiarray_umath"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(system_files, "ROOT", tmp_path)
    facts = read_cpu(tmp_path)
    assert (facts.model, facts.isa) == (None, ())


def test_a_simulated_system_never_takes_facts_from_the_running_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise AssertionError("the running system was asked")

    for name in ("_ask_py_cpuinfo", "_numpy_flags", "ask_core_count"):
        monkeypatch.setattr(host, name, refuse)
    assert read_cpu(tmp_path).architecture is None


def test_the_running_system_is_read_whatever_it_is() -> None:
    facts = read_cpu()
    json.dumps(dataclasses.asdict(facts))
    assert facts.system is not None
    assert facts.architecture is not None
    assert len(check_threads(1)) <= 1
    assert set(physical_cpus()) <= set(facts.allowed_cpus)
