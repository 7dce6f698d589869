"""The verdict on a simulated machine, and on the real one, of which only the structure is asserted."""

import dataclasses
import json
from pathlib import Path

import pytest

from latencykit.doctor import doctor, judge
from latencykit.errors import UsageError
from latencykit.snapshot import take_snapshot
from tests.latencykit.simulated import Machine, changed


def test_a_fit_machine_has_no_reasons(tmp_path: Path) -> None:
    verdict = Machine(tmp_path).examine()
    assert verdict.reasons == ()
    assert verdict.fit
    assert verdict.cpu.model == "A CPU"


def test_fatal_reasons_come_first(tmp_path: Path) -> None:
    verdict = changed(tmp_path, no_turbo="0", hypervisor=True, heated=1).examine()
    assert [reason.fatal for reason in verdict.reasons] == [True, False, False]


def test_a_verdict_is_json(tmp_path: Path) -> None:
    verdict = changed(tmp_path, hypervisor=True).examine()
    fields = json.loads(json.dumps(dataclasses.asdict(verdict), allow_nan=False))
    assert set(fields) == {"fit", "reasons", "cpu"}
    assert set(fields["reasons"][0]) == {"code", "value", "expected", "remedy", "fatal"}


def test_judging_the_same_snapshot_twice_gives_the_same_verdict(tmp_path: Path) -> None:
    machine = changed(tmp_path, heated=1)
    machine.write()
    snapshot = take_snapshot(tmp_path, 1.0, machine.sleep, machine.clock_ns, machine.work)
    assert judge(snapshot) == judge(snapshot)


@pytest.mark.parametrize("interval_s", [0.0, -1.0, float("nan")])
def test_an_interval_of_no_time_is_a_usage_error(tmp_path: Path, interval_s: float) -> None:
    with pytest.raises(UsageError, match="expected more than 0"):
        doctor(tmp_path, interval_s=interval_s)


@pytest.mark.real_clock
def test_the_running_machine_gets_a_verdict_whatever_it_is() -> None:
    verdict = doctor(interval_s=0.05)
    assert verdict.fit is not any(reason.fatal for reason in verdict.reasons)
    assert verdict.cpu.system is not None
