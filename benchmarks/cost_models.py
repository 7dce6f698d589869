"""What should a cost model see, and be calibrated with? Models refitted from stored timings; no clock is involved.

    python -m benchmarks.cost_models NAME=TABLE:TRUTH:THREADS ... --out benchmarks/results/cost-models.json
    python -m benchmarks.cost_models --out benchmarks/results/cost-models.json

The first form takes a table and the folder that `truth.py` wrote of it (networks of `SEED`), and keeps what the models
see: every network's features and what it took, at the build's speed of the machine. The second repeats the figures from
what is kept: by variant of the model, its leave-one-out error on the calibration networks and the mean error on each
set of the validation. Where hand-made pairs of a validation join the calibration networks, its others are predicted, in
`DRAWS` draws.
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

from benchmarks.truth import OTHERS
from latencykit.architecture import Network
from latencykit.calibration import CostModel, fit_model
from latencykit.coverage import lower_all
from latencykit.files import write_text
from latencykit.kernels import CALL_OVERHEAD, Kernel
from latencykit.macro import Macro
from latencykit.predict import network_features
from latencykit.runtime import Setting
from latencykit.selection import choose_networks, sampled_set
from latencykit.table import Table
from latencykit.table_file import load_table

SEED = 11
DRAWS = 30
DIGITS = 6
SAME = 1e-4
"""Relative difference of two sums of a network's kernels."""
SPACE_SETS = (("stride1", 1, 100, "all"), ("stride2", 2, 40, "uniform"), ("stride4", 4, 40, "uniform"))

Seen = list[tuple[dict[str, float], float]]
"""Networks as a cost model sees them, and the microseconds that they took."""


@dataclass(frozen=True)
class Variant:
    """A way to make a model: features that it does not see, hand-made pairs that it also knows."""

    blind_to: tuple[str, ...] = ()
    pairs: int = 0

    def fit(self, networks: Seen) -> CostModel:
        """The model of these networks."""
        seen = [self.see(network) for network, _ in networks]
        return fit_model(Setting(1), None, seen, [us for _, us in networks])

    def see(self, network: Mapping[str, float]) -> dict[str, float]:
        """A network without what this variant does not see."""
        return {name: value for name, value in network.items() if name not in self.blind_to}


VARIANTS = {
    "as it is": Variant(),
    "without weights": Variant(("weights_l2",)),
    "without groups": Variant(("grouped_us",)),
    "without either": Variant(("weights_l2", "grouped_us")),
    "4 more pairs": Variant(pairs=4),
    "8 more pairs": Variant(pairs=8),
    "12 more pairs": Variant(pairs=12),
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
        one["mape_pct"] = {words: _mape_pct(one["seen"], variant) for words, variant in VARIANTS.items()}
        for words, figures in one["mape_pct"].items():
            print(f"{name}, {words}:", ", ".join(f"{which} {figure:.2f}" for which, figure in figures.items()))
    write_text(out, json.dumps(kept, separators=(",", ":")) + "\n")


def _seen(table: Table, truth: Path, threads: int) -> dict[str, Seen]:
    setting = table.setting(threads)

    def see(kernels: Mapping[Kernel, int]) -> dict[str, float]:
        return {name: float(f"{value:.{DIGITS}g}") for name, value in network_features(table, setting, kernels).items()}

    overhead_us = table.row(setting, CALL_OVERHEAD).median_us
    timings = [timing for timing in table.timings if (timing.setting, timing.pace_hz) == (setting, None)]
    found: dict[str, Seen] = {"calibration": [(see(table.network_of(t).kernels), t.median_us) for t in timings]}
    for name, networks in _validated(table, setting):
        stored = json.loads((truth / f"{name}-{threads}.json").read_text(encoding="utf-8"))
        us = 1000 / (1 + stored["slowdown_pct"] / 100)
        for kernels, entry in zip(lower_all(networks), stored["networks"], strict=True):
            seen = see(kernels)
            if abs((overhead_us + seen["sum_us"]) / (1000 * entry["raw_ms"]["kernel"]) - 1) > SAME:
                sys.exit(f"{name} {entry['id']}: {truth} is of other networks; take the table as it was validated.")
            which = name if name in ("unet", "mixed") else f"{name} {entry['set']}"
            found.setdefault(which, []).append((seen, us * entry["measured_ms"]))
    return found


def _validated(table: Table, setting: Setting) -> list[tuple[str, list[Network]]]:
    """The networks of a validation, in its order; those that a table's edge costs chose as the table is now."""
    found: list[tuple[str, list[Network]]] = []
    for name, stride, count, chosen_from in SPACE_SETS:
        macro = Macro(segmentation_stride=stride, quality_stride=stride)
        chosen = choose_networks(table, setting, macro, count, SEED, chosen_from)  # type: ignore[arg-type]
        found.append((name, [one.network for one in chosen]))
    return found + [(name, sampled_set(name, Macro(), OTHERS, SEED)) for name in ("unet", "mixed")]


def _mape_pct(seen: dict[str, Seen], variant: Variant) -> dict[str, float]:
    """Leave-one-out error on the calibration networks, and by set the error on others, means over draws."""
    rng, errors = np.random.default_rng(1), dict[str, list[float]]()
    for _ in range(DRAWS if variant.pairs else 1):
        order = rng.permutation(len(seen["unet"]))
        model = variant.fit([*seen["calibration"], *(seen["unet"][index] for index in order[: variant.pairs])])
        errors.setdefault("calibration", []).append(model.residual_pct)
        sets = seen | {"unet": [seen["unet"][index] for index in order[variant.pairs :]]}
        for name, networks in sets.items():
            if name != "calibration":
                off = [model.latency_us(variant.see(network)) / us - 1 for network, us in networks]
                errors.setdefault(name, []).append(100 * float(np.abs(off).mean()))
    return {name: round(float(np.mean(figures)), 2) for name, figures in errors.items()}


if __name__ == "__main__":
    main()
