import json

import pytest
from rich.console import Console

from latencykit.bench import MeasuredModel
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
)
from latencykit.validate import ValidatedNetwork, Validation, summarise
from tests.latencykit.made_up import ONE, TWO, made_up_table, relu_kernel

MATRIX = KernelInput("activation", "tensor(float)", (1, 4))
FUSED = Kernel("FusedGemm", "com.microsoft", 1, (("activation", "Relu"),), (MATRIX,), 1, (1, 2))


def text(grid) -> str:
    console = Console(width=200, markup=False)
    with console.capture() as captured:
        console.print(grid)
    return captured.get()


@pytest.fixture
def validation() -> Validation:
    networks = [
        ValidatedNetwork(f"{i:03d}", 1000 * i, ms, ms, ms, {"isolated": 2 * ms, "kernel": ms * (1 + i / 100)}, (ms, ms))
        for i, ms in enumerate([10.0, 12.0, 15.0, 11.0])
    ]
    return summarise(TWO, networks)


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
    assert set(data) == {"latency_ms", "raw_ms", "ci_ms", "coverage_pct", "kernels"}
    assert data["latency_ms"] == data["raw_ms"] == pytest.approx(2.002)
    assert data["coverage_pct"] == 100
    assert [set(kernel) >= {"key", "ms", "share_pct", "fused", "origin"} for kernel in data["kernels"]] == [True, True]
    assert sum(kernel["ms"] for kernel in data["kernels"]) == pytest.approx(2.0)
    assert sum(kernel["share_pct"] for kernel in data["kernels"]) == pytest.approx(100 * 2.0 / 2.002)
    assert {kernel["fused"] for kernel in data["kernels"]} == {"", "relu"}
    assert sorted(kernel["count"] for kernel in data["kernels"]) == [1, 2]
    json.dumps(data, allow_nan=False)


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
        "n", "threads", "levels", "constant", "macs", "repeat", "interval_coverage_pct", "networks", "worst",
    }  # fmt: skip
    assert (data["n"], data["threads"]) == (4, 2)
    agreement = {"bias_pct", "mape_pct", "within_5_pct", "within_10_pct", "kendall_tau", "spearman"}
    for level in ("isolated", "kernel"):
        assert set(data["levels"][level]) == {"raw", "calibrated"}
        assert set(data["levels"][level]["raw"]) == agreement
    assert data["levels"]["isolated"]["raw"]["bias_pct"] == pytest.approx(100)
    assert set(data["constant"]) == {"mape_pct"}
    assert set(data["macs"]) == set(data["repeat"]) == {"mape_pct", "kendall_tau"}
    assert [set(network) >= {"id", "measured_ms", "predicted_ms"} for network in data["networks"]] == [True] * 4
    assert [network["id"] for network in data["worst"]] == ["003", "002", "001", "000"]
    assert data["networks"][3]["error_pct"] == pytest.approx(3)
    json.dumps(data, allow_nan=False)


def test_a_validation_for_people_has_a_line_for_each_predictor(validation: Validation):
    shown = text(validation_grid(validation)).splitlines()
    assert len(shown) == 1 + 5
    assert any("kernel sum, raw" in line for line in shown)
    constant = next(line for line in shown if line.startswith("a constant"))
    assert constant.split()


def test_a_correlation_that_is_undefined_is_a_dash():
    same = [ValidatedNetwork(str(i), 1, 5.0, 5.0, 5.0, {"isolated": 1.0, "kernel": 5.0}, (5.0, 5.0)) for i in range(3)]
    validation = summarise(ONE, same)
    assert validation_json(validation)["levels"]["kernel"]["raw"]["kendall_tau"] is None
    assert " - " in text(validation_grid(validation))


def test_rows_for_people():
    shown = text(rows_grid(made_up_table({FUSED: 5.0}).to_frame())).splitlines()
    assert len(shown) == 1 + 2
    assert "FusedGemm" in shown[-1]
    assert "[relu]" in shown[-1]
