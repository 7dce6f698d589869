"""A kernel that a table does not hold, from the rows of its kind: marked as a guess, with its own error."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from latencykit.errors import MissingRowError
from latencykit.kernels import CALL_OVERHEAD, Kernel
from latencykit.runtime import Setting
from latencykit.table import Row, Table

FEWEST_ROWS = 6
_RIDGE = 1e-3


def interpolated_row(table: Table, setting: Setting, kernel: Kernel) -> Row:
    """A row whose cost follows the measured rows of the same operation, window and layout.

    The logarithm of the cost is linear in those of multiply-accumulates and bytes; the residual is the mean absolute
    error of each of these rows when predicted from the others.

    Raises:
        MissingRowError: fewer than `FEWEST_ROWS` rows of the kind.
    """
    kind = _kind(kernel)
    rows = [r for r in table.rows if r.setting == setting and isinstance(r.key, Kernel) and _kind(r.key) == kind]
    overhead_us = table.row(setting, CALL_OVERHEAD).median_us
    rows = [row for row in rows if row.median_us > overhead_us and row.origin != "interpolated"]
    if len(rows) < FEWEST_ROWS:
        raise MissingRowError(
            f"{table.name} has no row for {kernel} at {setting} and {len(rows)} rows of its kind; {FEWEST_ROWS} are "
            f"needed to interpolate. Measure it: latencykit build --out {table.name} --threads {setting.threads} "
            "--only-added --add MODEL"
        )
    design = np.array([_logarithms(row.key) for row in rows if isinstance(row.key, Kernel)])
    target = np.log([row.median_us - overhead_us for row in rows])
    inverse = np.linalg.inv(design.T @ design + _RIDGE * np.eye(design.shape[1]))
    weights = inverse @ design.T @ target
    leverage = np.einsum("ij,jk,ik->i", design, inverse, design)
    errors = (target - design @ weights) / (1 - leverage)
    residual_pct = float(100 * np.abs(np.expm1(np.clip(errors, -3, 3))).mean())
    cost_us = float(np.exp(np.clip(_logarithms(kernel) @ weights, -10, 25)))
    costs = kernel.macs, kernel.parameters, kernel.moved_bytes
    return Row(kernel, setting, "interpolated", *costs, None, cost_us, residual_pct)


def with_interpolated(table: Table, setting: Setting, kernels: Iterable[Kernel]) -> Table:
    """The table with a guess for each kernel that it does not hold; not for a file.

    Raises:
        MissingRowError: as `interpolated_row`.
    """
    missing = [kernel for kernel in dict.fromkeys(kernels) if not table.has(setting, kernel)]
    if not missing:
        return table
    return table.with_rows([interpolated_row(table, setting, kernel) for kernel in missing])


def _kind(kernel: Kernel) -> tuple[object, ...]:
    windows = kernel.attribute("kernel_shape"), kernel.attribute("strides"), kernel.attribute("dilations")
    return (kernel.op, kernel.domain, kernel.in_groups, *windows)


def _logarithms(kernel: Kernel) -> np.ndarray:
    return np.log([np.e, max(1, kernel.macs), max(1, kernel.moved_bytes), max(1, kernel.parameters)])
