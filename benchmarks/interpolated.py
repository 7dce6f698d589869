"""How good are interpolated prices? Against measured rows, against measured networks, and how often they are needed.

    python -m benchmarks.interpolated

Of the table that `camus.toml` names, at 1 thread, on any host of its instruction set; nothing is timed. Writes
`results/interpolated.json`:

* light rows (`latencykit.interpolation`): each of a kind with six rows or fewer is replaced by what the others say of
  it, and the table's networks are predicted with all of these guesses and with the rows themselves;
* pairs of `results/camus`, hand-made and searched, predicted with what the table lacks interpolated, and as measured;
* networks drawn from the macro configurations of a row: how many have a price, and which part of the kernels that they
  run the table knows, by itself and with the kernels of other networks of that space.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from latencykit.architecture import read_architecture
from latencykit.coverage import network_kernels
from latencykit.errors import MissingRowError
from latencykit.files import write_json
from latencykit.interpolation import FEWEST_ROWS, interpolated_row, kind_of
from latencykit.kernels import CALL_OVERHEAD, Kernel
from latencykit.predict import predict_kernels
from latencykit.runtime import Setting
from latencykit.space import Architecture
from latencykit.table import Row, Table
from latencykit.table_file import load_table, table_checksum
from nas.config import load_run
from nas.prices import NetworkPrices
from nas.results import read_results

HERE = Path(__file__).parent
ROW = "nas-target-1.24"
DRAWN, DRAWN_SEED = 60, 0
ADDED, ADDED_SEED = (0, 15, 30, 60), 1


def main() -> None:
    """Compute everything, print it, write it."""
    run = load_run(HERE / "camus.toml")
    table = load_table(run.table_path(HERE))
    setting = table.setting(1)
    (space,) = (row.macros for row in run.rows if row.name == ROW and row.macros)
    drawn = space.sample(DRAWN, DRAWN_SEED)
    found = {
        "table_sha": table_checksum(table),
        "light_rows": light_rows(table, setting),
        "pairs": pairs(table, setting, run.pace_hz),
        "priced": priced(NetworkPrices(table, 1, run.pace_hz), drawn),
        "known_pct": known_pct(table, setting, space.sample(max(ADDED), ADDED_SEED), drawn),
    }
    write_json(HERE / "results" / "interpolated.json", found)
    for name, value in found.items():
        print(f"{name}: {value}")


def light_rows(table: Table, setting: Setting) -> dict[str, Any]:
    """What networks change by where thin kinds of light kernels are guessed."""
    keys = [row.key for row in table.rows if row.setting == setting]
    kernels = [key for key in keys if isinstance(key, Kernel) and key != CALL_OVERHEAD]
    kinds = Counter(map(kind_of, kernels))
    guesses: dict[object, Row] = {}
    for kernel in kernels:
        if kinds[kind_of(kernel)] <= FEWEST_ROWS:
            rows = tuple(row for row in table.rows if row.key != kernel)
            guesses[kernel] = interpolated_row(replace(table, rows=rows, networks=(), timings=()), setting, kernel)
    swapped = tuple(guesses.get(r.key, r) if r.setting == setting else r for r in table.rows)
    guessed = replace(table, rows=swapped)
    ratios = [
        predict_kernels(guessed, setting, network.kernels).latency_us
        / predict_kernels(table, setting, network.kernels).latency_us
        for network in table.networks
    ]
    changes = [100 * abs(ratio - 1) for ratio in ratios]
    mean_pct, most_pct = statistics.mean(changes), max(changes)
    return {"rows": len(guesses), "networks": len(changes), "mean_pct": mean_pct, "most_pct": most_pct}


def pairs(table: Table, setting: Setting, pace_hz: float) -> list[dict[str, Any]]:
    """Predicted and measured ms of the pairs that were timed on the table's CPU."""
    results = [r for r in read_results(HERE / "results" / "camus" / "results.csv") if r.threads == setting.threads]
    found = []
    for name in dict.fromkeys(result.row for result in results):
        kernels = network_kernels(read_architecture(HERE / "results" / "camus" / name / "architecture.json"))
        for rate in (None, pace_hz):
            measured = statistics.mean(r.p50_ms for r in results if (r.row, r.pace_hz) == (name, rate or 0))
            guess = predict_kernels(table, setting, kernels, pace_hz=rate, interpolate=True)
            found.append({
                "row": name, "pace_hz": rate, "known_pct": guess.coverage_pct, "predicted_ms": guess.latency_us / 1000,
                "measured_ms": measured,
            })  # fmt: skip
    return found


def priced(price: NetworkPrices, networks: Sequence[Architecture]) -> dict[str, int]:
    """How many networks the table can price."""
    count = 0
    for network in networks:
        try:
            price(network)
            count += 1
        except MissingRowError:
            pass
    return {"networks": len(networks), "priced": count}


def known_pct(
    table: Table, setting: Setting, added: Sequence[Architecture], networks: Sequence[Architecture]
) -> dict[int, float]:
    """Mean part of the kernels' runs that the table knows, with those of so many other networks of the space."""
    runs = [network_kernels(network) for network in networks]
    found, more = {}, [network_kernels(network) for network in added]
    for count in ADDED:
        known = {kernel for kernels in more[:count] for kernel in kernels}
        parts = [
            sum(n for kernel, n in kernels.items() if kernel in known or table.has(setting, kernel)) / kernels.total()
            for kernels in runs
        ]
        found[count] = 100 * statistics.mean(parts)
    return found


if __name__ == "__main__":
    main()
