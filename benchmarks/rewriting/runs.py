"""Times variants side by side in fresh processes, keeps every run, and judges each rewrite by ratios within a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.rewriting.catalogue import REWRITES, Rewrite
from benchmarks.rewriting.variants import VARIANTS, Family, networks
from latencykit.bench import collect, gather, measure_items, steady_limit_us
from latencykit.errors import LatencyKitError, NotComparableError
from latencykit.files import write_json
from latencykit.measurement import Protocol
from latencykit.runtime import Session, Setting
from latencykit.schema import decode, read_json
from latencykit.worker import Item

PROTOCOLS: Mapping[int, Protocol] = {
    1: Protocol(samples=10, block_us=0, warmup_ms=20, processes=1),
    4: Protocol(samples=40, block_us=0, warmup_ms=10, processes=1),
}
"""By input stride: about a tenth of a second a model, one process a run."""
TOLERANCE = 1e-4
"""Largest difference of outputs, all of them in [0, 1], that counts as rounding."""
MARGIN = 0.01
RESAMPLES = 4000
MAX_FILE_BYTES = 50_000_000

Verdict = Literal["WINS", "SAME", "LOSES"]


@dataclass(frozen=True)
class Run:
    """One measuring process.

    Attributes:
        medians_us: of every model that was timed in the machine's fast state, by `network/variant`.
        sentinel_us: the fastest sentinel, what the next run of as many threads is held against.
    """

    stride: int
    threads: int
    medians_us: Mapping[str, float]
    sentinel_us: float


@dataclass(frozen=True)
class Results:
    """What `rewrites.json` holds beside the outcomes.

    Attributes:
        machine: CPU and runtime, which all runs share.
        differences: largest difference of outputs, by `stride/network/after/before`; absent where a rewrite finds
            nothing in a network.
        runs: in the order they were made.
    """

    machine: Mapping[str, str]
    differences: dict[str, float] = field(default_factory=dict)
    runs: tuple[Run, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a rewrite brings in one setting: medians over the pairs of one network in one process."""

    title: str
    family: Family
    stride: int
    threads: int
    before_ms: float
    after_ms: float
    ratio: float
    interval: tuple[float, float]
    pairs: int
    verdict: Verdict


def judge(before_us: Sequence[float], after_us: Sequence[float]) -> tuple[float, tuple[float, float], Verdict]:
    """Median ratio, its bootstrap interval (95 %), and the verdict: beyond the margin with the whole interval aside."""
    ratios = np.asarray(after_us) / np.asarray(before_us)
    drawn = np.random.default_rng(0).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), (2.5, 97.5))
    ratio = float(np.median(ratios))
    verdict: Verdict = "SAME"
    if high < 1 and ratio <= 1 - MARGIN:
        verdict = "WINS"
    elif low > 1 and ratio >= 1 + MARGIN:
        verdict = "LOSES"
    return ratio, (float(low), float(high)), verdict


def outcomes(results: Results, rewrites: Iterable[Rewrite] = REWRITES) -> list[Outcome]:
    """Every rewrite in every setting that was measured."""
    found = []
    for rewrite in rewrites:
        for family in rewrite.families:
            for stride in rewrite.strides:
                names = list(networks(family, stride))
                for threads in sorted({run.threads for run in results.runs}):
                    pairs = [
                        (run.medians_us[f"{name}/{rewrite.before}"], run.medians_us[f"{name}/{rewrite.after}"])
                        for run in results.runs
                        for name in names
                        if (run.stride, run.threads) == (stride, threads) and _holds(run, name, rewrite)
                    ]
                    if pairs:
                        before, after = (list(side) for side in zip(*pairs, strict=True))
                        milliseconds = (float(np.median(side)) / 1000 for side in (before, after))
                        ratio, interval, verdict = judge(before, after)
                        where = (rewrite.title, family, stride, threads, *milliseconds)
                        found.append(Outcome(*where, ratio, interval, len(pairs), verdict))
    return found


def _holds(run: Run, network: str, rewrite: Rewrite) -> bool:
    return {f"{network}/{rewrite.before}", f"{network}/{rewrite.after}"} <= run.medians_us.keys()


@dataclass(frozen=True)
class Models:
    """The files of all variants of some rewrites at one stride.

    Attributes:
        paths: by `network/variant`.
        differences: as in `Results`.
    """

    paths: Mapping[str, Path]
    differences: Mapping[str, float]


