"""The bars of a table: which run of a step is kept, and what is made of the figures."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import truth
from benchmarks.truth import BARS, OFF_PCT, STEPS, Bar, Step
from latencykit.table import make_row
from latencykit.table_file import load_table, save_table
from tests.latencykit.made_up import ONE, TWO, relu_kernel, steady, whole_table

FIGURES = {
    "n": 24, "constant": {"mape_pct": 12.0}, "macs": {"mape_pct": 7.0}, "repeat": {"mape_pct": 2.0},
    "tau_ratio": 1.01, "interval_coverage_pct": 90.0, "edge_against_kernel_pct": 1.2,
}  # fmt: skip


def part(mape_pct: float) -> dict[str, Any]:
    calibrated = {"mape_pct": mape_pct, "within_5_pct": 95.0, "within_10_pct": 100.0}
    return FIGURES | {"levels": {"kernel": {"raw": {"mape_pct": 10.0}, "calibrated": calibrated}}}


def validation(mape_pct: float, at_build_pct: float, slowdown_pct: float) -> dict[str, Any]:
    """What `validate --json` prints, as far as it is read."""
    whole, at_build = (
        {**part(pct), "sets": {name: part(pct) for name in ("uniform", "tails", "minimisers")}}
        for pct in (mape_pct, at_build_pct)
    )
    return {**whole, "slowdown_pct": slowdown_pct, "at_build_speed": at_build}


class Runs:
    """Runs of `latencykit` that print scripted validations, the last of them for ever; draws what is to be drawn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.answers = 0, [validation(2.0, 1.5, 0.5)]
        monkeypatch.setattr(truth, "_latencykit", self)

    def __call__(self, *words: str) -> dict[str, Any]:
        self.count += 1
        if "--plot" in words:
            Path(words[-1]).write_text(str(self.count), encoding="utf-8")
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(monkeypatch)


