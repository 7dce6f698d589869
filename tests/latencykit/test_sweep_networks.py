"""Whole networks in a build: timed, resumed among their timings, kept, calibrated with."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from latencykit import sweep
from latencykit.baselines import Baseline
from latencykit.bench import ATTEMPTS, SENTINEL_ID, Sample
from latencykit.calibrate import SpaceNeeds, fit_table, space_needs
from latencykit.errors import InputError, InterruptedRunError
from latencykit.journal import Journal
from latencykit.kernels import CALL_OVERHEAD
from latencykit.keys import key_id
from latencykit.lowering import graph_to_onnx
from latencykit.runtime import Setting
from latencykit.sample import sample_architectures
from latencykit.space import instantiate
from latencykit.sweep import (
    PACE_HZ,
    Built,
    build,
    network_model,
    network_protocol,
    plan_build,
    timing_id,
)
from latencykit.table import LoweredNetwork, network_id
from latencykit.table_file import load_table, table_checksum
from tests.latencykit.building import FIT, KEYS, TIMED, journal_of, make, stop_after
from tests.latencykit.made_up import (
    ONE,
    ONE_NODE,
    QUICK,
    FakeWorkers,
    relu_kernel,
)

PAIRS = [*sample_architectures(ONE_NODE, 3, 3), Baseline(2, 1, 1, 2, 32)]
NETWORKS = [LoweredNetwork(network_id(pair), pair, {KEYS[1]: 2, KEYS[2]: 1}) for pair in PAIRS]
NAMES = [network.id for network in NETWORKS]
PACED = [f"{NAMES[0]}@30", f"{NAMES[2]}@30"]
BY_KIND = (
    'result["samples_us"] = [900.0 if "@" in item["id"] else 700.0 if "network" in item["id"] else 5.0] * len(samples)'
)


def calibrate(
    out: Path, networks: Sequence[LoweredNetwork] = NETWORKS, added: Sequence[LoweredNetwork] = (), **changes: Any
) -> Built:
    plan = plan_build(out, changes.pop("settings", (ONE,)), changes.pop("keys", KEYS), networks, added)
    return build(out, plan, **{"verdict": FIT, "protocol": QUICK, **changes})


@pytest.fixture(autouse=True)
def short() -> Iterator[None]:
    """Calibration networks in two processes, paced ones in one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "CALIBRATION_PROTOCOL", QUICK)
        patch.setattr(sweep, "PACED_PROTOCOL", dataclasses.replace(QUICK, processes=1))
        yield


def test_every_network_is_timed_back_to_back_and_every_second_one_paced(tmp_path, out, monkeypatch):
    workers = FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    seen: list[str] = []
    plan = plan_build(out, (ONE,), KEYS, NETWORKS)
    assert plan.untimed == tuple(
        [(ONE, None, name) for name in NAMES] + [(ONE, PACE_HZ, NAMES[0]), (ONE, PACE_HZ, NAMES[2])]
    )
    built = build(out, plan, FIT, QUICK, seen.append)
    assert (built.measured, built.networks) == (len(KEYS), 6)
    rows = sorted(key_id(key) for key in KEYS[:TIMED])
    rounds = [rows, sorted(NAMES), sorted(PACED), rows, sorted(NAMES)]  # kernels and networks feel the same minutes
    assert [sorted(order) for order in workers.orders] == rounds
    assert Counter(seen) == {
        **dict.fromkeys([key_id(key) for key in KEYS[:TIMED]], 2), **dict.fromkeys(NAMES, 2), **dict.fromkeys(PACED, 1),
    }  # fmt: skip
    assert len(seen) == plan.sample_sets(QUICK)
    table = load_table(out)
    assert table == built.table
    assert {(t.network, t.pace_hz): t.medians_us for t in table.timings} == {
        **{(name, None): (700.0, 700.0) for name in NAMES}, **{(NAMES[n], 30.0): (900.0,) for n in (0, 2)},
    }  # fmt: skip
    assert list(table.networks) == NETWORKS
    assert not journal_of(out).exists()


def test_networks_are_timed_under_every_setting(tmp_path, out, monkeypatch):
    FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    slow = dataclasses.replace(ONE, spinning=False)
    built = calibrate(out, settings=(ONE, slow))
    assert Counter((t.setting, t.pace_hz) for t in built.table.timings) == {
        (setting, pace): count for setting in (ONE, slow) for pace, count in ((None, 4), (30.0, 2))
    }
    assert len(built.table.networks) == 4


