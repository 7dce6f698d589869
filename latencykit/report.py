"""Results as the contract's JSON and as grids for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
from rich.table import Table as Grid

from latencykit.agreement import Agreement, ValidatedNetwork, Validation
from latencykit.end_to_end import MeasuredModel
from latencykit.kernels import Kernel
from latencykit.predict import Prediction

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
        "raw_ms": prediction.raw_us / 1000,
        "ci_ms": [end / 1000 for end in prediction.interval_us],
        "coverage_pct": prediction.coverage_pct,
        "macs": prediction.macs,
        "parameters": prediction.parameters,
        "bytes": prediction.moved_bytes,
        "kernels": [
            {
                "key": str(share.row.key),
                "count": share.count,
                "ms": share.cost_us / 1000,
                "share_pct": 100 * share.cost_us / prediction.raw_us,
                "fused": share.row.key.fused if isinstance(share.row.key, Kernel) else "",
                "origin": share.row.origin,
                "error_pct": share.row.error_pct,
            }
            for share in prediction.shares
        ],
    }


def prediction_grid(prediction: Prediction) -> Grid:
    """The dearest kernels."""
    grid = _grid("ms", "%", "runs", "kernel")
    for share in prediction.shares[:SHOWN_KERNELS]:
        percent = 100 * share.cost_us / prediction.raw_us
        guess = " (interpolated)" if share.row.origin == "interpolated" else ""
        grid.add_row(f"{share.cost_us / 1000:.3f}", f"{percent:.1f}", str(share.count), f"{share.row.key}{guess}")
    if (hidden := len(prediction.shares) - SHOWN_KERNELS) > 0:
        grid.add_row("", "", "", f"and {hidden} more; --json lists all")
    return grid


def validation_json(validation: Validation) -> dict[str, Any]:
    """`validate`'s figures and networks; `sets` holds the same figures for each set of networks."""
    return {
        **validation_summary(validation),
        "networks": [_network_json(network) for network in validation.networks],
        "worst": [_network_json(network) for network in validation.worst],
    }


def validation_summary(validation: Validation) -> dict[str, Any]:
    """The figures alone, for all networks and by set."""
    at_build = validation.at_build_speed
    return {
        "threads": validation.setting.threads,
        "pace_hz": validation.pace_hz or 0,
        "unsteady": validation.unsteady,
        "slowdown_pct": validation.slowdown_pct,
        **_figures_by_set(validation),
        "at_build_speed": _figures_by_set(at_build) if at_build else None,
    }


def _figures_by_set(validation: Validation) -> dict[str, Any]:
    sets = {name: _figures(part) for name, part in validation.by_set().items()}
    return {**_figures(validation), "sets": sets}


def _figures(validation: Validation) -> dict[str, Any]:
    kept = ("mape_pct", "kendall_tau")
    names = dict.fromkeys([*validation.raw, *validation.calibrated])
    fits = ((name, validation.raw.get(name), validation.calibrated.get(name)) for name in names)
    return {
        "n": len(validation.networks),
        "levels": {
            name: {"raw": asdict(raw) if raw else None, "calibrated": asdict(calibrated) if calibrated else None}
            for name, raw, calibrated in fits
        },
        "constant": {"mape_pct": validation.constant.mape_pct},
        "macs": {key: asdict(validation.macs)[key] for key in kept},
        "repeat": {key: asdict(validation.repeat)[key] for key in kept},
        "tau_ratio": validation.tau_ratio,
        "interval_coverage_pct": validation.interval_coverage_pct,
        "edge_against_kernel_pct": validation.edge_against_kernel_pct,
    }


def _network_json(network: ValidatedNetwork) -> dict[str, Any]:
    return {
        "id": network.id,
        "set": network.chosen_from,
        "measured_ms": network.measured_ms,
        "predicted_ms": network.predicted_ms,
        "error_pct": 100 * (network.predicted_ms / network.measured_ms - 1),
        "interval_ms": list(network.interval_ms),
        "raw_ms": dict(network.raw_ms),
        "calibrated_ms": dict(network.calibrated_ms),
    }


def validation_grid(validation: Validation) -> Grid:
    """One line a predictor, then one a set."""
    grid = _grid(
        "predictor", "networks", "bias %", "MAPE %", "within 5 %", "within 10 %", "tau", "rho", "in interval %"
    )
    for level in dict.fromkeys([*validation.raw, *validation.calibrated]):
        for word, fits in (("raw", validation.raw), ("calibrated", validation.calibrated)):
            if level in fits:
                _add_fit(grid, f"{level} level, {word}", fits[level], validation)
    others = [("a constant", validation.constant), ("MACs", validation.macs), ("measured again", validation.repeat)]
    for name, fit in others:
        _add_fit(grid, name, fit, validation)
    for word, whole in (("", validation), (" at the build's speed", validation.at_build_speed)):
        parts = whole.by_set() if whole else {}
        if whole and word:
            _add_fit(grid, f"kernel level{word}", whole.kernel, whole)
        for name, part in parts.items() if len(parts) > 1 else ():
            _add_fit(grid, f"kernel level, {name}{word}", part.kernel, part)
    return grid


def _add_fit(grid: Grid, name: str, fit: Agreement, validation: Validation) -> None:
    ranks = ["-" if value is None else f"{value:.2f}" for value in (fit.kendall_tau, fit.spearman)]
    hits = f"{fit.within_5_pct:.0f}", f"{fit.within_10_pct:.0f}"
    inside = f"{validation.interval_coverage_pct:.0f}" if name.startswith("kernel level") else ""
    count = str(len(validation.networks))
    grid.add_row(name, count, f"{fit.bias_pct:+.1f}", f"{fit.mape_pct:.1f}", *hits, *ranks, inside)


def rows_grid(frame: pd.DataFrame) -> Grid:
    """Rows of a table, from `Table.to_frame`."""
    grid = _grid("level", "threads", "us", "± %", "what")
    for row in frame.to_dict(orient="records"):
        error = f"{row['error_pct']:.1f}"
        grid.add_row(str(row["level"]), str(row["threads"]), f"{row['median_us']:.1f}", error, str(row["label"]))
    return grid


def _grid(*columns: str) -> Grid:
    return Grid(*columns, box=None, header_style="bold", pad_edge=False)
