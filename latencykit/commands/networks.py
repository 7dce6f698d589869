"""`sample`, `predict`, `measure`: whole networks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

import click

from latencykit.architecture import Network, network_graph, write_architecture
from latencykit.bench import NETWORK_PROTOCOL
from latencykit.commands.options import FILE, PACE, kernels_for, macro_of, macro_option, pace_option, stride_option
from latencykit.console import emit, json_option, threads_option
from latencykit.end_to_end import background_load, measure_models
from latencykit.errors import MissingRowError, UsageError
from latencykit.figures import figure_format, prediction_figure, save_figure
from latencykit.files import write_bytes
from latencykit.instructions import used_cpu
from latencykit.lowering import graph_to_onnx
from latencykit.outside import open_outside
from latencykit.predict import predict_kernels
from latencykit.progress import progress
from latencykit.report import measured_grid, measured_json, prediction_grid, prediction_json
from latencykit.runtime import Setting
from latencykit.selection import sampled_set
from latencykit.table_file import load_table
from latencykit.topology import check_threads


def write_samples(seed: int, networks: Sequence[Network], out: Path) -> list[str]:
    """Write networks as JSON and ONNX; return the paths. `nas sample` is the same."""
    written = []
    with progress("write", len(networks)) as advance:
        for index, network in enumerate(networks):
            path = out / f"{index:03d}.json"
            write_architecture(path, network)
            model = graph_to_onnx(network_graph(network), seed=seed)
            write_bytes(path.with_suffix(".onnx"), model.SerializeToString())
            written += [str(path), str(path.with_suffix(".onnx"))]
            advance()
    return written


@click.command("sample")
@click.option("--seed", required=True, type=int)
@click.option("--count", required=True, type=int)
@click.option("--out", required=True, type=FILE, help="Folder for 000.json, 000.onnx, ...")
@stride_option
@macro_option
@click.option(
    "--set", "chosen_from", type=click.Choice(["uniform", "mixed", "unet"]), default="uniform", show_default=True,
    help="The space; random macro configurations; hand-made pairs.",
)  # fmt: skip
@json_option
def sample_command(
    seed: int, count: int, out: Path, stride: int | None, macro_path: Path | None, chosen_from: str, as_json: bool
) -> None:
    """Draw random networks and write each as JSON and ONNX.

    Example: latencykit sample --seed 7 --count 5 --out samples
    """
    written = write_samples(seed, sampled_set(chosen_from, macro_of(macro_path, stride), count, seed), out)
    emit(as_json, "sample", {"files": written}, written)


@click.command("predict")
@click.argument("table", type=FILE)
@click.argument("model", type=FILE)
@threads_option
@click.option("--pace", type=PACE, help="Latency at this many calls a second instead of back to back.")
@click.option("--interpolate", is_flag=True, help="Guess kernels that the table does not hold, and mark them.")
@click.option("--plot", type=FILE, help="The dearest kernels as bars, PNG or SVG.")
@json_option
def predict_command(
    table: Path, model: Path, threads: int, pace: float | None, interpolate: bool, plot: Path | None, as_json: bool
) -> None:
    """Predict the latency of an ONNX model or an architecture.json from a table, kernel by kernel.

    A table of another CPU predicts what it brought along in lowered form, and any model where instructions are alike.

    Example: latencykit predict luts/mine.json model.onnx --threads 2
    """
    if plot:
        figure_format(plot)
    loaded = load_table(table)
    setting = loaded.setting(threads)
    kernels = kernels_for(loaded, model)
    remedy = f"--only-added --add {model}"
    prediction = predict_kernels(loaded, setting, kernels, pace_hz=pace, remedy=remedy, interpolate=interpolate)
    by_threads = {}
    for other in loaded.settings:
        with suppress(MissingRowError):
            by_threads[other.threads] = (
                predict_kernels(loaded, other, kernels, pace_hz=pace, interpolate=interpolate).latency_us / 1000
            )
    fastest = min(by_threads, key=lambda count: by_threads[count])
    latency_ms = prediction.latency_us / 1000
    if plot:
        save_figure(prediction_figure(prediction, f"{model.name}: {latency_ms:.2f} ms, {setting}"), plot)
    data = {
        "threads": threads, "pace_hz": pace or 0, "calibrated": prediction.calibrated, **prediction_json(prediction),
        "by_threads": by_threads, "fastest_threads": fastest,
    }  # fmt: skip
    low, high = data["ci_ms"]
    rhythm = f"{pace:g} calls a second (the kernels below: back to back)" if pace else "back to back"
    head = (
        f"{latency_ms:.3f} ms ({low:.3f} to {high:.3f}; kernel sum {data['raw_ms']:.3f}) at {setting}, {rhythm}; "
        f"fastest thread count: {fastest}"
    )
    warnings = loaded.doubts
    if not prediction.calibrated:
        warnings.append(
            "a raw kernel sum: this table is not calibrated against whole networks; complete it: latencykit build "
            f"--out {table} --threads {threads}"
        )
    if (there := loaded.cpu.model) != (here := used_cpu().model):
        warnings.append(f"what it takes on {there}, the table's CPU; this one is {here}")
    if prediction.coverage_pct < 100:
        warnings.append(
            f"{100 - prediction.coverage_pct:.0f} % of the kernels' runs are interpolated; measure them: latencykit "
            f"build --out {table} --threads {threads} {remedy}"
        )
    emit(as_json, "predict", data, [head, prediction_grid(prediction)], warnings)


@click.command("measure")
@click.argument("models", nargs=-1, required=True, type=FILE)
@threads_option
@pace_option
@click.option("--load", default=0, show_default=True, help="Other busy processes meanwhile.")
@click.option("--processes", default=NETWORK_PROTOCOL.processes, show_default=True, help="Fresh processes a model.")
@json_option
def measure_command(
    models: tuple[Path, ...], threads: int, pace: float | None, load: int, processes: int, as_json: bool
) -> None:
    """Time whole models end to end, interleaved over fresh pinned processes.

    Example: latencykit measure a.onnx b.onnx --threads 2 --pace 30
    """
    if processes < 1 or load < 0:
        raise UsageError(f"--processes {processes} >= 1 and --load {load} >= 0 expected.")
    check_threads(threads)
    warnings = [warning for model in models for warning in open_outside(model, "run", Setting(threads=1)).warnings]
    with (
        background_load(load) if load else nullcontext(),
        progress("measure", len(models) * processes) as advance,
    ):
        found = measure_models(models, Setting(threads), pace, processes, advance, loaded=load > 0)
    data = {"threads": threads, "pace_hz": pace or 0, "load": load, "models": [measured_json(model) for model in found]}
    rhythm = f"{pace:g} calls a second" if pace else "back to back"
    head = f"{Setting(threads)}, {rhythm}, {processes} processes"
    warnings += [warning for model in found for warning in model.warnings]
    emit(as_json, "measure", data, [head, measured_grid(found)], warnings)
