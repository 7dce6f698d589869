"""The bars of a table: is it as good as measuring? Runs every validation on an idle machine and tabulates the figures.

    python benchmarks/truth.py luts/mine.json --threads 1,2 --out benchmarks/results/truth

The table must have been built earlier. Networks outside of its space (random macro configurations, hand-made pairs) get
their kernels added first. Each step is one call of the command line and one JSON file; a step whose file is there, of
these costs and this seed, is not run again, whatever the table holds of other thread counts. A machine with neighbours
changes its speed: a step during which it was more than `OFF_PCT` from what it was in the build, by calibration networks
timed along, is run again, up to `--runs` times, and the run nearest to the build counts, whatever it says of the table;
all runs are kept under `runs/`. `bars.md` and `bars.json` are made of the files that are of these costs, from earlier
calls too; a figure whose step has not been run is one that is not there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from latencykit.files import write_json, write_text
from latencykit.table import Table
from latencykit.table_file import load_table, save_table, table_checksum

PACE_HZ = 30
OTHERS = 24
"""Networks of each set outside of the space."""
OFF_PCT = 2.0
NOT_OF_A_SUMMARY = ("schema", "command", "warnings", "networks", "worst", "costs_sha", "slowdowns_of_all_runs_pct")


@dataclass(frozen=True)
class Step:
    """One validation: a name, options of `latencykit validate`, whether it is drawn."""

    name: str
    options: tuple[str, ...]
    drawn: bool = False


STEPS = (
    Step("stride1", ("--networks", "100", "--set", "all", "--processes", "8"), drawn=True),
    Step("stride2", ("--networks", "40", "--stride", "2", "--processes", "10")),
    Step("stride4", ("--networks", "40", "--stride", "4", "--processes", "10")),
    Step("mixed", ("--networks", str(OTHERS), "--set", "mixed", "--processes", "8")),
    Step("unet", ("--networks", str(OTHERS), "--set", "unet", "--processes", "8")),
    Step("paced1", ("--networks", "24", "--pace", str(PACE_HZ), "--processes", "8")),
    Step("paced4", ("--networks", "24", "--stride", "4", "--pace", str(PACE_HZ), "--processes", "8")),
)


@dataclass(frozen=True)
class Bar:
    """A figure, where it is found, and what it may be at most, or `above`: must be at least."""

    what: str
    step: str
    chosen_from: str | None
    figure: str
    bar: float
    above: bool = False


BARS = (
    Bar("MAPE, stride 1, uniform", "stride1", "uniform", "mape_pct", 2.5),
    Bar("within 5 %", "stride1", "uniform", "within_5_pct", 92, above=True),
    Bar("within 10 %", "stride1", "uniform", "within_10_pct", 99, above=True),
    Bar("MAPE, tails", "stride1", "tails", "mape_pct", 4),
    Bar("MAPE, minimisers of LAT", "stride1", "minimisers", "mape_pct", 4),
    Bar("MAPE, stride 2", "stride2", None, "mape_pct", 3),
    Bar("MAPE, stride 4", "stride4", None, "mape_pct", 3),
    Bar("MAPE, mixed macro configurations", "mixed", None, "mape_pct", 5),
    Bar("MAPE, U-Net family", "unet", None, "mape_pct", 5),
    Bar("tau to half B over tau of halves", "stride1", "uniform", "tau_ratio", 0.95, above=True),
    Bar("in the 90 % interval, at least", "stride1", "uniform", "interval_coverage_pct", 85, above=True),
    Bar("in the 90 % interval, at most", "stride1", "uniform", "interval_coverage_pct", 95),
    Bar("MAPE, paced, stride 1", "paced1", None, "mape_pct", 5),
    Bar("MAPE, paced, stride 4", "paced4", None, "mape_pct", 5),
    Bar("edge costs against the kernel level, uniform", "stride1", "uniform", "edge_against_kernel_pct", 1.5),
    Bar("edge costs against the kernel level, tails", "stride1", "tails", "edge_against_kernel_pct", 3),
)


@click.command()
@click.argument("table", type=click.Path(path_type=Path, exists=True))
@click.option("--threads", default="1,2", show_default=True)
@click.option("--seed", default=11, show_default=True, help="Of the networks: another one draws others.")
@click.option("--runs", default=3, show_default=True, type=click.IntRange(min=1), help="At most, of one step.")
@click.option("--store", is_flag=True, help="Keep the figures in the table, in place of those that it holds.")
@click.option("--out", required=True, type=click.Path(path_type=Path))
def main(table: Path, threads: str, seed: int, runs: int, store: bool, out: Path) -> None:
    """Run what has not been run of this table and tabulate."""
    counts = [int(count) for count in threads.split(",")]
    _add_other_kernels(table, threads, seed, out)
    for count in counts:
        asked = {"costs_sha": costs_checksum(load_table(table), count), "seed": seed}
        for step in STEPS:
            words = ["validate", str(table), "--threads", str(count), "--seed", str(seed), *step.options]
            _validate(step, words, out / f"{step.name}-{count}.json", asked, runs)
    found = _found(load_table(table), out)
    there = sorted({count for _, count in found})
    if store:
        _store(table, [found[step.name, count] for count in there for step in STEPS if (step.name, count) in found])
    lines = [_line(bar, there, found) for bar in BARS]
    write_json(out / "bars.json", lines)
    write_text(out / "bars.md", _markdown(lines, there))
    print(_markdown(lines, there))


def _validate(step: Step, words: list[str], path: Path, asked: dict[str, Any], runs: int) -> None:
    """Run a step until the machine is as fast as in the build, at most so many times; keep the nearest."""
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if any(kept.get(name) != value for name, value in asked.items()):
        kept = {}
    while not kept or (abs(kept["slowdown_pct"]) > OFF_PCT and len(kept["slowdowns_of_all_runs_pct"]) < runs):
        plot = path.with_suffix(".new.png")
        found = _latencykit(*words, *(["--plot", str(plot)] if step.drawn else []))
        if found["slowdown_pct"] is None:
            sys.exit(f"{words[1]} has no cost model of this rhythm: build it with its networks")
        off = [*kept.get("slowdowns_of_all_runs_pct", []), found["slowdown_pct"]]
        write_json(path.parent / "runs" / f"{path.stem}-{len(off)}.json", found | asked)
        if not kept or abs(found["slowdown_pct"]) < abs(kept["slowdown_pct"]):
            kept = found
            if step.drawn:
                plot.replace(path.with_suffix(".png"))
        plot.unlink(missing_ok=True)
        kept = {**kept, **asked, "slowdowns_of_all_runs_pct": off}
        write_json(path, kept)


def costs_checksum(table: Table, threads: int) -> str:
    """SHA-256 of all that a prediction at one thread count rests on."""
    setting = table.setting(threads)
    mine = {
        name: tuple(one for one in getattr(table, name) if one.setting == setting)
        for name in ("rows", "sentinels", "timings", "models")
    }
    timed = {timing.network for timing in mine["timings"]}
    networks = tuple(network for network in table.networks if network.id in timed)
    return table_checksum(replace(table, **mine, networks=networks, validations=(), parents=(), doctor={}))


def _add_other_kernels(table: Path, threads: str, seed: int, out: Path) -> None:
    words = []
    for name in ("mixed", "unet"):
        folder = out / "samples" / name
        _latencykit("sample", "--set", name, "--seed", str(seed), "--count", str(OTHERS), "--out", str(folder))
        words += [word for path in sorted(folder.glob("*.json")) for word in ("--add", str(path))]
    _latencykit("build", "--out", str(table), "--threads", threads, "--only-added", *words)


def _latencykit(*words: str) -> Any:
    command = [str(Path(sys.executable).with_name("latencykit")), *words, "--json"]
    print("$ latencykit", " ".join(command[1:]), flush=True)
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


Found = Mapping[tuple[str, int], dict[str, Any]]
"""Validations by step and thread count."""


def _found(table: Table, out: Path) -> Found:
    """What has been run of these costs, now or before."""
    names = {(step.name, s.threads): out / f"{step.name}-{s.threads}.json" for s in table.settings for step in STEPS}
    read = {key: json.loads(path.read_text(encoding="utf-8")) for key, path in names.items() if path.exists()}
    sha = {setting.threads: costs_checksum(table, setting.threads) for setting in table.settings}
    return {(step, count): one for (step, count), one in read.items() if one["costs_sha"] == sha[count]}


def _store(table: Path, found: Sequence[dict[str, Any]]) -> None:
    """Keep what these validations came to in the table, without single networks."""
    summaries = tuple({name: one[name] for name in one if name not in NOT_OF_A_SUMMARY} for one in found)
    save_table(replace(load_table(table), validations=summaries), table)


def _line(bar: Bar, counts: Sequence[int], validations: Found) -> dict[str, Any]:
    line: dict[str, Any] = {"what": bar.what, "bar": bar.bar, "above": bar.above}
    for count in counts:
        if (found := validations.get((bar.step, count))) is None:
            continue
        part, at_build = (
            whole["sets"][bar.chosen_from] if bar.chosen_from else whole for whole in (found, found["at_build_speed"])
        )
        kernel = part["levels"]["kernel"]
        value, at_build_speed = _figure(part, bar), _figure(at_build, bar)
        line[str(count)] = {
            "value": value, "reached": _reached(value, bar), "slowdown_pct": found["slowdown_pct"],
            "at_build_speed": at_build_speed, "reached_at_build_speed": _reached(at_build_speed, bar),
            "n": part["n"], "raw_mape_pct": kernel["raw"]["mape_pct"],
            "constant_mape_pct": part["constant"]["mape_pct"], "macs_mape_pct": part["macs"]["mape_pct"],
            "repeat_mape_pct": part["repeat"]["mape_pct"],
        }  # fmt: skip
    return line


def _figure(part: dict[str, Any], bar: Bar) -> float:
    return part[bar.figure] if bar.figure in part else part["levels"]["kernel"]["calibrated"][bar.figure]


def _reached(value: float, bar: Bar) -> bool:
    return value >= bar.bar if bar.above else value <= bar.bar


def _markdown(lines: list[dict[str, Any]], counts: list[int]) -> str:
    heads = [f"{count} thread{'s' if count > 1 else ''} | at the build's speed" for count in counts]
    table = ["| figure | bar | " + " | ".join(heads) + " |", "|---|---:|" + "---:|---:|" * len(counts)]
    for line in lines:
        cells = []
        for count in counts:
            found = line.get(str(count))
            if found is None:
                cells += ["not run", "not run"]
                continue
            for figure, reached in (("value", "reached"), ("at_build_speed", "reached_at_build_speed")):
                cells.append(f"{found[figure]:.3g}" + ("" if found[reached] else " (missed)"))
        table.append(f"| {line['what']} | {'>=' if line['above'] else '<='} {line['bar']:g} | {' | '.join(cells)} |")
    return "\n".join(table) + "\n"


if __name__ == "__main__":
    main()
