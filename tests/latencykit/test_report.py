import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from latencykit.agreement import ValidatedNetwork, Validation, summarise
from latencykit.end_to_end import MeasuredModel
from latencykit.kernels import Kernel, KernelInput
from latencykit.measurement import Measurement
from latencykit.predict import predict_kernels
from latencykit.report import (
    SHOWN_KERNELS,
    measured_grid,
    measured_json,
    prediction_grid,
    prediction_json,
    rows_grid,
    validation_grid,
    validation_json,
    validation_summary,
)
from tests.latencykit.made_up import (
    MAPS,
    ONE,
    TWO,
    calibrated_table,
    drawn_networks,
    made_up_table,
    map_kernel,
    relu_kernel,
)

MATRIX = KernelInput("activation", "tensor(float)", (1, 4))
FUSED = Kernel("FusedGemm", "com.microsoft", 1, (("activation", "Relu"),), (MATRIX,), 1, (1, 2))


def text(grid) -> str:
    console = Console(width=200, markup=False)
    with console.capture() as captured:
        console.print(grid)
    return captured.get()


def validated(index: int, measured_ms: float, **changes: Any) -> ValidatedNetwork:
    ms = measured_ms
    facts = {
        "chosen_from": "uniform", "half_a_ms": ms, "half_b_ms": ms, "interval_ms": (ms, ms),
        "raw_ms": {"isolated": 2 * ms, "kernel": 0.7 * ms},
        "calibrated_ms": {"isolated": 1.2 * ms, "kernel": ms * (1 + index / 100), "edge": ms * (1 + index / 50)},
    } | changes  # fmt: skip
    return ValidatedNetwork(f"{index:03d}", macs=1000 * index, measured_ms=ms, **facts)


@pytest.fixture
def validation() -> Validation:
    return summarise(TWO, 30.0, [validated(i, ms) for i, ms in enumerate([10.0, 12.0, 15.0, 11.0])])


def test_a_measured_model_in_json():
    samples = Measurement(((4000.0, 5000.0, 6000.0), (5000.0, 5000.0, 9000.0)))
    data = measured_json(MeasuredModel("a.onnx", samples, ("0", "1"), 1 << 20))
    assert set(data) >= {"path", "p50_ms", "p99_ms", "ci_ms", "affinity", "memory_bytes"}
    assert (data["path"], data["p50_ms"], data["affinity"], data["memory_bytes"]) == (
        "a.onnx",
        5.0,
        ["0", "1"],
        1 << 20,
    )
    assert 5 < data["p99_ms"] <= 9
    assert data["ci_ms"][0] <= 5 <= data["ci_ms"][1]
    json.dumps(data, allow_nan=False)


def test_a_measured_model_of_which_little_is_known():
    shown = text(measured_grid([MeasuredModel("a.onnx", Measurement(((5000.0,),)), (), None)]))
    assert "a.onnx" in shown
    assert "5.000" in shown
    assert text(measured_grid([])).count("\n") == 1


def test_a_prediction_in_json_adds_up():
    found = predict_kernels(made_up_table({relu_kernel(2): 502.0, FUSED: 1002.0}), ONE, [relu_kernel(2)] * 2 + [FUSED])
    data = prediction_json(found)
    assert set(data) == {
        *("latency_ms", "raw_ms", "ci_ms", "coverage_pct", "kernels"),
        *("macs", "parameters", "bytes"),
    }
    assert (data["macs"], data["bytes"]) == (found.macs, 2 * 2 * 512 + 4 * (4 + 2))
    assert data["latency_ms"] == data["raw_ms"] == pytest.approx(2.002)
    assert data["coverage_pct"] == 100
    assert [set(kernel) >= {"key", "ms", "share_pct", "fused", "origin"} for kernel in data["kernels"]] == [True, True]
    assert sum(kernel["ms"] for kernel in data["kernels"]) == pytest.approx(2.0)
    assert sum(kernel["share_pct"] for kernel in data["kernels"]) == pytest.approx(100 * 2.0 / 2.002)
    assert {kernel["fused"] for kernel in data["kernels"]} == {"", "relu"}
    assert sorted(kernel["count"] for kernel in data["kernels"]) == [1, 2]
    json.dumps(data, allow_nan=False)


