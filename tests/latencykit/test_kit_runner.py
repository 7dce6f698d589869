"""A kit on its target: what is measured under which settings, killed and resumed, and how it ends. No clock."""

import dataclasses
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from latencykit import kit_runner as module
from latencykit import sweep
from latencykit.bench import Sample
from latencykit.checks import Reason
from latencykit.doctor import Verdict
from latencykit.errors import InputError, NotComparableError, UnfitError, UsageError
from latencykit.host import read_cpu
from latencykit.kit import make_kit
from latencykit.kit_ingest import ingest
from latencykit.kit_plan import KIT_FORMAT, KitPlan, plan_to_bytes
from latencykit.kit_runner import main, run, settings_of
from latencykit.measurement import Protocol
from latencykit.runtime import Setting
from latencykit.sentinel import SentinelModel
from latencykit.table import Table, model_id
from latencykit.worker import Item
from tests.latencykit.made_up import TINY

PLAN = KitPlan(KIT_FORMAT, "0.1.0", (TINY,), 5, 8, 2)
VERDICT = Verdict(True, (), read_cpu())


def unpacked(plan: KitPlan, models: dict[str, bytes], folder: Path) -> Path:
    make_kit(folder / "kit.zip", plan, models, {})
    with zipfile.ZipFile(folder / "kit.zip") as archive:
        archive.extractall(folder / "kit")
    return folder / "kit"


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory, tiny_network: bytes) -> Path:
    plan = dataclasses.replace(PLAN, models={model_id(tiny_network): "mine.onnx"})
    return unpacked(plan, {"mine.onnx": tiny_network}, tmp_path_factory.mktemp("kit"))


LOWERED: dict[bytes, Any] = {}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few networks, lowered once; and a disk that is not waited for."""
    real = module.lower

    def lower(plan: KitPlan, models: Any) -> Any:
        name = plan_to_bytes(plan)
        if name not in LOWERED:
            LOWERED[name] = real(plan, models)
        return LOWERED[name]

    monkeypatch.setattr(module, "lower", lower)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class FakeClock:
    """Stands for the measuring processes: figures that depend on the file alone, and a stop after some."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> None:
        self.measured: list[tuple[Setting, float | None, str, int]] = []
        self.stop_after = stop_after
        self.attempts = set[int]()
        monkeypatch.setattr("latencykit.journal.measure_items", self.measure)
        monkeypatch.setattr(sweep, "sentinel_us", lambda setting, reference_us: reference_us)
        monkeypatch.setattr(module, "doctor", lambda: VERDICT)

    def measure(
        self,
        items: Sequence[Item],
        setting: Setting,
        protocol: Protocol,
        *,
        known: Sequence[Sample],
        sentinel: SentinelModel,
        attempts: int,
        **_: Any,
    ) -> Iterator[Sample]:
        self.attempts.add(attempts)
        done = {(sample.id, sample.process) for sample in known}
        for process in range(protocol.processes):
            for item in items:
                if (item.id, process) in done:
                    continue
                if self.stop_after is not None and len(self.measured) == self.stop_after:
                    raise KeyboardInterrupt
                self.measured.append((setting, protocol.pace_hz, item.id, process))
                cost_us = 3 + Path(item.path).stat().st_size / (500 if item.as_is else 100)
                affinity = ("0",) if setting.pinned else ()
                yield Sample(item.id, process, (cost_us,) * 2, affinity, None, 0.001, (60.0, 60.0), sentinel.name)


# Settings


def cores(monkeypatch: pytest.MonkeyPatch, count: int, usable: int | None = None, pins: bool = True) -> None:
    """A machine of so many cores, of which a quota leaves some."""
    usable = usable or count

    def check(threads: int) -> tuple[int, ...]:
        if threads > usable:
            raise UnfitError(f"{threads} threads were asked for, this machine has {usable}")
        return tuple(range(threads)) if pins else ()

    monkeypatch.setattr(module, "physical_cpus", lambda: tuple(range(count)) if pins else ())
    monkeypatch.setattr(module, "ask_core_count", lambda: count or None)
    monkeypatch.setattr(module, "check_threads", check)


