"""From a table's rows to the latency of a network.

Every row was measured as a call of its own and holds the call's overhead, which a network pays once: it is taken off
each kernel and added once to the sum. What a kernel costs inside a network differs from that; `calibration` says how.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latencykit.calibration import CostModel, features
from latencykit.errors import MissingRowError
from latencykit.graph import Graph
from latencykit.interpolation import with_interpolated
from latencykit.kernels import CALL_OVERHEAD, Kernel, kernels_of
from latencykit.keys import Key, Primitive
from latencykit.lowering import graph_to_onnx
from latencykit.runtime import Setting
from latencykit.table import Row, Table


@dataclass(frozen=True)
class Share:
    """One kernel of a network: how often it runs and what all of its runs cost."""

    row: Row
    count: int
    cost_us: float


@dataclass(frozen=True)
class Prediction:
    """The latency of a network as a table has it.

    Attributes:
        latency_us: by the calibrated model where the table has one, else the plain sum.
        raw_us: the sum of the rows, call overhead counted once.
        interval_us: holds 9 networks of 10 where the table is calibrated; else the sums of the rows' lower and upper
            ends: their errors go together, since they come from the same processes. Widened by what is interpolated.
        calibrated: whether there was a model.
        shares: its rows, the dearest first.
    """

    latency_us: float
    raw_us: float
    interval_us: tuple[float, float]
    calibrated: bool
    shares: tuple[Share, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all kernels, padded channels included."""
        return sum(share.count * share.row.macs for share in self.shares)

    @property
    def parameters(self) -> int:
        """Elements of the kernels' constants."""
        return sum(share.count * share.row.parameters for share in self.shares)

    @property
    def moved_bytes(self) -> int:
        """Bytes that the kernels read and write, once each."""
        return sum(share.count * share.row.bytes for share in self.shares)

    @property
    def coverage_pct(self) -> float:
        """Share of the kernels' runs whose cost was measured."""
        runs = sum(share.count for share in self.shares)
        known = sum(share.count for share in self.shares if share.row.origin != "interpolated")
        return 100.0 * known / runs if runs else 100.0


def predict_kernels(
    table: Table,
    setting: Setting,
    kernels: Sequence[Kernel] | Mapping[Kernel, int],
    *,
    pace_hz: float | None = None,
    remedy: str = "",
    interpolate: bool = False,
) -> Prediction:
    """The latency of a network from the kernels that it runs.

    Args:
        table: the table.
        setting: the execution setting.
        kernels: what the network runs (`latencykit.kernels_of`), or how often each.
        pace_hz: calls a second; None is back to back.
        remedy: options of `latencykit build` that would add what is missing.
        interpolate: guess a missing kernel from rows of its kind or operation; such shares say so by their origin.

    Raises:
        MissingRowError: naming every kernel that the table does not hold, or the rhythm that it is not calibrated for.
    """
    counts: Counter[Key] = Counter(kernels)
    model = _model(table, setting, pace_hz)
    if interpolate:
        table = with_interpolated(table, setting, kernels)
    rows = table.lookup(setting, counts, remedy)
    raw = _sum_rows(table, setting, rows, counts)
    if model is None:
        return _widened(_with_row_intervals(raw, table.row(setting, CALL_OVERHEAD)))
    costs = ((s.row.key, s.count, s.cost_us / s.count) for s in raw.shares if isinstance(s.row.key, Kernel))
    found = features(costs, table.cpu.l2_bytes)
    latency_us = model.latency_us(found)
    return _widened(Prediction(latency_us, raw.raw_us, model.interval_us(found), True, raw.shares))


