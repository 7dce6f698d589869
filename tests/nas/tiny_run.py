"""`nas` in this process, and one whole tiny run of it on the real clock, with protocols so short that it takes seconds.

The run is done twice into one folder: without `--final`, then with it.
"""

import contextlib
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from latencykit import bench, end_to_end, sweep
from latencykit.calibrate import space_needs
from latencykit.doctor import Verdict
from latencykit.host import read_cpu
from latencykit.macro import Macro
from latencykit.measurement import Protocol
from latencykit.sweep import build
from latencykit.validate import validate
from nas import pipeline, prices, staged, timings
from nas.cli import main
from nas.data import Dataset
from tests.ended import Ended, run_command

MACRO = Macro(segmentation_stride=8, quality_stride=8, segmentation_widths=(2, 4, 8), quality_widths=(4, 4))
BASELINE, SEARCHED = "unet4-s8", "searched"
TASKS = [(BASELINE, 0), (BASELINE, 1), (SEARCHED, 0)]
"""Rows and seeds; the hand-made pair has two, so that there is a best one to choose."""

CONFIG = f"""
name = "tiny"
seeds = [0]
threads = [1]
validation_networks = 2
data_statement = "Made up for tests."

[data]
patients = 10
frames_per_patient = 2

[search]
epochs = 2
warmup_epochs = 1
paths = "sampled"
batch_size = 4
max_steps_per_epoch = 1

[train]
epochs = 1
quality_epochs = 1
batch_size = 4
max_steps_per_epoch = 1
precision = "float32"

[[rows]]
name = "{BASELINE}"
kind = "baseline"
baseline = {{ width = 4, depth = 2, stride = 8 }}
seeds = [0, 1]

[[rows]]
name = "{SEARCHED}"
kind = "search"
macro = {{ segmentation_stride = 8, quality_stride = 8, segmentation_widths = [2, 4, 8], quality_widths = [4, 4] }}
search = {{ lambda_latency = 0.1 }}
"""
QUICK = Protocol(samples=2, block_us=0, warmup_ms=0, processes=1)


NOT_YET = Ended(-1, "", "")


def nas(*words: object) -> Ended:
    """Run `nas WORDS` in this process, as its entry point does."""
    return run_command(main, "nas", *words)


@contextlib.contextmanager
def short_protocols() -> Iterator[pytest.MonkeyPatch]:
    """Everything is measured for real, but hardly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prices, "build", partial(build, protocol=QUICK))
        patch.setattr(prices, "doctor", lambda: Verdict(True, (), read_cpu()))  # whatever else runs meanwhile
        patch.setattr(prices, "validate", partial(validate, protocol=replace(QUICK, processes=2)))
        patch.setattr(prices, "space_needs", partial(space_needs, fit_networks=30, sampled=11))
        patch.setattr(sweep, "CALIBRATION_PROTOCOL", QUICK)
        patch.setattr(sweep, "PACED_PROTOCOL", replace(QUICK, samples=1))
        patch.setattr(bench, "STEADY_PCT", dict.fromkeys(bench.STEADY_PCT, math.inf))
        patch.setattr(sweep, "SENTINEL_LIMIT_PCT", math.inf)
        patch.setattr(end_to_end, "NETWORK_PROTOCOL", QUICK)
        patch.setattr(end_to_end, "PACED_SAMPLES", 2)
        patch.setattr(timings, "MEASURING_PROCESSES", 1)
        yield patch


def files(folder: Path) -> dict[str, int]:
    """Every file below a folder with the time of its last change."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()
    }


@dataclass
class TinyRun:
    """The finished run.

    Attributes:
        config: its TOML file.
        out: its folder, which no test may change; `copy` gives one to work on.
        unfinished, finished: how the command ended without and with `--final`.
        unfinished_files, unfinished_results: the folder and its results before `--final`.
        searched, trained: the data sets that the search and each training were given.
    """

    config: Path
    out: Path
    unfinished: Ended = NOT_YET
    finished: Ended = NOT_YET
    unfinished_files: dict[str, int] = field(default_factory=dict)
    unfinished_results: str = ""
    searched: list[Dataset] = field(default_factory=list)
    trained: list[Dataset] = field(default_factory=list)

    def copy(self, target: Path) -> Path:
        """The folder again, times of change included."""
        return shutil.copytree(self.out, target)


def tiny_run(folder: Path) -> TinyRun:
    """Do the run in a folder, with spies where patients are handed over."""
    run = TinyRun(folder / "tiny.toml", folder / "out")
    run.config.write_text(CONFIG, encoding="utf-8")
    search, train = staged.search, pipeline.train

    def spied_search(settings: Any, dataset: Dataset, *rest: Any) -> Any:
        run.searched.append(dataset)
        return search(settings, dataset, *rest)

    def spied_train(network: Any, dataset: Dataset, *rest: Any) -> Any:
        run.trained.append(dataset)
        return train(network, dataset, *rest)

    with short_protocols() as patch:
        patch.setattr(staged, "search", spied_search)
        patch.setattr(pipeline, "train", spied_train)
        run.unfinished = nas("run", run.config, "--out", run.out, "--json")
        assert run.unfinished.code == 0, run.unfinished.err
        run.unfinished_files = files(run.out)
        run.unfinished_results = (run.out / "results.csv").read_text(encoding="utf-8")
        run.finished = nas("run", run.config, "--out", run.out, "--final", "--json")
        assert run.finished.code == 0, run.finished.err
    return run
