"""What should a cost model see, and be calibrated with? Models refitted from stored timings; no clock is involved.

    python -m benchmarks.cost_models NAME=TABLE:TRUTH:THREADS ... --out benchmarks/results/cost-models.json
    python -m benchmarks.cost_models --out benchmarks/results/cost-models.json

The first form takes a table and the folder that `truth.py` wrote of it, and keeps what the models see: every network's
features and what it took, at the build's speed of the machine. The second repeats the figures from what is kept: by
variant of the model, its leave-one-out error on the calibration networks and the mean error on each set of the
validation, percent.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.truth import STEPS
from latencykit.architecture import Network
from latencykit.baselines import Baseline
from latencykit.calibration import CostModel, fit_model
from latencykit.coverage import lower_all
from latencykit.files import write_text
from latencykit.kernels import CALL_OVERHEAD, Kernel
from latencykit.macro import Macro
from latencykit.predict import network_features
from latencykit.runtime import Setting
from latencykit.selection import choose_networks
from latencykit.table import Table
from latencykit.table_file import load_table

DIGITS = 6
SAME = 1e-4
"""Relative difference of two sums of a network's kernels."""
CALIBRATION, PAIR = "calibration", "pair of width "
"""Networks of the space that a table is calibrated with, and hand-made ones."""

Seen = list[tuple[dict[str, float], float]]
"""Networks as a cost model sees them, and the microseconds that they took."""


@dataclass(frozen=True)
class Variant:
    """A way to make a model: features that it does not see, widths of the hand-made pairs that it is fitted to."""

    blind_to: tuple[str, ...] = ()
    widths: tuple[int, ...] = (4, 10, 16)

    def fit(self, seen: Mapping[str, Seen]) -> CostModel:
        """The model of a table's calibration networks."""
        networks = [*seen[CALIBRATION], *(one for width in self.widths for one in seen.get(f"{PAIR}{width}", []))]
        return fit_model(Setting(1), None, [self.see(network) for network, _ in networks], [us for _, us in networks])

    def see(self, network: Mapping[str, float]) -> dict[str, float]:
        """A network without what this variant does not see."""
        return {name: value for name, value in network.items() if name not in self.blind_to}

    def mape_pct(self, seen: Mapping[str, Seen]) -> dict[str, float]:
        """The leave-one-out error, and by set the error on networks that the model does not know."""
        model = self.fit(seen)
        found = {CALIBRATION: model.residual_pct}
        for name, networks in seen.items():
            if name != CALIBRATION and not name.startswith(PAIR):
                off = [model.latency_us(self.see(network)) / us - 1 for network, us in networks]
                found[name] = 100 * float(np.abs(off).mean())
        return {name: round(figure, 2) for name, figure in found.items()}


VARIANTS = {
    "as it is": Variant(),
    "without weights": Variant(("weights_l2",)),
    "without groups": Variant(("grouped_us",)),
    "without either": Variant(("weights_l2", "grouped_us")),
    "one pair a stride": Variant(widths=(10,)),
    "no pair": Variant(widths=()),
}


@click.command()
@click.argument("sources", nargs=-1)
@click.option("--out", required=True, type=click.Path(path_type=Path))
def main(sources: tuple[str, ...], out: Path) -> None:
    """Keep what models see of these sources, if there are any; tabulate."""
    kept: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    for source in sources:
        name, _, rest = source.partition("=")
        table, truth, threads = rest.rsplit(":", 2)
        kept[name] = {"seen": _seen(load_table(Path(table)), Path(truth), int(threads))}
    for name, one in kept.items():
        one["mape_pct"] = {words: variant.mape_pct(one["seen"]) for words, variant in VARIANTS.items()}
        for words, figures in one["mape_pct"].items():
            print(f"{name}, {words}:", ", ".join(f"{which} {figure:.2f}" for which, figure in figures.items()))
    write_text(out, json.dumps(kept, separators=(",", ":")) + "\n")


def _seen(table: Table, truth: Path, threads: int) -> dict[str, Seen]:
    setting = table.setting(threads)

    def see(kernels: Mapping[Kernel, int]) -> dict[str, float]:
        return {name: float(f"{value:.{DIGITS}g}") for name, value in network_features(table, setting, kernels).items()}

    found: dict[str, Seen] = {}
    for timing in table.timings:
        if (timing.setting, timing.pace_hz) == (setting, None):
            known = table.network_of(timing)
            which = f"{PAIR}{known.network.width}" if isinstance(known.network, Baseline) else CALIBRATION
            found.setdefault(which, []).append((see(known.kernels), timing.median_us))
    overhead_us = table.row(setting, CALL_OVERHEAD).median_us
    for step in STEPS:
        if "--pace" in step.options:
            continue
        stored = json.loads((truth / f"{step.name}-{threads}.json").read_text(encoding="utf-8"))
        us = 1000 / (1 + stored["slowdown_pct"] / 100)
        for kernels, entry in zip(lower_all(_validated(table, setting, stored)), stored["networks"], strict=True):
            seen = see(kernels)
            if abs((overhead_us + seen["sum_us"]) / (1000 * entry["raw_ms"]["kernel"]) - 1) > SAME:
                sys.exit(f"{step.name} {entry['id']}: {truth} is of other networks; take the table as it was then.")
            which = entry["set"] if step.name == entry["set"] else f"{step.name} {entry['set']}"
            found.setdefault(which, []).append((seen, us * entry["measured_ms"]))
    return found


def _validated(table: Table, setting: Setting, stored: Mapping[str, Any]) -> list[Network]:
    """The networks of a validation, in its order."""
    stride, chosen_from = stored["stride"] or 1, stored["set"]
    count = stored["n"] if chosen_from != "all" else sum(entry["set"] == "uniform" for entry in stored["networks"])
    macro = Macro(segmentation_stride=stride, quality_stride=stride)
    return [one.network for one in choose_networks(table, setting, macro, count, stored["seed"], chosen_from)]


if __name__ == "__main__":
    main()
