"""Measure rewrites of whole networks against what they replace: `python -m benchmarks.rewrites`.

Writes `rewrites.json`, `rewrites.md` and `rewrites.png`. A run that was stopped goes on where it was; a rewrite that
was added later is measured alone. Nothing else should run meanwhile: `latencykit doctor`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.rewriting.catalogue import REWRITES, Rewrite
from benchmarks.rewriting.report import markdown, picture
from benchmarks.rewriting.runs import (
    Models,
    Results,
    load,
    make_models,
    measure_run,
    missing,
    outcomes,
    save,
    with_run,
)
from benchmarks.rewriting.variants import STRIDES
from latencykit.figures import save_figure
from latencykit.files import write_text
from latencykit.host import cpu_id, read_cpu
from latencykit.progress import progress
from latencykit.runtime import runtime_version
from latencykit.topology import check_threads

ROUNDS = 4
OUT = Path(__file__).parent / "results"


def measure(path: Path, results: Results, chosen: list[Rewrite], threads: list[int], rounds: int) -> Results:
    """Make what is missing, round by round through all settings, saving after each process."""

    def lacking(stride: int, count: int, upto: int) -> list[Rewrite]:
        return missing(results, chosen, stride, count, upto)

    with tempfile.TemporaryDirectory() as scratch:
        needed = {
            stride: [r for r in chosen if any(r in lacking(stride, t, rounds) for t in threads)] for stride in STRIDES
        }
        made: dict[int, Models] = {}
        total = sum(2 * 4 * len(rewrites) for rewrites in needed.values())
        with progress("models, each pair compared", total) as advance:
            made = {s: make_models(found, s, Path(scratch), advance) for s, found in needed.items() if found}
        work = sum(len(made[s].paths) * len(threads) * rounds for s in made)
        with progress("rewrites", work) as advance:
            for upto in range(1, rounds + 1):
                for stride, models in made.items():
                    for count in threads:
                        found = lacking(stride, count, upto)
                        if found:
                            variants = {v for rewrite in found for v in (rewrite.before, rewrite.after)}
                            run = measure_run(models, variants, stride, count, results.runs, advance)
                            results = with_run(results, run, models)
                            save(path, results)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the three files")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="fresh processes for each setting")
    parser.add_argument("--threads", default="1,2", help="thread counts, comma-separated")
    parser.add_argument("--only", default="", help="rewrites whose title contains this")
    arguments = parser.parse_args()
    threads = [int(count) for count in arguments.threads.split(",")]
    for count in threads:
        check_threads(count)
    chosen = [rewrite for rewrite in REWRITES if arguments.only.lower() in rewrite.title.lower()]
    path = arguments.out / "rewrites.json"
    results = load(path, {"CPU": cpu_id(read_cpu()), "onnxruntime": runtime_version()})
    results = measure(path, results, chosen, threads, arguments.rounds)
    found = outcomes(results)
    write_text(path.with_suffix(".md"), markdown(results, found))
    save_figure(picture(found), path.with_suffix(".png"))
    print(f"{path.with_suffix('.md')}: {len(found)} outcomes of {len(results.runs)} processes")


if __name__ == "__main__":
    main()
