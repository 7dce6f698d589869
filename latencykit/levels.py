"""What a table says of one network at every level: isolated, kernel, edge; raw and calibrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latencykit.agreement import ValidatedNetwork
from latencykit.architecture import Network, network_graph
from latencykit.edges import SearchCosts, cost
from latencykit.errors import MissingRowError
from latencykit.graph import Graph
from latencykit.kernels import Kernel
from latencykit.keys import Level
from latencykit.macro import Macro
from latencykit.predict import Prediction, predict_isolated, predict_kernels
from latencykit.runtime import Setting
from latencykit.selection import SetName
from latencykit.space import Architecture
from latencykit.table import Table


@dataclass(frozen=True)
class Predicted:
    """What a table says of one network; the figures as in `ValidatedNetwork`."""

    macs: int
    raw_ms: Mapping[Level, float]
    calibrated_ms: Mapping[Level, float]
    interval_ms: tuple[float, float]

    def against(self, name: str, chosen_from: SetName, medians_us: Sequence[float]) -> ValidatedNetwork:
        """The network with what its processes took."""
        halves = (medians_us, medians_us[::2], medians_us[1::2])
        whole, half_a, half_b = (float(np.median(part)) / 1000 for part in halves)
        figures = (whole, half_a, half_b, self.raw_ms, self.calibrated_ms, self.interval_ms)
        return ValidatedNetwork(name, chosen_from, self.macs, *figures)


class Predictor:
    """A table's predictions of networks at every level; keeps what does not change between networks."""

    def __init__(self, table: Table, setting: Setting, pace_hz: float | None) -> None:
        self._table, self._setting, self._pace_hz = table, setting, pace_hz
        self._isolated_scale = _isolated_scale(table, setting, pace_hz)
        self._costs: dict[Macro, SearchCosts | None] = {}

    def __call__(self, network: Network, kernels: Sequence[Kernel] | Mapping[Kernel, int]) -> Predicted:
        """Predict a network that runs these kernels on the table's CPU; errors as `predict_kernels`."""
        graph = network_graph(network)
        kernel = predict_kernels(self._table, self._setting, kernels, pace_hz=self._pace_hz)
        raw_ms: dict[Level, float] = {"kernel": kernel.raw_us / 1000}
        calibrated_ms: dict[Level, float] = {"kernel": kernel.latency_us / 1000} if kernel.calibrated else {}
        if (isolated := _isolated(self._table, self._setting, graph)) is not None:
            raw_ms["isolated"] = isolated.raw_us / 1000
            if self._isolated_scale is not None:
                calibrated_ms["isolated"] = self._isolated_scale * isolated.raw_us / 1000
        if isinstance(network, Architecture) and (costs := self._edge_costs(network.macro)) is not None:
            calibrated_ms["edge"] = costs.total_ms(network)
        low, high = kernel.interval_us
        return Predicted(graph.macs, raw_ms, calibrated_ms, (low / 1000, high / 1000))

    def _edge_costs(self, macro: Macro) -> SearchCosts | None:
        if macro not in self._costs:
            known = self._table.has_edges(self._setting, macro, self._pace_hz)
            self._costs[macro] = cost(self._table, self._setting, macro, pace_hz=self._pace_hz) if known else None
        return self._costs[macro]


def _isolated(table: Table, setting: Setting, graph: Graph) -> Prediction | None:
    """The classical sum; None where a primitive has no row, as for networks outside of the table's space."""
    try:
        return predict_isolated(table, setting, graph)
    except MissingRowError:
        return None


def _isolated_scale(table: Table, setting: Setting, pace_hz: float | None) -> float | None:
    """One factor from classical sums to the calibration networks' timings: all that such a table can be given."""
    ratios = []
    for timing in table.timings:
        network = table.network_of(timing).network
        if (timing.setting, timing.pace_hz) == (setting, pace_hz) and network:
            isolated = _isolated(table, setting, network_graph(network))
            ratios += [timing.median_us / isolated.raw_us] if isolated else []
    return float(np.median(ratios)) if ratios else None
