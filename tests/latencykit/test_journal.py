"""The journal of measurements: torn, spoilt, of another machine; what is measured into it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latencykit.bench import SENTINEL_ID, steadiest
from latencykit.doctor import Verdict
from latencykit.errors import InputError, InterruptedRunError, NotComparableError
from latencykit.journal import Batch, Journal, measure_batches
from latencykit.kernels import kernel_model
from latencykit.runtime import Setting, runtime_version
from latencykit.sentinel import CONVOLUTION, NETWORK
from latencykit.sweep import NETWORK_PROTOCOLS
from tests.latencykit.building import KEYS, RUNTIME, entries, journal_of, make, stop_after
from tests.latencykit.made_up import (
    CPU,
    ONE,
    QUICK,
    FakeWorkers,
    relu_kernel,
)


def nothing(*_: object, **__: object) -> None:
    """Whom nobody asks how far it is."""


@pytest.fixture
def journal(out: Path, workers: FakeWorkers) -> Path:
    """The journal of a build that was stopped after five sample sets."""
    with pytest.raises(InterruptedRunError):
        make(out, advance=stop_after(5))
    return journal_of(out)


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": Verdict(True, (), dataclasses.replace(CPU, model="Another"))},
        {"verdict": Verdict(True, (), dataclasses.replace(CPU, isa=()))},
        {"protocol": dataclasses.replace(QUICK, samples=9)},
    ],
)
def test_the_journal_of_another_cpu_or_protocol_is_refused(out: Path, journal: Path, change: dict[str, Any]):
    before = journal.read_bytes()
    with pytest.raises(NotComparableError, match="begun on another CPU, runtime or protocol; delete it") as caught:
        make(out, **change)
    assert caught.value.exit_code == 4
    assert journal.read_bytes() == before


def test_the_journal_of_another_runtime_is_refused(out: Path, journal: Path):
    text = journal.read_text()
    journal.write_text(text.replace(f'"onnxruntime":"{runtime_version()}"', '"onnxruntime":"1.0.0"', 1))
    with pytest.raises(NotComparableError):
        make(out)


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_torn_last_line_is_measured_again(out: Path, journal: Path, workers: FakeWorkers, cut: int):
    whole = len(entries(journal))
    journal.write_bytes(journal.read_bytes()[:-cut])
    opened = Journal(journal, CPU, RUNTIME, QUICK, NETWORK_PROTOCOLS)
    assert len(opened.samples(ONE)) == (whole if cut == 1 else whole - 1)
    assert journal.read_bytes().endswith(b"}\n")
    assert len(make(out).table.rows) == len(KEYS)


@pytest.mark.parametrize("text", ["", '{"cpu": {"mod'])
def test_a_torn_first_line_starts_the_journal_over(out: Path, text: str):
    out.parent.mkdir()
    journal_of(out).write_text(text)
    opened = Journal(journal_of(out), CPU, RUNTIME, QUICK)
    assert opened.samples(ONE) == []
    assert Journal(journal_of(out), CPU, RUNTIME, QUICK).samples(ONE) == []  # its first line is whole now


@pytest.mark.parametrize(
    "lines",
    [["[]"], ["3"], ['{"cpu": {}}'], ["my thesis", "by me"], None],
    ids=["a list", "a number", "half a header", "text", "bytes"],
)
def test_a_file_that_is_no_journal_is_refused_and_kept(out: Path, lines: list[str] | None):
    out.parent.mkdir()
    content = b"\xff\xfe\n" if lines is None else ("\n".join(lines) + "\n").encode()
    journal_of(out).write_bytes(content)
    with pytest.raises(InputError, match="not a journal of measurements"):
        Journal(journal_of(out), CPU, RUNTIME, QUICK)
    assert journal_of(out).read_bytes() == content


@pytest.mark.parametrize("line", ["garbage", "{}", "[]", '{"setting": {"threads": 1}, "sample": {"id": "a"}}'])
def test_a_broken_line_in_the_middle_is_refused(out: Path, journal: Path, line: str):
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    with pytest.raises(InputError, match="not a journal of measurements"):
        make(out)


def test_samples_are_kept_by_setting(out: Path, journal: Path):
    opened = Journal(journal, CPU, RUNTIME, QUICK, NETWORK_PROTOCOLS)
    assert len(opened.samples(ONE)) == len(entries(journal))
    assert opened.samples(Setting(2)) == []


def test_the_journal_of_a_build_with_other_protocols_for_networks_is_refused(tmp_path: Path):
    path = tmp_path / "j"
    Journal(path, CPU, RUNTIME, QUICK, (QUICK,))
    assert Journal(path, CPU, RUNTIME, QUICK, (QUICK,)).samples(ONE) == []
    for others in ((), (dataclasses.replace(QUICK, samples=9),)):
        with pytest.raises(NotComparableError, match="protocol; delete it"):
            Journal(path, CPU, RUNTIME, QUICK, others)


def test_a_batch_knows_the_fastest_sentinel_of_all_that_the_journal_holds(tmp_path: Path, monkeypatch):
    """A batch that begins in a slow state of the machine is not taken for a fast one."""

    def batch(models: dict[str, tuple[Callable[[], bytes], bool]]) -> list[Batch]:
        return [Batch(QUICK, models, CONVOLUTION, None)]

    monkeypatch.setattr("latencykit.bench.PATIENCE_S", 0)
    journal = Journal(tmp_path / "j", CPU, RUNTIME, QUICK)
    rows, networks = ({name: (lambda: kernel_model(relu_kernel(2)), True)} for name in ("row", "network"))
    FakeWorkers(tmp_path / "fast", monkeypatch, states=[50.0])
    measure_batches(batch(rows), ONE, journal, nothing)
    workers = FakeWorkers(tmp_path / "slow", monkeypatch, states=[80.0, 80.0, 51.0])
    told = []
    measure_batches(batch(networks), ONE, journal, lambda name, note="", units=1: told.append((note, units)))
    assert [order for order in workers.orders if order != [SENTINEL_ID]] == [["network"]] * 4
    assert max(s.state_us for s in steadiest(journal.samples(ONE)).values()) == 51.0
    assert sum(units for _, units in told) == QUICK.processes
    assert {note for note, units in told if not units} == {"the machine was in another state: taking samples again"}


def test_each_sentinel_is_held_against_itself(tmp_path: Path, monkeypatch):
    """A network's milliseconds beside a convolution's microseconds are no slow state."""
    journal = Journal(tmp_path / "j", CPU, RUNTIME, QUICK)
    row, network = ({name: (lambda: kernel_model(relu_kernel(2)), True)} for name in ("row", "network"))
    FakeWorkers(tmp_path / "row", monkeypatch, states=[50.0])
    measure_batches([Batch(QUICK, row, CONVOLUTION, 48.0)], ONE, journal, nothing)
    workers = FakeWorkers(tmp_path / "network", monkeypatch, states=[2000.0])
    measure_batches([Batch(QUICK, network, NETWORK, None)], ONE, journal, nothing)
    assert workers.orders == [["network"]] * QUICK.processes
    assert {s.state_us for s in journal.samples(ONE, "convolution")} == {50.0}
    assert {s.state_us for s in journal.samples(ONE, "network")} == {2000.0}
    assert len(Journal(tmp_path / "j", CPU, RUNTIME, QUICK).samples(ONE, "network")) == QUICK.processes
    workers = FakeWorkers(tmp_path / "slow", monkeypatch, states=[2200.0, 2000.0])  # 10 % are too much for the network
    measure_batches([Batch(QUICK, {"other": network["network"]}, NETWORK, None)], ONE, journal, nothing)
    assert len([order for order in workers.orders if order == ["other"]]) > QUICK.processes


def test_a_journal_from_before_networks_had_their_own_sentinel_is_refused(tmp_path: Path):
    path = tmp_path / "j"
    Journal(path, CPU, RUNTIME, QUICK)
    header = json.loads(path.read_text(encoding="utf-8"))
    del header["sentinels"]
    path.write_text(json.dumps(header) + "\n", encoding="utf-8")
    with pytest.raises(NotComparableError, match="protocol; delete it"):
        Journal(path, CPU, RUNTIME, QUICK)
