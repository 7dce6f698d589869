"""Building a table: on made-up measuring processes, and killed for real in the middle."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from latencykit.checks import Reason
from latencykit.doctor import Verdict
from latencykit.errors import InputError, InterruptedRunError, LatencyKitError, NotComparableError
from latencykit.kernels import CALL_OVERHEAD
from latencykit.keys import Key, Primitive, key_id
from latencykit.runtime import Setting, runtime_version
from latencykit.spec import Conv, Identity
from latencykit.sweep import ROW_PROTOCOL, SENTINEL_ID, Built, Journal, Plan, build, key_model, plan_build
from latencykit.table_file import load_table
from tests.latencykit.made_up import CPU, ONE, QUICK, TINY_JSON, FakeWorkers, made_up_table, relu_kernel

FIT = Verdict(True, (), CPU)
CONV = Primitive((Conv(4),), ((2, 8, 8),))
IDENTITY = Primitive((Identity(),), ((2, 8, 8),))
KEYS: list[Key] = [CALL_OVERHEAD, relu_kernel(2), relu_kernel(4), CONV, IDENTITY]
TIMED = 4  # all but the identity
RUNTIME = {"onnxruntime": runtime_version()}


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeWorkers:
    return FakeWorkers(tmp_path, monkeypatch)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "luts" / "table.json"


def journal_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.journal")


def make(out: Path, keys: list[Key] = KEYS, settings: tuple[Setting, ...] = (ONE,), **changes: Any) -> Built:
    return build(out, plan_build(out, settings, keys), **{"verdict": FIT, "protocol": QUICK, **changes})


def entries(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text().splitlines()[1:]]


def stop_after(count: int, error: type[BaseException] = KeyboardInterrupt):
    """Something to advance that raises at the n-th sample set."""
    seen: list[str] = []

    def advance(name: str) -> None:
        seen.append(name)
        if len(seen) == count:
            raise error

    return advance


def test_nothing_wanted_gives_a_table_without_rows(out: Path, workers: FakeWorkers):
    built = make(out, [])
    assert (built.measured, built.reused, built.table.rows) == (0, 0, ())
    assert workers.orders == []


def test_what_a_plan_wants_and_misses(out: Path):
    plan = plan_build(out, (ONE, Setting(2)), [*KEYS, KEYS[0]])
    assert plan.table is None
    assert len(plan.wanted) == len(plan.missing) == 2 * len(KEYS)
    assert plan.estimate_s(QUICK) > 0
    out.parent.mkdir()
    made_up_table({KEYS[1]: 5.0}).save(out)
    assert plan_build(out, (ONE,), KEYS).missing == tuple((ONE, key) for key in KEYS[2:])


def test_a_file_that_is_no_table_is_not_overwritten(out: Path):
    out.parent.mkdir()
    out.write_text("my thesis")
    with pytest.raises(InputError, match=r"table\.json"):
        plan_build(out, (ONE,), KEYS)
    assert out.read_text() == "my thesis"


def test_a_build_measures_every_row_in_every_process_after_the_sentinel(out: Path, workers: FakeWorkers):
    seen: list[str] = []
    built = make(out, advance=seen.append)
    assert (built.measured, built.reused) == (len(KEYS), 0)
    assert [order[0] for order in workers.orders] == [SENTINEL_ID] * 2
    assert [set(order[1:]) for order in workers.orders] == [{key_id(key) for key in KEYS[:TIMED]}] * 2
    assert Counter(seen) == {key_id(key): 2 for key in KEYS[:TIMED]}
    table = load_table(out)
    assert [row.key for row in table.rows] == KEYS
    assert [row.origin for row in table.rows] == ["measured"] * TIMED + ["defined"]
    assert {row.measurement.processes for row in table.rows if row.measurement} == {2}
    assert [(sentinel.setting, len(sentinel.medians_us)) for sentinel in table.sentinels] == [(ONE, 2)]
    assert table.doctor["fit"] is True
    assert not journal_of(out).exists()
    assert built.timed_s <= built.wall_s


def test_a_second_build_measures_nothing_and_leaves_the_table_as_it_was(out: Path, workers: FakeWorkers):
    make(out)
    before, processes = out.read_bytes(), len(workers.orders)
    built = make(out)
    assert (built.measured, built.reused) == (0, len(KEYS))
    assert len(workers.orders) == processes
    assert out.read_bytes() == before


def test_a_table_is_completed_with_what_it_misses(out: Path, workers: FakeWorkers):
    make(out, KEYS[:2])
    built = make(out)
    assert (built.measured, built.reused) == (3, 2)
    assert not {key_id(key) for key in KEYS[:2]} & set(workers.orders[-1])
    assert {row.key for row in built.table.rows} == set(KEYS)


def test_keys_that_need_no_clock_start_no_process(out: Path, workers: FakeWorkers):
    assert make(out, [IDENTITY]).measured == 1
    assert workers.orders == []


def test_the_table_of_another_cpu_or_runtime_is_refused_before_anything_runs(out: Path, workers: FakeWorkers):
    make(out, KEYS[:2])
    with pytest.raises(NotComparableError, match="another CPU"):
        make(out, verdict=Verdict(True, (), dataclasses.replace(CPU, model="Another")))
    table = load_table(out)
    dataclasses.replace(table, runtime={**table.runtime, "onnxruntime": "1.0.0"}).save(out)
    with pytest.raises(NotComparableError, match=r"onnxruntime 1\.0\.0"):
        make(out)
    assert len(workers.orders) == 2


def test_ctrl_c_keeps_the_journal_and_the_same_call_goes_on(out: Path, workers: FakeWorkers):
    with pytest.raises(InterruptedRunError, match=r"journal.*same command resumes"):
        make(out, advance=stop_after(5))
    assert not out.exists()
    kept = {(entry["sample"]["id"], entry["sample"]["process"]) for entry in entries(journal_of(out))}
    assert len(kept - {(SENTINEL_ID, 0), (SENTINEL_ID, 1)}) == 5
    seen: list[str] = []
    built = make(out, advance=seen.append)
    assert len(seen) == 2 * TIMED
    assert {row.measurement.processes for row in built.table.rows if row.measurement} == {2}
    again = [name for order in workers.orders[2:] for name in order if name != SENTINEL_ID]
    assert len(again) == 2 * TIMED - 5
    assert not journal_of(out).exists()


def test_any_other_end_keeps_the_journal_too(out: Path, workers: FakeWorkers):
    with pytest.raises(ZeroDivisionError):
        make(out, advance=stop_after(3, ZeroDivisionError))
    assert len(entries(journal_of(out))) == 3 + 1
    assert make(out).table.rows


def test_a_measuring_process_that_dies_keeps_what_came_before(tmp_path, out, monkeypatch: pytest.MonkeyPatch):
    FakeWorkers(tmp_path, monkeypatch, "if index == 3: os.kill(os.getpid(), 9)")
    with pytest.raises(LatencyKitError, match="ended with -9"):
        make(out)
    assert len(entries(journal_of(out))) == 3


def test_a_build_removes_what_a_killed_one_left_and_leaves_nothing_but_the_table(out: Path, workers: FakeWorkers):
    out.parent.mkdir()
    left = [out.with_name(".table.json.abc.tmp"), out.with_name(".table.json.journal.def.tmp")]
    left[0].write_text("half a table")
    left[1].mkdir()
    (left[1] / "kernel.onnx").write_text("")
    make(out)
    assert list(out.parent.iterdir()) == [out]


def test_rows_that_need_no_measuring_again_lie_in_another_setting(out: Path, workers: FakeWorkers):
    make(out, KEYS[:2])
    plan = plan_build(out, (ONE, dataclasses.replace(ONE, spinning=False)), KEYS[:2])
    built = build(out, plan, FIT, QUICK)
    assert (built.measured, built.reused) == (2, 2)
    assert len(built.table.settings) == 2


def test_a_resumed_build_measures_its_sentinel_first_and_refuses_another_answer(tmp_path, out, monkeypatch):
    FakeWorkers(tmp_path, monkeypatch)
    with pytest.raises(InterruptedRunError):
        make(out, advance=stop_after(3))
    slower = tmp_path / "slower"
    slower.mkdir()
    workers = FakeWorkers(slower, monkeypatch, 'result["samples_us"] = [50.0] * len(samples)')
    with pytest.raises(NotComparableError, match=r"sentinel kernel took .* before and takes 50"):
        make(out)
    assert workers.orders == [[SENTINEL_ID]] * QUICK.processes
    assert journal_of(out).exists()


def test_an_extension_measures_the_tables_sentinel_first_and_keeps_both_verdicts(tmp_path, out, monkeypatch):
    FakeWorkers(tmp_path, monkeypatch)
    first = make(out)
    slower = tmp_path / "slower"
    slower.mkdir()
    FakeWorkers(slower, monkeypatch, 'result["samples_us"] = [50.0] * len(samples)')
    more = [*KEYS, relu_kernel(77)]
    with pytest.raises(NotComparableError, match="before and takes 50"):
        make(out, keys=more)
    journal_of(out).unlink()
    FakeWorkers(tmp_path, monkeypatch)
    unfit = Verdict(False, (Reason("other-load", 90.0, "at most 10 %", "stop it", True),), CPU)
    second = make(out, keys=more, verdict=unfit)
    assert second.table.parents == (first.table_checksum(table),)
    assert second.table.doctor["fit"] is False
    assert [reason["code"] for reason in second.table.doctor["reasons"]][-1] == "other-load"
    assert second.drift_pct < 30


# The journal


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
    opened = Journal(journal, CPU, RUNTIME, QUICK)
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
    with pytest.raises(InputError, match="not a build's journal"):
        Journal(journal_of(out), CPU, RUNTIME, QUICK)
    assert journal_of(out).read_bytes() == content


@pytest.mark.parametrize("line", ["garbage", "{}", "[]", '{"setting": {"threads": 1}, "sample": {"id": "a"}}'])
def test_a_broken_line_in_the_middle_is_refused(out: Path, journal: Path, line: str):
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    with pytest.raises(InputError, match="not a build's journal"):
        make(out)


def test_samples_are_kept_by_setting(out: Path, journal: Path):
    opened = Journal(journal, CPU, RUNTIME, QUICK)
    assert len(opened.samples(ONE)) == len(entries(journal))
    assert opened.samples(Setting(2)) == []


def test_a_plan_without_missing_rows_costs_no_time():
    assert Plan(None, (), ()).estimate_s() == 0


def test_every_kind_of_key_has_a_model_that_measures_it():
    assert all(key_model(key) for key in KEYS)


# Killed for real


# a shell's background jobs ignore SIGINT, and what they start inherits that
_COMMAND = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from latencykit.cli import main; main()"
)
_KEEP_JOURNAL = f"import latencykit.sweep as s; s.Journal.remove = lambda self: None; {_COMMAND}"


@pytest.fixture
def command(tmp_path: Path) -> Iterator[list[str]]:
    (tmp_path / "space.json").write_text(TINY_JSON)
    yield ["build", "--out", str(tmp_path / "t.json"), "--space", str(tmp_path / "space.json"), "--strides", "1",
           "--threads", "1", "--force", "--json"]  # fmt: skip
    shutil.rmtree(tmp_path)


def start(command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _COMMAND, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_lines(journal: Path, count: int, running: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < count:
        assert running.poll() is None, running.stderr.read()
        assert time.monotonic() < deadline, "no samples came"
        time.sleep(0.02)


def measuring(parent: int) -> list[Path]:
    """The measuring processes that a build has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if int((path / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent:
                found.append(path)
        except OSError:
            continue
    return found


@pytest.mark.real_clock
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_killed_build_goes_on_where_it_was_and_measures_nothing_twice(command: list[str], tmp_path: Path):
    journal = tmp_path / "t.json.journal"
    running = start(command)
    wait_for_lines(journal, 40, running)
    workers = measuring(running.pid)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert running.returncode == -signal.SIGKILL
    assert not (tmp_path / "t.json").exists()
    deadline = time.monotonic() + 10
    while any(path.exists() for path in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(path.exists() for path in workers)  # the measuring process ends by itself
    before = journal.read_text().splitlines()

    for _ in range(5):
        resumed = subprocess.run(
            [sys.executable, "-c", _KEEP_JOURNAL, *command], capture_output=True, text=True, check=False
        )
        if resumed.returncode != 4:  # on a busy machine the sentinel may differ; the message says to run it again
            break
        assert "sentinel" in resumed.stderr
    assert resumed.returncode == 0, resumed.stderr
    result = json.loads(resumed.stdout)
    table = load_table(tmp_path / "t.json")
    assert sum(result["rows"].values()) == result["measured"] == len(table.rows)

    after = journal.read_text().splitlines()
    whole = before if before[-1].endswith("}}") else before[:-1]
    assert after[: len(whole)] == whole
    sets = Counter((e["sample"]["id"], e["sample"]["process"]) for e in entries(journal))
    timed = {key_id(row.key) for row in table.rows if row.origin == "measured"}
    rows = {key: count for key, count in sets.items() if key[0] != SENTINEL_ID}
    assert set(rows) == {(name, process) for name in timed for process in range(ROW_PROTOCOL.processes)}
    assert set(rows.values()) == {1}
    assert {row.measurement.processes for row in table.rows if row.measurement} == {ROW_PROTOCOL.processes}


@pytest.mark.real_clock
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_ends_with_7_and_keeps_the_journal(command: list[str], tmp_path: Path):
    journal = tmp_path / "t.json.journal"
    running = start(command)
    wait_for_lines(journal, 5, running)
    running.send_signal(signal.SIGINT)
    output, errors = running.communicate(timeout=30)
    assert running.returncode == 7
    assert output == ""
    assert "the same command resumes" in errors
    assert str(journal) in errors
    assert len(entries(journal)) >= 4
    assert not (tmp_path / "t.json").exists()