def test_a_build_stopped_among_its_timings_goes_on_and_measures_nothing_twice(tmp_path, out, monkeypatch):
    FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    kept: list[str] = []
    append = Journal.append

    def noted(journal: Journal, setting: Setting, sample: Sample) -> None:
        kept.append(sample.id)
        append(journal, setting, sample)

    monkeypatch.setattr(Journal, "append", noted)
    for count in (2 * TIMED + 3, 2 * TIMED + 8):  # among the first timings, then among the paced ones
        with pytest.raises(InterruptedRunError):
            calibrate(out, advance=stop_after(count))
    assert not out.exists()
    built = calibrate(out)
    assert Counter(kept) == {
        **dict.fromkeys([key_id(key) for key in KEYS[:TIMED]], 2), **dict.fromkeys(NAMES, 2), **dict.fromkeys(PACED, 1),
    }  # fmt: skip
    assert built.networks == 6
    fresh = calibrate(tmp_path / "fresh.json")
    assert built.table.timings == fresh.table.timings
    assert built.table.rows == fresh.table.rows


def test_rows_are_held_to_the_convolution_and_networks_to_the_network(tmp_path, out, monkeypatch):
    state = 'result["sentinel_us"] = [{0} if "network" in item["id"] else 50.0]'
    FakeWorkers(tmp_path, monkeypatch, f"{BY_KIND}\n    {state.format(2000.0)}")
    calibrate(out, NETWORKS[:2])
    table = load_table(out)
    assert [(s.model, set(s.medians_us)) for s in table.sentinels] == [("convolution", {50.0}), ("network", {2000.0})]
    assert (table.reference_us(ONE), table.reference_us(ONE, "network")) == (50.0, 2000.0)
    FakeWorkers(tmp_path / "slow", monkeypatch, f"{BY_KIND}\n    {state.format(2200.0)}")
    built = calibrate(out)
    # two more networks in two processes, one of them paced, too, 10 % above what the table says
    assert built.repeated == (2 * 2 + 1) * (ATTEMPTS - 1)
    assert built.table.reference_us(ONE, "network") == 2000.0


def test_what_was_timed_is_not_timed_again(tmp_path, out, monkeypatch):
    workers = FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    calibrate(out)
    before, processes = out.read_bytes(), len(workers.orders)
    built = calibrate(out)
    assert (built.measured, built.networks, built.repeated) == (0, 0, 0)
    assert len(workers.orders) == processes
    assert out.read_bytes() == before


def test_more_networks_are_added_to_those_that_were_timed(tmp_path, out, monkeypatch):
    FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    calibrate(out, NETWORKS[:2])
    workers = FakeWorkers(tmp_path / "more", monkeypatch, BY_KIND)
    built = calibrate(out)
    assert (built.measured, built.networks) == (0, 3)
    assert {name for order in workers.orders for name in order} == {SENTINEL_ID, *NAMES[2:], PACED[1]}
    assert list(built.table.networks) == NETWORKS
    assert len(built.table.timings) == 6
    assert len(built.table.parents) == 1


def test_added_networks_are_kept_in_lowered_form_and_never_timed(tmp_path, out, monkeypatch):
    workers = FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    model = LoweredNetwork("model-0123", None, {KEYS[1]: 7})
    built = calibrate(out, [], [model, NETWORKS[0], model])
    assert built.networks == 0
    assert {name for order in workers.orders for name in order} == {key_id(key) for key in KEYS[:TIMED]}
    assert built.table.networks == load_table(out).networks == (model, NETWORKS[0])
    before = out.read_bytes()
    assert calibrate(out, [], [model]).table.networks == built.table.networks
    assert out.read_bytes() == before


def test_a_network_that_needs_nothing_new_is_still_kept_and_tells_its_parent(tmp_path, out, monkeypatch):
    workers = FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    first = make(out)
    processes = len(workers.orders)
    built = calibrate(out, [], [NETWORKS[0]])
    assert len(workers.orders) == processes
    assert load_table(out).networks == (NETWORKS[0],)
    assert built.table.parents == (table_checksum(first.table),)


def test_a_network_added_before_can_be_calibrated_with_later(tmp_path, out, monkeypatch):
    FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    calibrate(out, [], NETWORKS[:1])
    built = calibrate(out, NETWORKS[:1], NETWORKS[:1])
    assert built.networks == 2
    assert list(built.table.networks) == NETWORKS[:1]


def test_a_network_that_came_as_onnx_cannot_be_calibrated_with(out: Path, workers: FakeWorkers):
    with pytest.raises(InputError, match="model-0123 came as ONNX; only architectures"):
        calibrate(out, [LoweredNetwork("model-0123", None, {KEYS[1]: 7})])