@pytest.mark.parametrize(
    ("count", "usable", "threads"),
    [
        (1, 1, [1]),
        (2, 2, [1, 2]),
        (3, 3, [1, 3]),
        (4, 4, [1, 4]),
        (6, 6, [1, 4, 6]),
        (64, 64, [1, 4, 64]),
        (8, 5, [1, 4]),
    ],
)
def test_the_usual_thread_counts(monkeypatch: pytest.MonkeyPatch, count: int, usable: int, threads: list[int]):
    cores(monkeypatch, count, usable)
    assert settings_of(None) == [Setting(n) for n in threads]


def test_a_machine_that_tells_no_cores_is_measured_at_one_thread(monkeypatch: pytest.MonkeyPatch):
    cores(monkeypatch, 0, 1, pins=False)
    assert settings_of(None) == [Setting(1, pinned=False)]


def test_threads_that_cannot_be_pinned_are_not_said_to_be(monkeypatch: pytest.MonkeyPatch):
    cores(monkeypatch, 4, pins=False)
    assert settings_of("2,1,2") == [Setting(2, pinned=False), Setting(1, pinned=False)]
    cores(monkeypatch, 4)
    assert settings_of("2") == [Setting(2)]
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    assert settings_of("2") == [Setting(2, pinned=False)]


def test_thread_counts_that_are_none_or_too_many_are_refused(monkeypatch: pytest.MonkeyPatch):
    cores(monkeypatch, 2)
    with pytest.raises(UsageError, match="numbers with commas"):
        settings_of("1,x")
    with pytest.raises(UnfitError, match="3 threads"):
        settings_of("3")


# Runs


def test_a_run_gives_a_result_that_ingest_takes(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_network
):
    clock = FakeClock(monkeypatch)
    run(kit, tmp_path / "out" / "r.zip", "1")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["r.zip"]
    found = ingest(tmp_path / "out" / "r.zip")
    assert found.table.settings == (Setting(1),)
    assert found.affinity == {Setting(1): (("0",),)}
    assert [model.id for model in found.models] == [model_id(tiny_network)]
    assert found.table.cpu == VERDICT.cpu
    assert found.table.doctor["fit"] is True
    unseen = {network.id for network in found.table.networks} - {timing.network for timing in found.table.timings}
    assert len(unseen) == 3  # two unseen ones and the user's
    last = [name for _, _, name, _ in clock.measured][-3 * 4 :]
    assert set(last) == unseen  # after everything else


