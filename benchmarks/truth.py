"""The bars of a table: is it as good as measuring? Runs every validation on an idle machine and tabulates the figures.

    python benchmarks/truth.py luts/mine.json --threads 1,2 --out benchmarks/results/truth

The table must have been built earlier. Networks outside of its space (random macro configurations, hand-made pairs)
get their kernels added first. Each step is one call of the command line and one JSON file; a step whose file is there
is not run again. `bars.md` and `bars.json` are made of the files.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from latencykit.files import write_json, write_text

PACE_HZ = 30
OTHERS = 24
"""Networks of each set outside of the space."""


@dataclass(frozen=True)
class Step:
    """One validation: a name, options of `latencykit validate`, whether it is drawn."""

    name: str
    options: tuple[str, ...]
    drawn: bool = False


STEPS = (
    Step("stride1", ("--networks", "100", "--seed", "11", "--set", "all", "--processes", "6"), drawn=True),
    Step("stride2", ("--networks", "40", "--seed", "11", "--stride", "2", "--processes", "6")),
    Step("stride4", ("--networks", "40", "--seed", "11", "--stride", "4", "--processes", "6")),
    Step("mixed", ("--networks", str(OTHERS), "--seed", "11", "--set", "mixed")),
    Step("unet", ("--networks", str(OTHERS), "--seed", "11", "--set", "unet")),
    Step("paced1", ("--networks", "24", "--seed", "11", "--pace", str(PACE_HZ))),
    Step("paced4", ("--networks", "24", "--seed", "11", "--stride", "4", "--pace", str(PACE_HZ))),
)


@dataclass(frozen=True)
class Bar:
    """A figure, where it is found, and what it must be at least."""

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
@click.option("--out", required=True, type=click.Path(path_type=Path))
def main(table: Path, threads: str, out: Path) -> None:
    """Run what has not been run and tabulate."""
    counts = [int(count) for count in threads.split(",")]
    _add_other_kernels(table, threads, out)
    for count in counts:
        for step in STEPS:
            path = out / f"{step.name}-{count}.json"
            if not path.exists():
                plot = ["--plot", str(path.with_suffix(".png"))] if step.drawn else []
                words = ["validate", str(table), "--threads", str(count), *step.options, *plot]
                write_json(path, _latencykit(*words))
    lines = [_line(bar, counts, out) for bar in BARS]
    write_json(out / "bars.json", lines)
    write_text(out / "bars.md", _markdown(lines, counts))
    print(_markdown(lines, counts))


def _add_other_kernels(table: Path, threads: str, out: Path) -> None:
    done = out / f"added-{threads}.json"
    if done.exists():
        return
    words = []
    for name in ("mixed", "unet"):
        folder = out / "samples" / name
        _latencykit("sample", "--set", name, "--seed", "11", "--count", str(OTHERS), "--out", str(folder))
        words += [word for path in sorted(folder.glob("*.json")) for word in ("--add", str(path))]
    write_json(done, _latencykit("build", "--out", str(table), "--threads", threads, "--only-added", *words))


def _latencykit(*words: str) -> Any:
    command = [str(Path(sys.executable).with_name("latencykit")), *words, "--json"]
    print("$ latencykit", " ".join(command[1:]), flush=True)
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


def _line(bar: Bar, counts: list[int], out: Path) -> dict[str, Any]:
    line: dict[str, Any] = {"what": bar.what, "bar": bar.bar, "above": bar.above}
    for count in counts:
        found = json.loads((out / f"{bar.step}-{count}.json").read_text(encoding="utf-8"))
        part = found["sets"][bar.chosen_from] if bar.chosen_from else found
        kernel = part["levels"]["kernel"]
        value = part[bar.figure] if bar.figure in part else kernel["calibrated"][bar.figure]
        reached = value >= bar.bar if bar.above else value <= bar.bar
        line[str(count)] = {
            "value": value, "reached": reached, "n": part["n"], "raw_mape_pct": kernel["raw"]["mape_pct"],
            "constant_mape_pct": part["constant"]["mape_pct"], "macs_mape_pct": part["macs"]["mape_pct"],
            "repeat_mape_pct": part["repeat"]["mape_pct"],
        }  # fmt: skip
    return line


def _markdown(lines: list[dict[str, Any]], counts: list[int]) -> str:
    heads = [f"{count} thread{'s' if count > 1 else ''}" for count in counts]
    table = ["| figure | bar | " + " | ".join(heads) + " |", "|---|---:|" + "---:|" * len(counts)]
    for line in lines:
        cells = []
        for count in counts:
            found = line[str(count)]
            cells.append(f"{found['value']:.3g}" + ("" if found["reached"] else " (missed)"))
        table.append(f"| {line['what']} | {'>=' if line['above'] else '<='} {line['bar']:g} | {' | '.join(cells)} |")
    return "\n".join(table) + "\n"


if __name__ == "__main__":
    main()