def kept(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def run_step(step: Step, out: Path, sha: str = "sha", seed: int = 11, runs: int = 3) -> None:
    truth._validate(step, ["validate", "t.json"], out / "s-1.json", {"costs_sha": sha, "seed": seed}, runs)


def test_a_step_is_run_again_until_the_machine_is_as_fast_as_in_the_build(runs: Runs, tmp_path: Path):
    runs.answers = [validation(9.0, 2.0, 7.0), validation(3.0, 2.2, -1.0)]
    run_step(Step("s", (), drawn=True), tmp_path)
    assert runs.count == 2
    found = kept(tmp_path / "s-1.json")
    assert (found["slowdown_pct"], found["slowdowns_of_all_runs_pct"]) == (-1.0, [7.0, -1.0])
    assert {path.name for path in tmp_path.iterdir()} == {"s-1.json", "s-1.png", "runs"}
    runs_kept = [kept(tmp_path / "runs" / f"s-1-{number}.json")["slowdown_pct"] for number in (1, 2)]
    assert runs_kept == [7.0, -1.0]
    assert (tmp_path / "s-1.png").read_text() == "2"


def test_of_runs_that_were_all_off_the_nearest_is_kept_not_the_one_with_the_smallest_error(runs: Runs, tmp_path: Path):
    runs.answers = [validation(4.0, 2.0, 5.0), validation(6.0, 2.2, -3.0), validation(1.0, 1.0, 9.0)]
    run_step(Step("s", (), drawn=True), tmp_path)
    assert runs.count == 3
    assert kept(tmp_path / "s-1.json")["levels"]["kernel"]["calibrated"]["mape_pct"] == 6.0
    assert (tmp_path / "s-1.png").read_text() == "2"


def test_a_step_that_was_run_near_enough_is_run_once_for_each_table_and_seed(runs: Runs, tmp_path: Path):
    runs.answers = [validation(9.0, 2.0, OFF_PCT)]
    for sha, seed, count in (("sha", 11, 1), ("sha", 11, 1), ("other", 11, 2), ("other", 12, 3)):
        run_step(Step("s", ()), tmp_path, sha, seed)
        assert runs.count == count
        found = kept(tmp_path / "s-1.json")
        assert (found["costs_sha"], found["seed"]) == (sha, seed)
    assert {path.name for path in tmp_path.iterdir()} == {"s-1.json", "runs"}


def test_a_step_counts_as_run_until_costs_of_its_own_thread_count_change():
    table = whole_table()
    more = {setting: table.with_rows([make_row(relu_kernel(7), setting, steady(3.0))]) for setting in (ONE, TWO)}
    for setting, other in ((ONE, TWO), (TWO, ONE)):
        costs = truth.costs_checksum(table, setting.threads)
        assert truth.costs_checksum(more[other], setting.threads) == costs
        assert truth.costs_checksum(more[setting], setting.threads) != costs


def test_a_table_keeps_the_figures_and_no_single_networks_and_its_costs_stay(tmp_path: Path):
    table = whole_table()
    save_table(table, tmp_path / "t.json")
    found = {
        "schema": 1,
        "command": "validate",
        "networks": [1],
        "costs_sha": "s",
        "set": "uniform",
        "seed": 12,
        "n": 24,
    }
    truth._store(tmp_path / "t.json", [found])
    kept = load_table(tmp_path / "t.json")
    assert kept.validations == ({"set": "uniform", "seed": 12, "n": 24},)
    assert truth.costs_checksum(kept, 1) == truth.costs_checksum(table, 1)


def test_a_step_that_was_stopped_between_two_runs_goes_on(runs: Runs, tmp_path: Path):
    runs.answers = [validation(9.0, 2.0, 8.0), validation(9.0, 2.0, 5.0), validation(9.0, 2.0, 6.0)]
    run_step(Step("s", ()), tmp_path, runs=1)
    run_step(Step("s", ()), tmp_path)
    found = kept(tmp_path / "s-1.json")
    assert (found["slowdown_pct"], found["slowdowns_of_all_runs_pct"]) == (5.0, [8.0, 5.0, 6.0])


def test_a_table_that_is_not_calibrated_is_told(runs: Runs, tmp_path: Path):
    runs.answers = [validation(9.0, 2.0, 1.0) | {"slowdown_pct": None}]
    with pytest.raises(SystemExit, match=r"t\.json has no cost model"):
        run_step(Step("s", ()), tmp_path)


def test_what_was_run_of_these_costs_is_found_whatever_the_thread_count_and_nothing_else(tmp_path: Path):
    table = whole_table()
    costs = {count: truth.costs_checksum(table, count) for count in (1, 2)}
    for name, sha in (("stride1-1", costs[1]), ("paced1-2", costs[2]), ("stride2-1", costs[2]), ("unet-2", "older")):
        (tmp_path / f"{name}.json").write_text(json.dumps({"costs_sha": sha, "of": name}), encoding="utf-8")
    found = truth._found(table, tmp_path)
    assert {key: one["of"] for key, one in found.items()} == {("stride1", 1): "stride1-1", ("paced1", 2): "paced1-2"}


def test_every_bar_finds_its_figure_as_measured_and_at_the_build_s_speed():
    found = {(step.name, 1): validation(9.0, 1.5, 4.0) for step in STEPS}
    lines = {bar: truth._line(bar, [1], found)["1"] for bar in BARS}
    errors = [line for bar, line in lines.items() if bar.figure == "mape_pct"]
    assert {(line["value"], line["reached"]) for line in errors} == {(9.0, False)}
    assert {(line["at_build_speed"], line["reached_at_build_speed"]) for line in errors} == {(1.5, True)}
    assert all(line["reached"] for bar, line in lines.items() if bar.figure != "mape_pct")
    table = truth._markdown([truth._line(bar, [1], found) for bar in BARS], [1])
    assert len(table.splitlines()) == 2 + len(BARS)
    assert "| MAPE, stride 2 | <= 3 | 9 (missed) | 1.5 |" in table


def test_a_step_that_was_not_run_is_said_not_left_out():
    found = {("stride2", 1): validation(2.0, 1.5, 0.0)}
    table = truth._markdown([truth._line(bar, [1, 2], found) for bar in BARS], [1, 2])
    assert len(table.splitlines()) == 2 + len(BARS)
    assert "| MAPE, stride 2 | <= 3 | 2 | 1.5 | not run | not run |" in table
    assert "| MAPE, paced, stride 1 | <= 5 | not run | not run | not run | not run |" in table


def test_a_bar_may_be_a_least_or_a_most():
    least, most = (Bar("", "", None, "", 5.0, above=above) for above in (True, False))
    assert [truth._reached(value, least) for value in (4.9, 5.0)] == [False, True]
    assert [truth._reached(value, most) for value in (5.1, 5.0)] == [False, True]