def make_models(
    rewrites: Sequence[Rewrite], stride: int, folder: Path, advance: Callable[[], object] = lambda: None
) -> Models:
    """Write every variant once and run each pair on one image.

    Raises:
        LatencyKitError: a rewrite that keeps the function does not.
    """
    paths: dict[str, Path | None] = {}
    outputs: dict[str, dict[str, NDArray[Any]]] = {}
    differences: dict[str, float] = {}
    image = {"image": np.random.default_rng(0).random((1, 3, 256, 256), dtype=np.float32)}
    for rewrite in rewrites:
        for family in rewrite.families if stride in rewrite.strides else ():
            for name, network in networks(family, stride).items():
                pair = [f"{name}/{variant}" for variant in (rewrite.before, rewrite.after)]
                for key, variant in zip(pair, (rewrite.before, rewrite.after), strict=True):
                    if key not in paths:
                        model = VARIANTS[variant](network)
                        paths[key] = None
                        if model is not None:
                            path = paths[key] = folder / f"{stride}-{len(paths)}.onnx"
                            path.write_bytes(model.SerializeToString())
                            with Session(path, Setting(1, pinned=False), ()) as session:
                                outputs[key] = session.run(image)
                        advance()
                if outputs.keys() >= set(pair):
                    before, after = (outputs[key] for key in pair)
                    worst = max(float(np.abs(after[output] - before[output]).max()) for output in before)
                    differences["/".join((str(stride), name, rewrite.after, rewrite.before))] = worst
                    if rewrite.same_function and not worst <= TOLERANCE:
                        raise LatencyKitError(
                            f"{rewrite.title}: outputs of {name} at stride {stride} differ by {worst:.2g}; at most "
                            f"{TOLERANCE:g} expected. Either it is no rewrite or it is wrong."
                        )
    return Models({key: path for key, path in paths.items() if path is not None}, differences)


def measure_run(
    models: Models,
    variants: set[str],
    stride: int,
    threads: int,
    earlier: Sequence[Run],
    advance: Callable[..., object] = lambda *_, **__: None,
) -> Run:
    """One fresh process that times these variants of all networks, in an order of its own.

    What was timed while the machine was slow is timed again, and left out if it still was (`measure_items`).
    """
    items = [Item(key, str(path)) for key, path in models.paths.items() if key.partition("/")[2] in variants]
    reference = min((run.sentinel_us for run in earlier if run.threads == threads), default=None)
    facts = {"seed": len(earlier), "reference_us": reference}
    samples = gather(measure_items(items, Setting(threads), PROTOCOLS[stride], **facts), advance)
    limit_us = steady_limit_us(samples, reference)
    steady = [sample for sample in samples if sample.state_us <= limit_us]
    medians = {name: round(found.median_us, 3) for name, found in collect(steady).items()}
    return Run(stride, threads, medians, min(min(sample.sentinel_us) for sample in samples))


def missing(results: Results, rewrites: Sequence[Rewrite], stride: int, threads: int, rounds: int) -> list[Rewrite]:
    """Rewrites with fewer than `rounds` runs in a setting."""

    def count(rewrite: Rewrite) -> int:
        names = [name for family in rewrite.families for name in networks(family, stride)]
        runs = [run for run in results.runs if (run.stride, run.threads) == (stride, threads)]
        return sum(any(_holds(run, name, rewrite) for name in names) for run in runs)

    return [rewrite for rewrite in rewrites if stride in rewrite.strides and count(rewrite) < rounds]


def load(path: Path, machine: Mapping[str, str]) -> Results:
    """The results so far; empty where there are none.

    Raises:
        NotComparableError: they are of another machine or runtime.
        InputError: the file is damaged.
    """
    if not path.exists():
        return Results(machine)
    data = read_json(path, MAX_FILE_BYTES)
    kept = {name: data[name] for name in ("machine", "differences", "runs")} if isinstance(data, dict) else data
    results = decode(Results, kept, str(path))
    if dict(results.machine) != dict(machine):
        raise NotComparableError(f"{path} is of {results.machine}, this is {machine}: move it away and start anew.")
    return results


def save(path: Path, results: Results, rewrites: Iterable[Rewrite] = REWRITES) -> None:
    """Write the results with what follows from them, wholly or not at all."""
    write_json(path, {"outcomes": [asdict(outcome) for outcome in outcomes(results, rewrites)]} | asdict(results))


def with_run(results: Results, run: Run, models: Models) -> Results:
    """The results and one more run."""
    return replace(results, runs=(*results.runs, run), differences={**results.differences, **models.differences})