def test_a_calibrated_prediction_shows_both_figures():
    table = calibrated_table()
    found = predict_kernels(table, ONE, drawn_networks(1, 99)[0])
    data = prediction_json(found)
    assert data["latency_ms"] == found.latency_us / 1000 > data["raw_ms"] == found.raw_us / 1000
    assert data["ci_ms"] == [end / 1000 for end in found.interval_us]
    assert sum(kernel["share_pct"] for kernel in data["kernels"]) == pytest.approx(100 * (1 - 2 / found.raw_us))
    json.dumps(data, allow_nan=False)


def test_a_guessed_kernel_is_marked():
    table, unseen = calibrated_table(), map_kernel(8, 96)
    found = predict_kernels(table, ONE, {unseen: 2, MAPS[0]: 1}, interpolate=True)
    data = prediction_json(found)
    guess = next(kernel for kernel in data["kernels"] if kernel["key"] == str(unseen))
    assert (guess["origin"], guess["count"], guess["error_pct"] > 0) == ("interpolated", 2, True)
    assert data["coverage_pct"] == pytest.approx(100 / 3)
    lines = [line for line in text(prediction_grid(found)).splitlines() if "(interpolated)" in line]
    assert len(lines) == 1
    assert "1x8x96x96" in lines[0]


def test_the_dearest_kernels_are_shown_and_the_others_counted():
    keys = [relu_kernel(n + 1) for n in range(SHOWN_KERNELS + 3)]
    shown = text(prediction_grid(predict_kernels(made_up_table(dict.fromkeys(keys, 5.0)), ONE, keys)))
    assert "and 3 more" in shown
    assert "and" not in text(prediction_grid(predict_kernels(made_up_table({keys[0]: 5.0}), ONE, keys[:1])))


def test_what_a_kernel_is_fused_with_is_shown():
    assert "[relu]" in text(prediction_grid(predict_kernels(made_up_table({FUSED: 5.0}), ONE, [FUSED])))


def test_a_validation_in_json_has_the_contract_s_keys(validation: Validation):
    data = validation_json(validation)
    assert set(data) == {
        *("n", "threads", "levels", "constant", "macs", "repeat", "interval_coverage_pct", "networks", "worst"),
        *("pace_hz", "unsteady", "sets", "tau_ratio", "edge_against_kernel_pct"),
        *("slowdown_pct", "at_build_speed"),
    }
    assert (data["n"], data["threads"], data["pace_hz"], data["unsteady"]) == (4, 2, 30.0, 0)
    agreement = {"bias_pct", "mape_pct", "within_5_pct", "within_10_pct", "kendall_tau", "spearman"}
    assert set(data["levels"]) == {"isolated", "kernel", "edge"}
    for level in ("isolated", "kernel"):
        assert set(data["levels"][level]) == {"raw", "calibrated"}
        assert set(data["levels"][level]["raw"]) == set(data["levels"][level]["calibrated"]) == agreement
    assert data["levels"]["edge"]["raw"] is None
    assert data["levels"]["isolated"]["raw"]["bias_pct"] == pytest.approx(100)
    assert data["levels"]["isolated"]["calibrated"]["bias_pct"] == pytest.approx(20)
    assert data["levels"]["kernel"]["raw"]["bias_pct"] == pytest.approx(-30)
    assert set(data["constant"]) == {"mape_pct"}
    assert set(data["macs"]) == set(data["repeat"]) == {"mape_pct", "kendall_tau"}
    assert data["edge_against_kernel_pct"] == pytest.approx(
        sum(100 * (1 + i / 50) / (1 + i / 100) - 100 for i in range(4)) / 4
    )
    assert [set(network) >= {"id", "measured_ms", "predicted_ms"} for network in data["networks"]] == [True] * 4
    assert [network["id"] for network in data["worst"]] == ["003", "002", "001", "000"]
    assert data["networks"][3]["error_pct"] == pytest.approx(3)
    assert data["networks"][3]["set"] == "uniform"
    assert set(data["networks"][3]["calibrated_ms"]) == {"isolated", "kernel", "edge"}
    json.dumps(data, allow_nan=False)