def latencies_us(
    table: Table, setting: Setting, networks: Sequence[Mapping[Kernel, int]], pace_hz: float | None = None
) -> NDArray[np.float64]:
    """What `predict_kernels` says of many networks, (N,), found at once: every feature is a sum over kernels.

    Raises:
        MissingRowError: as `predict_kernels`.
    """
    model = _model(table, setting, pace_hz)
    kernels = {kernel: index for index, kernel in enumerate(dict.fromkeys(k for counts in networks for k in counts))}
    table.lookup(setting, kernels)  # names all that are missing
    nothing = network_features(table, setting, {})
    of_kernels = np.array([[*network_features(table, setting, {kernel: 1}).values()] for kernel in kernels])
    base = np.array([*nothing.values()])
    runs = np.zeros((len(networks), len(kernels)))
    for row, counts in zip(runs, networks, strict=True):
        row[[kernels[kernel] for kernel in counts]] = [*counts.values()]
    seen = [dict(zip(nothing, row, strict=True)) for row in (base + runs @ (of_kernels - base)).tolist()]
    if model is None:
        overhead_us = table.row(setting, CALL_OVERHEAD).median_us
        return np.array([overhead_us + network["sum_us"] for network in seen])
    return np.array([model.latency_us(network) for network in seen])


def _model(table: Table, setting: Setting, pace_hz: float | None) -> CostModel | None:
    """The cost model of a rhythm; back to back there may be none, then the plain sum holds."""
    model = table.model(setting, pace_hz)
    if model is None and pace_hz is not None:
        raise MissingRowError(
            f"{table.name} is not calibrated for {pace_hz:g} calls a second at {setting}; measure instead "
            f"(latencykit measure MODEL --pace {pace_hz:g}) or calibrate: latencykit build --out {table.name} "
            f"--threads {setting.threads}"
        )
    return model


def _widened(prediction: Prediction) -> Prediction:
    """The prediction with an interval that heeds what is interpolated in it."""
    guessed = (share for share in prediction.shares if share.row.origin == "interpolated")
    unsure = sum(share.cost_us * share.row.residual_pct / 100 for share in guessed)
    low, high = prediction.interval_us
    return replace(prediction, interval_us=(max(0.0, low - unsure), high + unsure))


def network_features(table: Table, setting: Setting, kernels: Mapping[Kernel, int]) -> dict[str, float]:
    """What a cost model sees of a network."""
    overhead_us = table.row(setting, CALL_OVERHEAD).median_us
    rows = table.lookup(setting, kernels)
    costs = [net_us(row, row.median_us, overhead_us) for row in rows]
    return features(zip(kernels, kernels.values(), costs, strict=True), table.cpu.l2_bytes)


def predict_graph(table: Table, setting: Setting, graph: Graph, *, pace_hz: float | None = None) -> Prediction:
    """The latency of a graph, lowered and optimised on this CPU; errors as `predict_kernels`."""
    with tempfile.TemporaryDirectory() as scratch:
        model = graph_to_onnx(graph).SerializeToString()
        return predict_kernels(table, setting, kernels_of(model, setting, Path(scratch)), pace_hz=pace_hz)


def predict_isolated(table: Table, setting: Setting, graph: Graph) -> Prediction:
    """The classical sum: every primitive as a model of its own."""
    counts: Counter[Key] = Counter(Primitive(operations, inputs) for operations, inputs, _ in graph.fragments())
    return _with_row_intervals(
        _sum_rows(table, setting, table.lookup(setting, counts), counts), table.row(setting, CALL_OVERHEAD)
    )


def _sum_rows(table: Table, setting: Setting, rows: Iterable[Row], counts: Mapping[Key, int]) -> Prediction:
    overhead = table.row(setting, CALL_OVERHEAD)
    shares = [
        Share(row, counts[row.key], counts[row.key] * net_us(row, row.median_us, overhead.median_us)) for row in rows
    ]
    shares.sort(key=lambda share: -share.cost_us)
    total = overhead.median_us + sum(share.cost_us for share in shares)
    return Prediction(total, total, (total, total), False, tuple(shares))


def _with_row_intervals(raw: Prediction, overhead: Row) -> Prediction:
    ends = [
        overhead.interval_us[end]
        + sum(s.count * net_us(s.row, s.row.interval_us[end], overhead.median_us) for s in raw.shares)
        for end in (0, 1)
    ]
    return replace(raw, interval_us=(min(ends[0], raw.raw_us), max(ends[1], raw.raw_us)))


def net_us(row: Row, figure_us: float, overhead_us: float) -> float:
    """A row's median or interval end without the call's overhead, which only a measured figure holds."""
    return max(figure_us - overhead_us, 0.0) if row.origin == "measured" else figure_us
