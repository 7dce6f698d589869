"""Feeds every loader hostile files: `python benchmarks/fuzz.py --inputs 100000 --out benchmarks/results/fuzz.json`.

An input is made of (seed, loader, number) alone, so that a run goes on where it was stopped and every example can be
made again. Loaders run in a limited process of their own, which is started anew when one of them kills it. An input is
*accepted*, *refused* by an error of this project, or a *failure*: any other exception, a death, or 20 s of processor
time. Where ONNX kills the process, the file goes through `latencykit.outside` as a user's would, which must refuse it;
that counts as *ended*. One of `GUARD_EVERY` ONNX files goes that way in any case.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
from mutate import mutate_bytes, mutate_json, mutate_onnx, mutate_zip
from onnx import TensorProto, helper, numpy_helper
from synthetic_kit import few_networks, synthetic_result

from latencykit.architecture import architecture_to_json, network_graph, read_architecture
from latencykit.archive import read_archive, write_archive
from latencykit.baselines import Baseline
from latencykit.calibration import CostModel, NetworkTiming
from latencykit.errors import InputError, LatencyKitError
from latencykit.evidence import outlines_in
from latencykit.files import write_json
from latencykit.graph import chain
from latencykit.guard import Limits, limit
from latencykit.kernels import CALL_OVERHEAD, Kernel, kernel_from_json, kernel_model, kernels_of
from latencykit.keys import Edge
from latencykit.kit_ingest import ingest
from latencykit.kit_plan import KIT_FORMAT, MANIFEST, KitPlan, manifest_of, plan_to_bytes
from latencykit.kit_runner import open_kit
from latencykit.lowering import graph_to_onnx
from latencykit.macro import Macro, read_macro
from latencykit.outside import open_model
from latencykit.predict import predict_kernels
from latencykit.progress import progress
from latencykit.rules import admit
from latencykit.runtime import Setting, runtime_version
from latencykit.sample import sample_architectures
from latencykit.schema import to_json
from latencykit.space import instantiate, template
from latencykit.spec import AvgPool, Conv, ConvTranspose, Linear, MaxPool, Resize
from latencykit.table import LoweredNetwork, Row, Table, network_id
from latencykit.table_file import load_table, save_table

ROOT = Path(__file__).resolve().parents[1]
FREE = Setting(threads=1, pinned=False)
LIMITS = Limits(memory_bytes=3 << 30, cpu_s=10**6)
GUARD_LIMITS = Limits(wall_s=10**6, cpu_s=20)  # a run that was paused is no slow file
INPUT_CPU_S = 20.0
GUARD_EVERY = 500
SAVE_EVERY = 1000
EXAMPLES = 20
SMALL = Macro(image_size=32, segmentation_widths=(2, 3, 4), quality_widths=(2, 3, 4))


@dataclass(frozen=True)
class Loader:
    """What is fuzzed: valid files, how they are changed, and a use of the changed file that raises what it raises."""

    corpus: Callable[[], Sequence[bytes]]
    mutate: Callable[[Sequence[bytes], Random], bytes]
    use: Callable[[Path, int], object]


# Tables

TABLE_LISTS = ("rows", "rows", "rows", "rows", "models", "networks", "timings", "sentinels")
"""Where most changes are made."""


@cache
def table_files() -> Sequence[bytes]:
    """The committed table, cut to a few rows of every kind, and the frozen one of the first schema."""
    whole = load_table(min((ROOT / "luts").glob("*.json")))
    kinds: dict[str, list[Any]] = {"": [whole.row(whole.settings[0], CALL_OVERHEAD)]}
    for row in whole.rows:
        kinds.setdefault(f"{row.level}/{row.origin}/{getattr(row.key, 'op', '')}", []).append(row)
    with tempfile.TemporaryDirectory() as scratch:
        files = []
        for count in (1, 3):
            rows = tuple(dict.fromkeys(row for found in kinds.values() for row in found[:count]))[: 6 * count]
            kept = {row.setting for row in rows}
            sentinels = tuple(sentinel for sentinel in whole.sentinels if sentinel.setting in kept)
            path = Path(scratch) / f"{count}.json"
            save_table(calibrated(replace(whole, rows=rows, sentinels=sentinels)), path)
            files.append(path.read_bytes())
    files.append((ROOT / "tests/latencykit/fixtures/table_schema1.json").read_bytes())
    return files


def calibrated(table: Table) -> Table:
    """A table with a little of all that calibration adds; its figures are made up."""
    setting = table.settings[0]
    network = sample_architectures(SMALL, 1, 4)[0]
    kernels = {row.key: 2 for row in table.rows if row.setting == setting and isinstance(row.key, Kernel)}
    edges = [Edge(SMALL, None, 0, ""), Edge(SMALL, "down", 0, "max_pool"), Edge(SMALL, "up", 0, "conv", 30.0)]
    rows = [Row(edge, setting, "fitted", 0, 0, 0, None, 12.5, 1.5) for edge in edges]
    rows.append(Row(Edge(SMALL, "up", 0, "zero"), setting, "defined", 0, 0, 0))
    covariance = ((0.1, 0.0), (0.0, 0.2))
    return replace(
        table.with_rows(rows),
        networks=(LoweredNetwork(network_id(network), network, kernels), LoweredNetwork("model-00", None, kernels)),
        timings=tuple(NetworkTiming(setting, pace_hz, "model-00", (90.5, 91.0)) for pace_hz in (None, 30.0)),
        models=(
            CostModel(setting, None, {"call": 1.5, "sum_us": 1.1}, covariance, 2.5, 1.5, 24),
            CostModel(setting, 30.0, {"call": 2.5, "sum_us": 1.2}, covariance, 3.5, 2.5, 24),
        ),
        validations=({"n": 3, "set": "uniform", "levels": {}},),
    )


def signed(data: Any, rng: Random) -> Any:
    """Data with a fitting checksum in most cases, so that what is wrong gets behind that check."""
    if isinstance(data, dict) and rng.random() < 0.85:
        content = {key: value for key, value in data.items() if key != "checksum"}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        data["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    return data


def use_table(path: Path, number: int) -> None:
    table = load_table(path)
    with let_in("a table"):
        table.require_same_machine(table.cpu, table.runtime)
        for row in table.rows:
            assert table.row(row.setting, row.key) is row
            if isinstance(row.key, Kernel):
                use_kernel(row.key)
        if number % 4 == 0:
            table.to_frame().to_json(orient="records")
            save_table(table, path)
            kept = path.read_bytes()
            save_table(load_table(path), path)
            assert path.read_bytes() == kept
    for network in table.networks:
        for setting in table.settings:
            use_network(table, setting, network)


def use_network(table: Table, setting: Setting, network: LoweredNetwork) -> None:
    """Whatever a table says, a prediction from it is a number or refused."""
    for pace_hz in (None, 30.0):
        try:
            found = predict_kernels(table, setting, network.kernels, pace_hz=pace_hz)
        except LatencyKitError:
            continue
        assert all(map(math.isfinite, (found.latency_us, found.raw_us, *found.interval_us))), found


@contextmanager
def let_in(what: str) -> Iterator[None]:
    """Whatever an accepted file leads to is no refusal."""
    try:
        yield
    except LatencyKitError as error:
        raise AssertionError(f"{what} was accepted, and then {error}") from error


def use_kernel(kernel: Kernel) -> None:
    """A kernel survives JSON, and becomes a model or is refused."""
    with let_in("a kernel"):
        data = json.loads(json.dumps(to_json(kernel), allow_nan=False))
        assert kernel_from_json(data, "again") == kernel
        assert str(kernel)
    if kernel.moved_bytes < 1 << 22:
        try:
            kernel_model(kernel)
        except InputError:
            return


# Macro configurations and architectures


@cache
def macro_files() -> Sequence[bytes]:
    macros = (Macro(), SMALL, replace(SMALL, segmentation_stride=2, quality_stride=4, head="transposed_conv"))
    return [json.dumps(asdict(macro)).encode() for macro in macros]


def use_macro(path: Path, number: int) -> None:
    macro = read_macro(str(path))
    assert template(macro).nodes
    assert instantiate(sample_architectures(macro, 1, number)[0]).macs > 0


@cache
def architecture_files() -> Sequence[bytes]:
    networks = [*sample_architectures(SMALL, 3, 1), *sample_architectures(Macro(), 1, 2), Baseline(), Baseline(2, 1, 2)]
    return [json.dumps(architecture_to_json(network)).encode() for network in networks]


def use_architecture(path: Path, _: int) -> None:
    graph = network_graph(read_architecture(path))
    assert graph.parameters > 0
    assert graph.macs > 0


# ONNX


def _plain(node: onnx.NodeProto, inputs: dict[str, tuple[int, ...]], output: tuple[int, ...], *constants: Any) -> bytes:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    written = [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants]
    graph = helper.make_graph([node], "g", values, written, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _branch(op: str) -> onnx.GraphProto:
    output = helper.make_tensor_value_info("b", TensorProto.FLOAT, (1, 4))
    return helper.make_graph([helper.make_node(op, ["x"], ["b"])], op, [], [output])


@cache
def onnx_files() -> Sequence[bytes]:
    """Small models of every kind of kernel, control flow and recurrent ones too, and a whole pair."""
    chains = (
        ((Conv(4), MaxPool()), ((3, 8, 8),)),
        ((Conv(16, groups=16), Conv(8, 1)), ((16, 6, 6),)),
        ((ConvTranspose(2), Resize(2)), ((4, 4, 4),)),
        ((AvgPool(4, 4, 0), Linear(2)), ((3, 4, 4),)),
    )
    files = [graph_to_onnx(chain(operations, shapes)).SerializeToString() for operations, shapes in chains]
    one = np.ones(4, np.float32)
    switch = helper.make_node("If", ["c"], ["y"], then_branch=_branch("Relu"), else_branch=_branch("Neg"))
    normal = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])
    names = ["x", "w", "r"]
    lstm = helper.make_node("LSTM", names, ["", "y"], hidden_size=2, activations=["Sigmoid", "Tanh", "Tanh"])
    recurrent = ("w", np.ones((1, 8, 3), np.float32)), ("r", np.ones((1, 8, 2), np.float32))
    shape = ("shape", np.array([2, 3], np.int64))
    files += [
        _plain(switch, {"x": (1, 4)}, (1, 4), ("c", np.array(True))),
        _plain(normal, {"x": (1, 4, 2, 2)}, (1, 4, 2, 2), *[(name, one) for name in "sbmv"]),
        _plain(lstm, {"x": (1, 1, 3)}, (1, 1, 2), *recurrent),
        _plain(helper.make_node("ConstantOfShape", ["shape"], ["y"]), {}, (2, 3), shape),
        _plain(helper.make_node("Expand", ["x", "shape"], ["y"]), {"x": (1, 3)}, (2, 3), shape),
    ]
    pair = graph_to_onnx(instantiate(sample_architectures(SMALL, 1, 3)[0])).SerializeToString()
    return [*files, *files, *files, pair]


def use_onnx(path: Path, _: int) -> None:
    data = path.read_bytes()
    admit(data)
    for kernel in kernels_of(data, FREE, path.parent):
        use_kernel(kernel)


# Archives


@cache
def archive_files() -> Sequence[bytes]:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "a.zip"
        files = []
        for content in ({"a.json": b"{}", "graphs/b.onnx": b"\0" * 90, "c": b""}, {"a": b"x" * 500}, {}):
            write_archive(path, content)
            files.append(path.read_bytes())
    return files


def use_archive(path: Path, _: int) -> None:
    files = read_archive(path, max_total_bytes=1 << 20, max_files=20)
    assert sum(map(len, files.values())) <= 1 << 20
    with let_in("an archive"):
        write_archive(path, files)
        assert read_archive(path) == files


# Kits


@cache
def kit_files() -> Sequence[bytes]:
    """Kits as their target unpacks them, but for the sources."""
    model = onnx_files()[0]
    name = f"model-{hashlib.sha256(model).hexdigest()[:16]}"
    kits = []
    for models in ({}, {name: "mine.onnx"}):
        plan = KitPlan(KIT_FORMAT, "0.1.0", (SMALL,), models=models)
        files = {
            "plan.json": plan_to_bytes(plan),
            "run.py": b"pass\n",
            **{f"models/{f}": model for f in models.values()},
        }
        kits.append(zipped({**files, MANIFEST: manifest_of(files)}))
    return kits


@cache
def result_files() -> Sequence[bytes]:
    """Results of a small space, without and with a model of the user's."""
    with few_networks():
        return [zipped(synthetic_result(SMALL, models)) for models in ((), (onnx_files()[0],))]