def test_a_summary_is_the_same_without_the_networks(validation: Validation):
    data, summary = validation_json(validation), validation_summary(validation)
    assert summary == {key: value for key, value in data.items() if key not in ("networks", "worst")}


def test_each_set_has_the_same_figures_as_the_whole():
    networks = [validated(i, 10.0 + i, chosen_from="tails" if i > 2 else "uniform") for i in range(6)]
    data = validation_json(summarise(ONE, None, networks))
    assert (data["pace_hz"], set(data["sets"])) == (0, {"uniform", "tails"})
    for part in data["sets"].values():
        whole = {"threads", "pace_hz", "unsteady", "slowdown_pct", "at_build_speed", "sets"}
        assert set(part) == set(data) - whole - {"networks", "worst"}
        assert part["n"] == 3
    assert data["sets"]["tails"]["levels"]["kernel"]["calibrated"]["mape_pct"] == pytest.approx(4)


def test_a_validation_for_people_has_a_line_for_each_predictor(validation: Validation):
    shown = text(validation_grid(validation)).splitlines()
    heads = [line[:28].strip() for line in shown[1:]]
    assert [head.split("  ")[0] for head in heads] == [
        *("isolated level, raw", "isolated level, calibrated", "kernel level, raw", "kernel level, calibrated"),
        *("edge level, calibrated", "a constant", "MACs", "measured again"),
    ]
    constant = next(line for line in shown if line.startswith("a constant"))
    assert constant.split()[-2:] == ["-", "-"]


def test_sets_for_people_have_a_line_each_where_there_are_several():
    networks = [validated(i, 10.0 + i, chosen_from="tails" if i > 2 else "uniform") for i in range(6)]
    shown = text(validation_grid(summarise(ONE, None, networks))).splitlines()
    assert [line.split("  ")[0] for line in shown[-2:]] == ["kernel level, uniform", "kernel level, tails"]
    assert all(line.split()[3] == "3" for line in shown[-2:])


def test_figures_at_the_build_s_speed_stand_below_those_as_measured():
    sets = ("uniform", "uniform", "tails", "tails")
    measured, at_build = (
        summarise(ONE, None, [validated(i, (10.0 + i) * speed, chosen_from=name) for i, name in enumerate(sets)])
        for speed in (1.1, 1.0)
    )
    shown = text(validation_grid(replace(measured, slowdown_pct=10.0, at_build_speed=at_build))).splitlines()
    assert [line.split("  ")[0] for line in shown[-5:]] == [
        *("kernel level, uniform", "kernel level, tails", "kernel level at the build's speed"),
        *("kernel level, uniform at the build's speed", "kernel level, tails at the build's speed"),
    ]
    assert validation_json(replace(measured, at_build_speed=at_build))["at_build_speed"]["n"] == 4


def test_a_correlation_that_is_undefined_is_a_dash():
    same = [validated(0, 5.0, calibrated_ms={}, raw_ms={"kernel": 5.0}) for _ in range(3)]
    validation = summarise(ONE, None, same)
    data = validation_json(validation)
    assert data["levels"]["kernel"]["raw"]["kendall_tau"] is None
    assert data["levels"]["kernel"]["calibrated"] is None
    assert (data["tau_ratio"], data["edge_against_kernel_pct"]) == (None, None)
    assert " - " in text(validation_grid(validation))


def test_rows_for_people():
    shown = text(rows_grid(made_up_table({FUSED: 5.0}).to_frame())).splitlines()
    assert len(shown) == 1 + 2
    assert "FusedGemm" in shown[-1]
    assert "[relu]" in shown[-1]
