"""Kits and their results as loaders that are fuzzed: archives of which one file is hostile."""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random

from synthetic_kit import synthetic_result

from fuzzing.any_bytes import mutate_bytes
from fuzzing.json_files import mutate_json
from fuzzing.loaders import SMALL, Loader, onnx_files, signed
from fuzzing.onnx_files import mutate_onnx
from fuzzing.zip_files import mutate_zip
from latencykit.archive import read_archive, write_archive
from latencykit.evidence import outlines_in
from latencykit.kernels import Kernel
from latencykit.kit_ingest import ingest
from latencykit.kit_plan import KIT_FORMAT, MANIFEST, KitPlan, manifest_of, plan_to_bytes
from latencykit.kit_runner import open_kit
from latencykit.rules import admit


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

    found = ingest(path, outlines)
    assert found.table.validations
    assert all(kernel.macs >= 0 for network in found.table.networks for kernel in network.kernels)


KIT_LOADERS = {
    "kit": Loader(kit_files, mutate_kit, use_kit),
    "result": Loader(result_files, mutate_kit, use_result),
}
