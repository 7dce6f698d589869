"""What a search step costs: fewer paths, lower precision, smaller images; ms per image, fresh processes in turns.

    python -m benchmarks.search_step --out benchmarks/results/search-step.json

The paper's supernet on phantoms of 256 x 256 pixels; an epoch with architecture steps, weight steps and quality steps,
and the scoring of a few selection frames. Nothing else may run meanwhile.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np

from latencykit.edges import SearchCosts
from latencykit.files import write_json
from latencykit.macro import Macro
from latencykit.minimisers import CANDIDATES
from latencykit.space import CELL_TYPES, cell_edges
from nas.config import SearchConfig
from nas.data import DataConfig, load
from nas.search import search

MODES = {
    "all paths, float32": {"paths": "all", "precision": "float32"},
    "all paths, bfloat16": {"paths": "all", "precision": "bfloat16"},
    "all paths, float32, images halved": {"paths": "all", "precision": "float32", "image_divisor": 2},
    "all paths, bfloat16, images halved": {"paths": "all", "precision": "bfloat16", "image_divisor": 2},
    "sampled, float32": {"paths": "sampled", "precision": "float32"},
    "sampled, bfloat16": {"paths": "sampled", "precision": "bfloat16"},
}
REFERENCE = "all paths, float32"
STEPS, BATCH = 4, 4


def ms_per_image(mode: str, stride: int) -> float:
    """Of the search's second epoch, the first with architecture steps; what starts up falls on the one before."""
    macro = Macro(segmentation_stride=stride, quality_stride=stride)
    config = SearchConfig(
        epochs=2, warmup_epochs=1, batch_size=BATCH, max_steps_per_epoch=STEPS, selection_share=0.04,
        segmentation_share=0.64, quality_share=0.32, **MODES[mode],
    )  # fmt: skip
    edges_ms = {c: np.ones((len(cell_edges(c, macro.cell_nodes)), CANDIDATES)) for c in CELL_TYPES}
    dataset = load(DataConfig(patients=25, frames_per_patient=4)).of_split("train")
    with tempfile.TemporaryDirectory() as scratch:
        found = search(config, dataset, macro, SearchCosts(1.0, edges_ms, "edge", 0.0), 0, Path(scratch))
    return 1000 / float(found.history[-1]["images_per_s"])


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="JSON file of the figures.")
@click.option("--stride", default=1, show_default=True)
@click.option("--rounds", default=5, show_default=True, help="Fresh processes a mode.")
@click.option("--one", type=click.Choice([*MODES]), hidden=True)
def main(out: Path | None, stride: int, rounds: int, one: str | None) -> None:
    """Compare the modes, in turns."""
    if one is not None:
        print(ms_per_image(one, stride))
        return
    found: dict[str, list[float]] = {mode: [] for mode in MODES}
    for _ in range(rounds):
        for mode, figures in found.items():
            words = [sys.executable, "-m", "benchmarks.search_step", "--one", mode, "--stride", str(stride)]
            figures.append(float(subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True).stdout))
    medians = {mode: statistics.median(figures) for mode, figures in found.items()}
    times = {mode: medians[REFERENCE] / median for mode, median in medians.items()}
    data = {"stride": stride, "batch": BATCH, "ms_per_image": found, "median_ms": medians, "times_faster": times}
    print(json.dumps(data, indent=1))
    if out:
        write_json(out, data)


if __name__ == "__main__":
    main()
