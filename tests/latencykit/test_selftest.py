"""The self-test: what it pairs, how it is judged, and that it can fail."""

import json
from functools import partial
from pathlib import Path

import pytest

from latencykit.cli import main
from latencykit.commands import compare as commands
from latencykit.errors import UsageError
from latencykit.measurement import Protocol
from latencykit.selftest import BARS_PCT, ITEMS_A_KERNEL, PLANTED_PCT, selftest, selftest_kernels
from latencykit.topology import physical_cpus
from tests.ended import Tool, run_command
from tests.latencykit.made_up import ONE, TINY, FakeWorkers, relu_kernel

KERNELS = [relu_kernel(channels) for channels in range(1, 11)]
THREE = Protocol(samples=2, block_us=0, warmup_ms=0, processes=3)
HONEST = 'result["samples_us"] = [v * (1 + item["slowdown_pct"] / 100) for v in samples]'
LAZY = "pass"
ALARMED = 'result["samples_us"] = [v * (1 + 0.2 * ("+" in item["id"])) for v in samples]'


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Tool:
    monkeypatch.setattr(commands, "selftest_kernels", lambda pairs: KERNELS[:pairs])
    return partial(run_command, main, "latencykit", "selftest", "--threads", "1")


def test_every_kernel_is_measured_four_times_in_every_process_and_judged_in_pairs(tmp_path, monkeypatch):
    workers = FakeWorkers(tmp_path, monkeypatch, HONEST)
    seen: list[object] = []
    found = selftest(ONE, KERNELS, THREE, seen.append)
    assert len(seen) == len(KERNELS) * ITEMS_A_KERNEL * THREE.processes
    assert [len(set(order)) for order in workers.orders] == [len(KERNELS) * ITEMS_A_KERNEL] * 3
    assert len({tuple(order) for order in workers.orders}) == 3  # each in an order of its own
    for order in workers.orders:  # the four of a kernel share the machine's state
        kernels = [name.partition("+")[0] for name in order]
        assert [kernels[n : n + ITEMS_A_KERNEL] for n in range(0, len(kernels), ITEMS_A_KERNEL)] == [
            [name] * ITEMS_A_KERNEL for name in kernels[::ITEMS_A_KERNEL]
        ]
    assert [(pair.kernel, pair.planted_pct) for pair in found.pairs] == [(k, p) for k in KERNELS for p in PLANTED_PCT]
    for pair in found.pairs:
        assert pair.judgement.ratio == pytest.approx(1 + pair.planted_pct / 100)
        assert pair.right
    assert found.shortfalls == []
    assert (found.right_pct(0.0), found.right_pct(5.0, 10.0)) == (100, 100)


@pytest.mark.parametrize(
    ("body", "short"),
    [(LAZY, ["slowdowns of 5 % found: 0 of", "slowdowns of 10 % found: 0 of"]), (ALARMED, ["read SAME: 0 of"])],
)
def test_measuring_that_sees_nothing_or_too_much_fails(body: str, short: list[str], tmp_path, monkeypatch):
    FakeWorkers(tmp_path, monkeypatch, body)
    found = selftest(ONE, KERNELS, THREE)
    assert len(found.shortfalls) == len(short)
    assert all(words in line for words, line in zip(short, found.shortfalls, strict=True))


def test_no_pairs_are_refused():
    with pytest.raises(UsageError, match="--pairs"):
        selftest(ONE, [], THREE)


def test_a_self_test_in_json(tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    FakeWorkers(tmp_path, monkeypatch, HONEST)
    code, out, _ = tool("--pairs", 4, "--json")
    assert code == 0
    data = json.loads(out)
    assert set(data) == {
        *("schema", "command", "warnings", "threads", "pairs", "processes", "same_pct", "slowdown_found_pct"),
        *("slowdown_5_found_pct", "slowdown_10_found_pct", "passed", "wrong", "wall_s"),
    }
    assert (data["command"], data["threads"], data["pairs"], data["passed"]) == ("selftest", 1, 4, True)
    assert (data["same_pct"], data["slowdown_found_pct"], data["wrong"]) == (100, 100, [])


def test_a_self_test_that_fails_is_code_8_and_names_the_doctor(tool: Tool, tmp_path: Path, monkeypatch):
    FakeWorkers(tmp_path, monkeypatch, LAZY)
    code, out, err = tool("--pairs", 4)
    assert code == 8
    assert "SAME 100 %, planted +5 % found 0 %, planted +10 % found 0 %" in out
    assert "found: 0 of 4, at least 80 % expected: stop other programs and run `latencykit doctor`" in err
    code, out, _ = tool("--pairs", 4, "--json")
    data = json.loads(out)
    assert (code, data["passed"], data["same_pct"], data["slowdown_found_pct"]) == (8, False, 100, 0)
    assert [(wrong["planted_pct"], wrong["verdict"]) for wrong in data["wrong"]] == [(5.0, "SAME"), (10.0, "SAME")] * 4


def test_pairs_and_threads_that_do_not_fit_are_refused_before_anything_runs(tool, tmp_path, monkeypatch):
    workers = FakeWorkers(tmp_path, monkeypatch, HONEST)
    assert tool("--pairs", 0)[0] == 2
    code, _, err = tool("--threads", len(physical_cpus()) + 1)
    assert code == 5
    assert "--threads" in err
    assert workers.orders == []


def test_the_kernels_are_real_ones_of_a_network_and_come_again_where_there_are_too_few():
    kernels = selftest_kernels(400, TINY, least_bytes=1 << 12)
    assert len(kernels) == 400
    assert len(set(kernels)) < 400
    assert {kernel.op for kernel in kernels} >= {"Conv", "ConvTranspose", "MaxPool"}
    assert min(kernel.moved_bytes for kernel in kernels) >= 1 << 12
    assert selftest_kernels(7, TINY, least_bytes=1 << 12) == kernels[:7]


@pytest.mark.real_clock
def test_real_kernels_are_measured_slowed_and_judged(monkeypatch: pytest.MonkeyPatch):
    quick = Protocol(samples=3, block_us=200, warmup_ms=1, processes=3)
    found = selftest(ONE, selftest_kernels(3, TINY, least_bytes=1 << 12), quick)
    assert len(found.pairs) == 3 * len(PLANTED_PCT)
    assert {pair.judgement.outcome for pair in found.pairs} <= {"SAME", "FASTER", "SLOWER", "UNCLEAR"}
    assert all(pair.judgement.ratio > 0 for pair in found.pairs)


def test_the_bars_cover_what_is_planted():
    assert set(BARS_PCT) == set(PLANTED_PCT)
