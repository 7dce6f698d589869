"""A kernel that a table does not hold, from rows of its kind or operation: marked as a guess, with its own error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from latencykit.errors import MissingRowError
from latencykit.kernels import CALL_OVERHEAD, Kernel
from latencykit.runtime import Setting
from latencykit.table import Row, Table

FEWEST_ROWS = 6
_LEAST_US = 0.02
"""Assumed of a kernel that takes no longer than an empty call."""
_STEEPEST = 1.2
"""Power of its bytes that a light kernel costs, at most: caches that are left make it more than 1."""
_RIDGE = 1e-3


def interpolated_row(table: Table, setting: Setting, kernel: Kernel) -> Row:
    """A row whose cost follows the measured rows of the same operation, window and layout.

    The logarithm of the cost is linear in those of multiply-accumulates and bytes. Where the kind has too few rows and
    the kernel is light (no convolution, less arithmetic than bytes), the cost is that of the same operation with any
    window, by a power of its bytes that all light kernels share. The residual is the mean absolute error of each of
    these rows when predicted from the others, of all operations' where this one has a single row.

    Raises:
        MissingRowError: fewer than `FEWEST_ROWS` rows of the kind and, where it is light, none of its operation.
    """
    overhead_us = table.row(setting, CALL_OVERHEAD).median_us
    rows = [row for row in table.rows if row.setting == setting and row.origin != "interpolated"]
    kernels = [(row.key, row.median_us - overhead_us) for row in rows if isinstance(row.key, Kernel)]
    known = {key: cost_us for key, cost_us in kernels if key != CALL_OVERHEAD}
    kind = kind_of(kernel)
    costs_us = {key: cost_us for key, cost_us in known.items() if kind_of(key) == kind and cost_us > 0}
    if len(costs_us) >= FEWEST_ROWS:
        cost_us, residual_pct = _by_work_and_bytes(costs_us, kernel)
    else:
        light = {key: max(cost_us, _LEAST_US) for key, cost_us in known.items() if _is_light(key)}
        if not _is_light(kernel) or not any(_operation(key) == _operation(kernel) for key in light):
            needed = f"{FEWEST_ROWS} are needed to interpolate" + (", or one of its operation" * _is_light(kernel))
            raise MissingRowError(
                f"{table.name} has no row for {kernel} at {setting} and {len(costs_us)} rows of its kind; {needed}. "
                f"Measure it: latencykit build --out {table.name} --threads {setting.threads} --only-added --add MODEL"
            )
        cost_us, residual_pct = _by_operation_and_bytes(light, kernel)
    costs = kernel.macs, kernel.parameters, kernel.moved_bytes
    return Row(kernel, setting, "interpolated", *costs, None, cost_us, residual_pct)


def _by_work_and_bytes(costs_us: Mapping[Kernel, float], kernel: Kernel) -> tuple[float, float]:
    """A cost in us and the error in percent."""
    design = np.array([_logarithms(key) for key in costs_us])
    target = np.log([*costs_us.values()])
    inverse = np.linalg.inv(design.T @ design + _RIDGE * np.eye(design.shape[1]))
    weights = inverse @ design.T @ target
    leverage = np.einsum("ij,jk,ik->i", design, inverse, design)
    errors = (target - design @ weights) / (1 - leverage)
    return float(np.exp(np.clip(_logarithms(kernel) @ weights, -10, 25))), _percent(errors)


def _by_operation_and_bytes(costs_us: Mapping[Kernel, float], kernel: Kernel) -> tuple[float, float]:
    """A cost in us and the error in percent: one slope by bytes for all operations, and each one's own level."""
    members: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for key, cost_us in costs_us.items():
        members.setdefault(_operation(key), []).append((np.log(max(1, key.moved_bytes)), np.log(cost_us)))
    groups = {operation: np.array(points) for operation, points in members.items()}
    centred = np.concatenate([points - points.mean(axis=0) for points in groups.values()])
    slope = float(centred[:, 0] @ centred[:, 1] / (centred[:, 0] @ centred[:, 0] + _RIDGE))
    slope = min(max(slope, 0.0), _STEEPEST)
    levels = {operation: points @ [-slope, 1] for operation, points in groups.items()}
    errors = {name: (of - of.mean()) * len(of) / (len(of) - 1) for name, of in levels.items() if len(of) > 1}
    mine = _operation(kernel)
    of_kernel = errors[mine] if mine in errors else np.concatenate([*errors.values(), np.zeros(0)])
    level = levels[mine].mean() + slope * np.log(max(1, kernel.moved_bytes))
    return float(np.exp(np.clip(level, -10, 25))), _percent(of_kernel) if len(of_kernel) else 100.0


def _percent(errors: np.ndarray) -> float:
    """Mean absolute error of logarithms, percent."""
    return float(100 * np.abs(np.expm1(np.clip(errors, -3, 3))).mean())


def with_interpolated(table: Table, setting: Setting, kernels: Iterable[Kernel]) -> Table:
    """The table with a guess for each kernel that it does not hold; not for a file.

    Raises:
        MissingRowError: as `interpolated_row`.
    """
    missing = [kernel for kernel in dict.fromkeys(kernels) if not table.has(setting, kernel)]
    if not missing:
        return table
    return table.with_rows([interpolated_row(table, setting, kernel) for kernel in missing])


def kind_of(kernel: Kernel) -> tuple[object, ...]:
    """Operation, layout, groups and window: what kernels are of one kind by."""
    windows = kernel.attribute("kernel_shape"), kernel.attribute("strides"), kernel.attribute("dilations")
    return (kernel.op, kernel.domain, kernel.in_groups, *windows)


def _operation(kernel: Kernel) -> tuple[str, str]:
    return kernel.op, kernel.domain


def _is_light(kernel: Kernel) -> bool:
    """Whether its bytes tell its cost, as far as its operation does not."""
    return "Conv" not in kernel.op and kernel.macs <= kernel.moved_bytes


def _logarithms(kernel: Kernel) -> np.ndarray:
    return np.log([np.e, max(1, kernel.macs), max(1, kernel.moved_bytes), max(1, kernel.parameters)])