def test_a_network_is_timed_as_the_model_that_its_architecture_is_lowered_to():
    for network, pair in zip(NETWORKS[:3], PAIRS, strict=False):
        assert network_model(network) == graph_to_onnx(instantiate(pair)).SerializeToString()


def test_timings_have_names_of_their_rhythm():
    assert (timing_id("network-1", None), timing_id("network-1", 30.0)) == ("network-1", "network-1@30")
    assert network_protocol(None) == sweep.CALIBRATION_PROTOCOL
    assert network_protocol(30.0) == dataclasses.replace(sweep.PACED_PROTOCOL, pace_hz=30.0)


def test_protocols_that_are_alike_do_not_hide_each_other(tmp_path, out, monkeypatch):
    """Rows and networks may be timed in the same way and are still all timed."""
    FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    monkeypatch.setattr(sweep, "CALIBRATION_PROTOCOL", QUICK)
    built = calibrate(out, protocol=QUICK)
    assert len(built.table.rows) == len(KEYS)
    assert len(built.table.timings) == 6


def test_the_estimate_counts_paced_timings_as_the_long_ones_that_they_are(out: Path):
    plan = plan_build(out, (ONE,), KEYS, NETWORKS)
    assert plan.sample_sets(QUICK) == 2 * TIMED + 2 * 4 + 1 * 2
    unpaced = dataclasses.replace(plan, untimed=plan.untimed[:4])
    assert plan.estimate_s(QUICK) - unpaced.estimate_s(QUICK) == pytest.approx(2 * sweep.SECONDS_A_PACED_SET)


# Fitted at the end


@pytest.fixture(scope="module")
def needs() -> dict[str, SpaceNeeds]:
    """Two configurations, each from few networks."""
    other = dataclasses.replace(ONE_NODE, quality_stride=2)
    return {"one": space_needs([ONE_NODE], 10, 4), "other": space_needs([other], 10, 4)}


def whole_build(out: Path, needs: SpaceNeeds) -> Built:
    plan = plan_build(out, (ONE,), needs.keys, needs.calibration)
    return build(out, plan, FIT, QUICK, fit=lambda table: fit_table(table, needs.samples))


def test_a_table_is_calibrated_and_has_its_edge_costs_when_it_is_written(tmp_path, out, monkeypatch, needs):
    FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    built = whole_build(out, needs["one"])
    table = load_table(out)
    assert table == built.table
    assert [(model.pace_hz, model.networks) for model in table.models] == [(None, 16), (30.0, 8)]
    assert table.has_edges(ONE, ONE_NODE, None)
    before = out.read_bytes()
    assert whole_build(out, needs["one"]).measured == 0
    assert out.read_bytes() == before


def test_another_configuration_extends_a_table_and_the_first_comes_back_without_timing(
    tmp_path, out, monkeypatch, needs
):
    FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    first = whole_build(out, needs["one"])
    other = needs["other"].macros[0]
    second = whole_build(out, needs["other"])
    assert 0 < second.measured < first.measured  # most kernels are the same
    new = len(needs["other"].calibration) - 1  # the hand-made pair is of the same stride
    assert second.networks == new + (new + 1) // 2
    assert second.table.parents == (table_checksum(first.table),)
    assert second.table.model(ONE, None).networks == 16 + new
    assert second.table.has_edges(ONE, other, None)
    assert not second.table.has_edges(ONE, ONE_NODE, None)  # fitted to another model than the one that is there now
    workers = FakeWorkers(tmp_path / "third", monkeypatch, BY_KIND)
    third = whole_build(out, needs["one"])
    assert workers.orders == []
    assert (third.measured, third.networks) == (0, 0)
    assert load_table(out).has_edges(ONE, ONE_NODE, None)
    assert load_table(out).has_edges(ONE, other, None)
    assert third.table.parents == (table_checksum(first.table), table_checksum(second.table))


def test_what_is_fitted_is_not_lost_by_a_build_of_something_else(tmp_path, out, monkeypatch, needs):
    FakeWorkers(tmp_path, monkeypatch, BY_KIND)
    first = whole_build(out, needs["one"])
    plan = plan_build(out, (ONE,), [CALL_OVERHEAD, relu_kernel(99)])
    second = build(out, plan, FIT, QUICK, fit=lambda table: fit_table(table, {}))
    assert second.measured == 1
    assert second.table.models == first.table.models
    assert second.table.has_edges(ONE, ONE_NODE, None)