@pytest.mark.parametrize("stops", [[1], [150, 200], [-1], [-9]])
def test_a_run_that_is_stopped_goes_on_and_measures_nothing_twice(
    stops: list[int], kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = FakeClock(monkeypatch)
    run(kit, tmp_path / "whole.zip", "1")
    measured = []
    for stop in stops:
        clock = FakeClock(monkeypatch, stop if stop > 0 else len(whole.measured) + stop)
        with pytest.raises(KeyboardInterrupt):
            run(kit, tmp_path / "r.zip", "1")
        measured += clock.measured
    last = FakeClock(monkeypatch)
    run(kit, tmp_path / "r.zip", "1")
    measured += last.measured
    assert len(measured) == len(set(measured)) == len(whole.measured)
    assert set(measured) == set(whole.measured)
    one, other = (ingest(tmp_path / name).table for name in ("whole.zip", "r.zip"))
    assert one.rows == other.rows
    assert one.timings == other.timings
    assert one.validations == other.validations
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.zip", "whole.zip"]


def test_what_another_machine_began_is_not_gone_on_with(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    FakeClock(monkeypatch, 5)
    with pytest.raises(KeyboardInterrupt):
        run(kit, tmp_path / "r.zip", "1")
    other = dataclasses.replace(VERDICT, cpu=dataclasses.replace(VERDICT.cpu, model="Another"))
    FakeClock(monkeypatch)
    monkeypatch.setattr(module, "doctor", lambda: other)
    with pytest.raises(NotComparableError, match="begun on another CPU"):
        run(kit, tmp_path / "r.zip", "1")


def test_timings_in_another_state_of_the_machine_are_counted(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    clock = FakeClock(monkeypatch)
    steady = clock.measure

    def measure(items: Sequence[Item], setting: Setting, protocol: Protocol, **more: Any) -> Iterator[Sample]:
        for sample in steady(items, setting, protocol, **more):
            unseen = dataclasses.replace(protocol, processes=module.VALIDATION_PROTOCOL.processes)
            later = unseen == module.VALIDATION_PROTOCOL and sample.process == 1
            yield dataclasses.replace(sample, sentinel_us=(60.0, 90.0 if later else 60.0))

    monkeypatch.setattr("latencykit.journal.measure_items", measure)
    run(kit, tmp_path / "r.zip", "1")
    found = ingest(tmp_path / "r.zip")
    assert found.validations[0][1].unsteady == 2
    assert any("2 timings" in warning for warning in found.warnings)


def test_a_trial_measures_once_and_says_so_in_its_table(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = FakeClock(monkeypatch)
    monkeypatch.setattr("latencykit.kit_plan.TRIAL_FIT_NETWORKS", 6)
    run(kit, tmp_path / "r.zip", "1", quick=True)
    assert clock.attempts == {1}
    found = ingest(tmp_path / "r.zip")
    assert found.table.validations[0]["trial"] is True
    assert "a trial" in found.warnings[0]
    assert {timing.pace_hz for timing in found.table.timings} == {None}


def test_a_model_that_the_target_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    FakeClock(monkeypatch)
    folder = unpacked(dataclasses.replace(PLAN, models={model_id(b"x"): "mine.onnx"}), {"mine.onnx": b"x"}, tmp_path)
    with pytest.raises(InputError, match=r"models/mine\.onnx: onnxruntime refuses"):
        run(folder, tmp_path / "r.zip", "1")


# Endings

Ending = Callable[..., Any]


def ending(error: BaseException) -> Ending:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UnfitError("too hot"), 5, "error: too hot"),
        (KeyboardInterrupt(), 7, "the same command goes on"),
        (OSError("disk full"), 6, "disk full"),
        (RuntimeError("nobody foresaw"), 70, "Traceback"),
    ],
)
def test_an_error_ends_with_its_exit_code(
    error: BaseException, code: int, message: str, kit: Path, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.setattr(module, "settings_of", ending(error))
    assert main(str(kit), ["--out", str(tmp_path / "r.zip")]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_a_result_that_is_there_is_not_overwritten(kit: Path, tmp_path: Path, capsys):
    (tmp_path / "r.zip").write_text("my thesis")
    assert main(str(kit), ["--out", str(tmp_path / "r.zip")]) == 2
    assert (tmp_path / "r.zip").read_text() == "my thesis"
    assert "is there already" in capsys.readouterr().err


def test_an_unfit_machine_is_refused_unless_forced(kit: Path, tmp_path: Path, monkeypatch, capsys):
    FakeClock(monkeypatch)
    reason = Reason("stolen-time", 20, "at most 1 % of a core", "wait", fatal=True)
    monkeypatch.setattr(module, "doctor", lambda: Verdict(False, (reason,), VERDICT.cpu))
    words = ["--out", str(tmp_path / "r.zip"), "--threads", "1"]
    assert main(str(kit), words) == 5
    assert "stolen-time is 20" in capsys.readouterr().err
    assert main(str(kit), [*words, "--force"]) == 0
    assert "calibrated at 1 thread" in capsys.readouterr().err
    table: Table = ingest(tmp_path / "r.zip").table
    assert table.doctor["fit"] is False
    assert json.loads(json.dumps(table.doctor["reasons"]))[0]["code"] == "stolen-time"


def test_words_that_are_none_are_usage_errors(kit: Path):
    for words in ([], ["--warp", "--out", "x"]):
        with pytest.raises(SystemExit) as stop:
            main(str(kit), words)
        assert stop.value.code == 2