def zipped(files: Mapping[str, bytes]) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        write_archive(Path(scratch) / "a.zip", files)
        return (Path(scratch) / "a.zip").read_bytes()


def mutate_kit(corpus: Sequence[bytes], rng: Random) -> bytes:
    """A hostile kit or result: an archive of which one file is hostile, its manifest and checksum fitting mostly."""
    data = rng.choice(corpus)
    if rng.random() < 0.1:
        return mutate_zip([data], rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    graphs = sorted(name for name in files if name.endswith(".onnx"))
    plain = sorted(files.keys() - set(graphs) - {MANIFEST})
    name = rng.choice([*plain, *plain, *rng.sample(graphs, min(1, len(graphs))), MANIFEST])
    if name.endswith(".json"):
        finish = signed if name == "table.json" else None
        files[name] = mutate_json([files[name]], rng, finish=finish)
    elif name.endswith(".onnx"):
        files[name] = mutate_onnx([files[name]], rng)
    elif rng.random() < 0.3:
        del files[name]
    else:
        files[name] = mutate_bytes(files[name], [files[name]], rng)
    if name != MANIFEST and rng.random() < 0.9:
        files[MANIFEST] = manifest_of({name: content for name, content in files.items() if name != MANIFEST})
    return zipped(files)


def use_kit(path: Path, _: int) -> None:
    folder = path.parent / "kit"
    for name, content in read_archive(path, max_total_bytes=1 << 22).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    try:
        kit = open_kit(folder)
        assert len(kit.models) == len(kit.plan.models)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def use_result(path: Path, _: int) -> None:
    """Ingest a result; its graphs are looked at here, since this process is a limited one."""

    def outlines(graphs: Mapping[str, bytes], where: str) -> dict[str, Counter[Kernel]]:
        return {name: Counter(outlines_in(admit(content))) for name, content in graphs.items()}

    with few_networks():
        found = ingest(path, outlines)
    assert found.table.validations
    assert all(kernel.macs >= 0 for network in found.table.networks for kernel in network.kernels)


LOADERS = {
    "table": Loader(table_files, partial(mutate_json, finish=signed, focus=TABLE_LISTS), use_table),
    "macro": Loader(macro_files, mutate_json, use_macro),
    "architecture": Loader(architecture_files, mutate_json, use_architecture),
    "onnx": Loader(onnx_files, mutate_onnx, use_onnx),
    "archive": Loader(archive_files, mutate_zip, use_archive),
    "kit": Loader(kit_files, mutate_kit, use_kit),
    "result": Loader(result_files, mutate_kit, use_result),
}


def make_input(name: str, seed: int, number: int) -> bytes:
    """The input of that number."""
    return LOADERS[name].mutate(LOADERS[name].corpus(), Random(f"{seed}/{name}/{number}"))


def attempt(name: str, path: Path, number: int) -> dict[str, Any]:
    """What a loader makes of the file: its outcome, and why."""
    try:
        LOADERS[name].use(path, number)
    except LatencyKitError as error:
        return {"outcome": "refused", "why": f"{type(error).__name__}: {error}"[:2000]}
    except Exception as error:
        lines = traceback.format_exception(error)
        return {"outcome": "failure", "why": f"{type(error).__name__}: {error}"[:500], "trace": lines[-4:]}
    return {"outcome": "accepted"}


def work(name: str, seed: int, start: int, until: int) -> None:
    """The limited process: a line of JSON for each input."""
    with os.fdopen(os.dup(1), "w", encoding="ascii") as answers, tempfile.TemporaryDirectory() as scratch:
        os.dup2(2, 1)
        LOADERS[name].corpus()
        limit(LIMITS)
        path = Path(scratch) / "input.json"
        for number in range(start, until):
            path.write_bytes(make_input(name, seed, number))
            signal.setitimer(signal.ITIMER_PROF, INPUT_CPU_S)
            found = attempt(name, path, number)
            signal.setitimer(signal.ITIMER_PROF, 0)
            answers.write(json.dumps({"number": number, **found}) + "\n")
            answers.flush()


def outcomes(name: str, seed: int, start: int, until: int) -> Iterator[dict[str, Any]]:
    """Outcomes of a range of inputs, in order; the process is started again after each one that killed it."""
    while start < until:
        command = [sys.executable, str(Path(__file__).resolve()), "--work", name, "--seed", str(seed)]
        with tempfile.TemporaryFile() as complaints:
            child = subprocess.Popen(
                [*command, "--from", str(start), "--inputs", str(until)], stdout=subprocess.PIPE, stderr=complaints
            )
            try:
                assert child.stdout is not None
                before = start
                for line in child.stdout:
                    found = json.loads(line)
                    start = found["number"] + 1
                    yield found
                code = child.wait()
                complaints.seek(0)
                if code == 1 and start == before:
                    raise RuntimeError(complaints.read().decode(errors="replace")[-3000:])  # it cannot even start
            finally:
                child.kill()
                child.wait()
                child.stdout.close()
        if start < until:
            yield {"number": start, **_death(name, seed, start, code)}
            start += 1


def _death(name: str, seed: int, number: int, code: int) -> dict[str, Any]:
    ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    if name == "onnx":
        guarded = guard(make_input(name, seed, number))
        if guarded["outcome"] != "failure":
            return {"outcome": "ended", "why": f"{ending}; {guarded['outcome']}: {guarded.get('why', '')}"}
    return {"outcome": "failure", "why": f"the process was ended by {ending}"}


def guard(data: bytes) -> dict[str, Any]:
    """What a user's own call makes of an ONNX file."""
    try:
        open_model(data, "input.onnx", "kernels", FREE, GUARD_LIMITS)
    except InputError as error:
        return {"outcome": "refused", "why": str(error)[:500]}
    except Exception as error:
        return {"outcome": "failure", "why": f"through the guard: {type(error).__name__}: {error}"[:500]}
    return {"outcome": "accepted"}


def shape_of(why: str) -> str:
    """A refusal without the values in it, so that like ones are counted together."""
    text = re.sub(r"/tmp/\S*?input\.json|'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\([^)]*\)", "_", why)
    return re.sub(r"-?\d[\d.e+]*", "N", text.split("\n")[0])[:100]


class Tally:
    """Counts of one loader, as the results file has them."""

    def __init__(self, data: dict[str, Any] | None = None) -> None:
        empty = {"inputs": 0, "accepted": 0, "refused": 0, "ended": 0, "failures": 0, "guarded": {}, "examples": []}
        self.data: dict[str, Any] = {**empty, "refused_as": {}, **(data or {})}
        self._shapes = Counter(self.data["refused_as"])

    def add(self, found: dict[str, Any], make: Callable[[], bytes]) -> None:
        """Count one outcome; a failure keeps the bytes."""
        outcome, why = found["outcome"], found.get("why", "")
        self.data["inputs"] += 1
        self.data["failures" if outcome == "failure" else outcome] += 1
        if outcome in ("refused", "ended"):
            self._shapes[shape_of(why)] += 1
        alike = sum(shape_of(example["why"]) == shape_of(why) for example in self.data["examples"])
        if outcome == "failure" and alike < 3 and len(self.data["examples"]) < EXAMPLES:
            content = base64.b64encode(make()[:20_000]).decode()
            self.data["examples"].append({**found, "base64": content})

    def add_guarded(self, outcome: str) -> None:
        """Count an input that went through the guard."""
        self.data["guarded"][outcome] = self.data["guarded"].get(outcome, 0) + 1

    def as_json(self) -> dict[str, Any]:
        """The counts, refusals by how often they came."""
        return {**self.data, "refused_as": dict(self._shapes.most_common(150))}


def versions() -> dict[str, str]:
    """What the loaders ran on."""
    return {
        "python": platform.python_version(),
        "onnx": onnx.__version__,
        "onnxruntime": runtime_version(),
        "numpy": np.__version__,
    }


def fuzz(name: str, inputs: int, seed: int, tally: Tally, save: Callable[[], None] = lambda: None) -> None:
    """Bring a loader's tally to so many inputs."""
    start = tally.data["inputs"]
    with progress(f"fuzz {name}", inputs, start) as advance:
        for found in outcomes(name, seed, start, inputs):
            number = found["number"]
            if name == "onnx" and number % GUARD_EVERY == 0:
                guarded = guard(make_input(name, seed, number))
                tally.add_guarded(guarded["outcome"])
                found = guarded | {"number": number} if guarded["outcome"] == "failure" else found
            tally.add(found, partial(make_input, name, seed, number))
            advance(note=f"{tally.data['failures']} failures")
            if tally.data["inputs"] % SAVE_EVERY == 0:
                save()
    save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="for each loader, those of earlier runs included")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/fuzz.json")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--loader", action="append", choices=LOADERS, help="only this one; may be repeated")
    parser.add_argument("--work", choices=LOADERS, help=argparse.SUPPRESS)
    parser.add_argument("--from", dest="start", type=int, default=0, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.work:
        work(words.work, words.seed, words.start, words.inputs)
        return
    head = {"schema": 1, "seed": words.seed, "versions": versions()}
    results: dict[str, Any] = {**head, "loaders": {}}
    if words.out.exists():
        results = json.loads(words.out.read_text(encoding="utf-8"))
        if {key: results.get(key) for key in head} != head:
            sys.exit(f"{words.out} is of another seed or other versions; name another --out, or delete it.")
    for name in words.loader or LOADERS:
        tally = Tally(results["loaders"].get(name))

        def save(name: str = name, tally: Tally = tally) -> None:
            results["loaders"][name] = tally.as_json()
            write_json(words.out, results)

        fuzz(name, words.inputs, words.seed, tally, save)
        print(f"{name}: " + ", ".join(f"{tally.data[key]} {key}" for key in ("inputs", "accepted", "refused", "ended")))
        print(f"{name}: {tally.data['failures']} failures")
    sys.exit(any(results["loaders"][name]["failures"] for name in words.loader or LOADERS))


if __name__ == "__main__":
    main()
