"""Results as the contract's JSON and as grids for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
from rich.table import Table as Grid

from latencykit.bench import MeasuredModel
from latencykit.cost import Prediction
from latencykit.kernels import Kernel
from latencykit.validate import ValidatedNetwork, Validation

SHOWN_KERNELS = 25


def measured_json(model: MeasuredModel) -> dict[str, Any]:
    """One entry of `measure`'s `models`."""
    return {
        "path": model.path,
        "p50_ms": model.measurement.median_us / 1000,
        "p99_ms": model.measurement.percentile_us(99) / 1000,
        "ci_ms": [end / 1000 for end in model.measurement.interval_us],
        "affinity": list(model.affinity),
        "memory_bytes": model.memory_bytes,
        "samples": model.measurement.count,
    }


def measured_grid(models: Sequence[MeasuredModel]) -> Grid:
    """One line a model."""
    grid = _grid("model", "p50 ms", "p99 ms", "95 % interval", "threads on", "peak MiB")
    for model in models:
        data = measured_json(model)
        low, high = data["ci_ms"]
        memory = "-" if model.memory_bytes is None else f"{model.memory_bytes / 2**20:.0f}"
        figures = f"{data['p50_ms']:.3f}", f"{data['p99_ms']:.3f}", f"{low:.3f} to {high:.3f}"
        grid.add_row(model.path, *figures, " ".join(model.affinity) or "-", memory)
    return grid


def prediction_json(prediction: Prediction) -> dict[str, Any]:
    """`predict`'s figures and kernels."""
    return {
        "latency_ms": prediction.latency_us / 1000,
        "raw_ms": prediction.latency_us / 1000,
        "ci_ms": [end / 1000 for end in prediction.interval_us],
        "coverage_pct": 100.0,  # a strict look-up: less than all of them is an error
        "kernels": [
            {
                "key": str(share.row.key),
                "count": share.count,
                "ms": share.cost_us / 1000,
                "share_pct": 100 * share.cost_us / prediction.latency_us,
                "fused": share.row.key.fused if isinstance(share.row.key, Kernel) else "",
                "origin": share.row.origin,
            }
            for share in prediction.shares
        ],
    }


def prediction_grid(prediction: Prediction) -> Grid:
    """The dearest kernels."""
    grid = _grid("ms", "%", "runs", "kernel")
    for share in prediction.shares[:SHOWN_KERNELS]:
        percent = 100 * share.cost_us / prediction.latency_us
        grid.add_row(f"{share.cost_us / 1000:.3f}", f"{percent:.1f}", str(share.count), str(share.row.key))
    if (hidden := len(prediction.shares) - SHOWN_KERNELS) > 0:
        grid.add_row("", "", "", f"and {hidden} more; --json lists all")
    return grid


def validation_json(validation: Validation) -> dict[str, Any]:
    """`validate`'s figures and networks."""
    kept = ("mape_pct", "kendall_tau")
    return {
        "n": len(validation.networks),
        "threads": validation.setting.threads,
        "levels": {level: {"raw": asdict(fit), "calibrated": None} for level, fit in validation.levels.items()},
        "constant": {"mape_pct": validation.constant.mape_pct},
        "macs": {key: asdict(validation.macs)[key] for key in kept},
        "repeat": {key: asdict(validation.repeat)[key] for key in kept},
        "interval_coverage_pct": validation.interval_coverage_pct,
        "networks": [_network_json(network) for network in validation.networks],
        "worst": [_network_json(network) for network in validation.worst],
    }


def _network_json(network: ValidatedNetwork) -> dict[str, Any]:
    predicted_ms = network.predicted_ms["kernel"]
    return {
        "id": network.id,
        "measured_ms": network.measured_ms,
        "predicted_ms": predicted_ms,
        "error_pct": 100 * (predicted_ms / network.measured_ms - 1),
        "by_level_ms": dict(network.predicted_ms),
    }


def validation_grid(validation: Validation) -> Grid:
    """One line a predictor."""
    grid = _grid("predictor", "bias %", "MAPE %", "within 5 %", "within 10 %", "tau", "rho")
    named = [(f"{level} sum, raw", fit) for level, fit in validation.levels.items()]
    others = [("a constant", validation.constant), ("MACs", validation.macs), ("measured again", validation.repeat)]
    for name, fit in named + others:
        ranks = ["-" if value is None else f"{value:.2f}" for value in (fit.kendall_tau, fit.spearman)]
        hits = f"{fit.within_5_pct:.0f}", f"{fit.within_10_pct:.0f}"
        grid.add_row(name, f"{fit.bias_pct:+.1f}", f"{fit.mape_pct:.1f}", *hits, *ranks)
    return grid


def rows_grid(frame: pd.DataFrame) -> Grid:
    """Rows of a table, from `Table.to_frame`."""
    grid = _grid("level", "threads", "us", "± %", "what")
    for row in frame.to_dict(orient="records"):
        error = f"{row['error_pct']:.1f}"
        grid.add_row(str(row["level"]), str(row["threads"]), f"{row['median_us']:.1f}", error, str(row["label"]))
    return grid


def _grid(*columns: str) -> Grid:
    return Grid(*columns, box=None, header_style="bold", pad_edge=False)
