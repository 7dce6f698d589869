"""What a kit brought back: checked, computed again, used on any host; and whatever was tampered with is refused."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latencykit import edges
from latencykit.archive import write_archive
from latencykit.commands import options
from latencykit.edges import cost
from latencykit.errors import InputError, NotComparableError
from latencykit.evidence import evidence
from latencykit.host import CpuFacts, read_cpu
from latencykit.kernels import kernels_of
from latencykit.keys import Edge
from latencykit.kit_ingest import Ingested, ingest
from latencykit.lowering import graph_to_onnx
from latencykit.outside import open_outside
from latencykit.runtime import Setting
from latencykit.sample import sample_architectures
from latencykit.space import instantiate
from latencykit.table import model_id, network_id
from latencykit.table_file import load_table, save_table
from tests.latencykit.kits import Files, benchmark, changed, packed, signed
from tests.latencykit.made_up import ONE, TINY, TWO

SEED = 30_000


@pytest.fixture(scope="module")
def model() -> bytes:
    """A model of the user's own."""
    return graph_to_onnx(instantiate(sample_architectures(TINY, 1, seed=4)[0])).SerializeToString()


@pytest.fixture(scope="module")
def files(model: bytes) -> Files:
    found: Files = benchmark("synthetic_kit").synthetic_result(TINY, [model], [ONE, TWO])
    return found


@pytest.fixture(scope="module")
def whole(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    return ingest(packed(files, tmp_path_factory.mktemp("whole") / "result.zip"))


# What comes in


def test_a_result_becomes_a_table_with_all_three_levels(whole: Ingested, files: Files, model: bytes):
    table = whole.table
    assert {row.level for row in table.rows} == {"isolated", "kernel", "edge"}
    assert table.settings == (ONE, TWO)
    assert [(m.setting, m.pace_hz) for m in table.models] == [(ONE, None), (ONE, 30), (TWO, None), (TWO, 30)]
    assert all(table.has_edges(setting, TINY, pace) for setting in (ONE, TWO) for pace in (None, 30))
    assert table.network(model_id(model))
    assert all(table.network(network_id(a)) for a in sample_architectures(TINY, 3, SEED))
    assert table.parents == (json.loads(files["table.json"])["checksum"],)


def test_the_table_survives_its_file(whole: Ingested, tmp_path: Path):
    save_table(whole.table, tmp_path / "table.json")
    again = load_table(tmp_path / "table.json")
    assert again.models == whole.table.models
    assert again.networks == whole.table.networks
    assert list(again.validations) == json.loads(json.dumps(whole.table.validations))


def test_the_validation_is_computed_from_raw_medians(whole: Ingested, files: Files):
    assert [(macro, v.setting) for macro, v in whole.validations] == [(TINY, ONE), (TINY, TWO)]
    for (_, validation), raw in zip(whole.validations, json.loads(files["validation.json"]), strict=True):
        assert set(validation.raw) == {"isolated", "kernel"}
        assert set(validation.calibrated) == {"isolated", "kernel", "edge"}
        measured = {n.id: n.measured_ms for n in validation.networks}
        medians = {name: np.median(figures) / 1000 for name, figures in raw["medians_us"].items()}
        assert measured == {name: medians[name] for name in measured}
        assert list(measured) == [network_id(a) for a in sample_architectures(TINY, 3, SEED)]
        assert validation.unsteady == 1
    assert whole.validations[0][1].calibrated["kernel"].mape_pct < 2  # the made-up clock adds 2 % of noise


def test_the_table_keeps_its_validation_and_the_user_s_models(whole: Ingested, model: bytes):
    uniform, mine = whole.table.validations[:2]
    assert (uniform["set"], uniform["seed"], uniform["stride"], uniform["n"], uniform["threads"]) == (
        *("uniform", SEED, 1, 3, 1),
    )
    assert uniform["levels"]["edge"]["calibrated"]["mape_pct"] > 0
    assert uniform["affinity"] == [["0"]]
    (entry,) = mine["models"]
    assert (mine["set"], entry["id"], entry["file"]) == ("models", model_id(model), "mine0.onnx")
    assert abs(entry["predicted_ms"] / entry["measured_ms"] - 1) < 0.05


def test_what_is_doubtful_is_told(whole: Ingested, files: Files, tmp_path: Path):
    assert ["2 timings" in warning for warning in whole.warnings] == [True]

    def blind(data: list[dict[str, Any]]) -> None:
        data[0]["affinity"] = [[]]

    unfit = changed(files, "table.json", lambda data: data["doctor"].update(fit=False))
    found = ingest(packed(changed(unfit, "validation.json", blind), tmp_path / "r.zip"))
    assert "unfit" in found.warnings[0]
    assert f"{ONE}: the machine did not tell" in found.warnings[1]


# What does not

Change = Callable[[Any], object]


def row_of(data: Any, level: str, origin: str = "measured") -> Any:
    return next(row for row in data["rows"] if (row["level"], row["origin"]) == (level, origin))


def scaled_row(level: str, factor: float) -> Change:
    """Samples of the dearest row of a level, slower in all processes, as an honest row would have them."""

    def change(data: Any) -> None:
        row = max((r for r in data["rows"] if r["level"] == level and "samples_us" in r), key=lambda r: r["median_us"])
        row["samples_us"] = [[round(value * factor, 3) for value in part] for part in row["samples_us"]]

    return change


def item(*path: object, value: object = None, factor: float | None = None) -> Change:
    """Another value somewhere."""

    def change(data: Any) -> None:
        *most, last = path
        for key in most:
            data = data[key]
        data[last] = data[last] * factor if factor is not None else value

    return change


def edge_cost(data: Any) -> None:
    row_of(data, "edge", "fitted")["median_us"] *= 1.5


def no_edges(data: Any) -> None:
    data["rows"] = [row for row in data["rows"] if row["level"] != "edge"]


def without(name: str, index: int = 0) -> Change:
    return lambda data: data[name].pop(index) and None


def macs(data: Any) -> None:
    row_of(data, "kernel")["macs"] += 1


def guessed(data: Any) -> None:
    row = row_of(data, "isolated")
    del row["samples_us"]
    row["origin"] = "interpolated"


def kernel_count(data: Any) -> None:
    data["networks"][0]["kernels"][0][1] += 1


def kernel_attribute(data: Any) -> None:
    for row in data["rows"]:
        if row["level"] == "kernel" and row["key"]["op"] == "MaxPool":
            row["key"]["attributes"] = [[n, [5, 5] if n == "kernel_shape" else v] for n, v in row["key"]["attributes"]]


def other_network(data: Any) -> None:
    data["networks"][0]["architecture"] = data["networks"][1]["architecture"]


def swapped_networks(data: Any) -> None:
    first, second = data["networks"][:2]
    first["kernels"], second["kernels"] = second["kernels"], first["kernels"]


def zero_count(data: Any) -> None:
    data["networks"][0]["kernels"][0][1] = 0


def huge_count(data: Any) -> None:
    data["networks"][0]["kernels"][0][1] = 10**40


def twice(data: Any) -> None:
    data["timings"].append(data["timings"][0])


def median_of(value: float) -> Change:
    def change(data: Any) -> None:
        name = min(data[0]["medians_us"])
        data[0]["medians_us"][name][0] = value

    return change


def fewer_processes(count: int) -> Change:
    def change(data: Any) -> None:
        for part in data:
            part["medians_us"] = {name: (2 * figures)[:count] for name, figures in part["medians_us"].items()}

    return change


def renamed(data: Any) -> None:
    medians = data[0]["medians_us"]
    medians["network-0000000000000000"] = medians.pop(min(medians))


TAMPERED: dict[str, tuple[str, Change, str]] = {
    "a slower kernel": ("table.json", scaled_row("kernel", 2.0), "a cost model's|the cost of"),
    "a calibration network's time": (
        "table.json",
        item("timings", 3, "medians_us", value=[1.0, 1.0]),
        "a cost model's",
    ),
    "an edge's cost": ("table.json", edge_cost, "the cost of .* is .* there; what was measured gives"),
    "no edge costs": ("table.json", no_edges, "its edge costs are not those of the plan"),
    "a coefficient": (
        "table.json",
        item("models", 0, "coefficients", "sum_us", factor=1.1),
        "a cost model's prediction",
    ),
    "an interval": ("table.json", item("models", 0, "spread_pct", factor=3), "a cost model's interval"),
    "a residual": ("table.json", item("models", 0, "residual_pct", factor=0.2), "a cost model's residual"),
    "a model's networks": ("table.json", item("models", 0, "networks", value=500), "says it is of 500 networks"),
    "a model left out": ("table.json", without("models"), "its cost models are not those"),
    "a row's work": ("table.json", macs, "is not what its key and samples give"),
    "a guess for a row": ("table.json", guessed, "is not what its key and samples give"),
    "a row left out": ("table.json", without("rows", 5), "its rows are not those|without a row"),
    "a timing left out": ("table.json", without("timings"), "its timings are not those"),
    "a timing twice": ("table.json", twice, "a network was timed twice"),
    "a network left out": ("table.json", without("networks", -1), "its networks are not those|not listed"),
    "how often a kernel runs": ("table.json", kernel_count, "is not the graph that the table says"),
    "a kernel's attribute": ("table.json", kernel_attribute, "is not the graph that the table says: MaxPool"),
    "another network's kernels": ("table.json", swapped_networks, "is not the graph that the table says"),
    "another architecture": ("table.json", other_network, "is of another network"),
    "a kernel that never runs": ("table.json", zero_count, "0 times; expected 1 to"),
    "a kernel without end": ("table.json", huge_count, "times; expected 1 to"),
    "a validation of its own": ("table.json", item("validations", value=[{}]), "it has validations or parents"),
    "a newer table": ("table.json", item("schema", value=99), "table schema 99"),
    "another seed": ("plan.json", item("validation_seed", value=SEED + 1), r"not those of the plan: .*\(0\.1\.0\)"),
    "a seed of the table": ("plan.json", item("validation_seed", value=20_001), "draws what tables are made with"),
    "more calibration": ("plan.json", item("sampled_networks", value=13), "its networks are not those of the plan"),
    "other fits": ("plan.json", item("fit_networks", value=6), "not those that the plan's seed draws here"),
    "networks without end": ("plan.json", item("fit_networks", value=10**9), "at most 2000"),
    "another space": ("plan.json", item("macros", 0, "cell_nodes", value=2), "not those that the plan's seed draws"),
    "two spaces": ("plan.json", lambda d: d["macros"].append({**d["macros"][0], "cell_nodes": 2}), "the plan has 2"),
    "a model of another name": ("plan.json", item("models", value={}), "its networks are not those of the plan"),
    "a field nobody knows": ("plan.json", item("more", value=1), "unknown field 'more'"),
    "a newer kit": ("plan.json", lambda data: {"format": 1000, "unheard": "of"}, "kit format 1000, this version reads"),
    "a plan of another kind": ("plan.json", lambda data: [], "kit format None"),
    "fewer samples": ("samples.json", lambda data: data[0].pop() and None, "not those that the plan's seed draws here"),
    "samples of no kernel": (
        "samples.json",
        item(0, 0, 1, 0, value=[10**6, 1]),
        "a kernel that the table does not list",
    ),
    "samples below none": ("samples.json", item(0, 0, 1, 0, value=[-1, 1]), "a kernel that the table does not list"),
    "other samples": ("samples.json", item(0, 0, 1, 0, 1, factor=50), "the cost of"),
    "samples of no count": ("samples.json", item(0, 0, 1, 0, 1, value=0), "0 times; expected"),
    "a time below zero": ("validation.json", median_of(-1.0), "-1.0 us; expected a positive number"),
    "a time without end": ("validation.json", median_of(1e300), "us; expected a positive number"),
    "an odd number of processes": ("validation.json", fewer_processes(3), "one even number expected"),
    "no process": ("validation.json", fewer_processes(0), "one even number expected"),
    "another network's name": ("validation.json", renamed, "not those that the plan's seed draws here"),
    "a setting left out": ("validation.json", lambda data: data.pop() and None, "its settings are not the table's"),
    "a setting twice": ("validation.json", lambda data: [data[0], data[0]], "its settings are not the table's"),
    "unsteady beyond all": ("validation.json", item(0, "unsteady", value={"x": 1}), "calls timings unsteady"),
    "unsteady below zero": (
        "validation.json",
        lambda data: data[0]["unsteady"].update(dict.fromkeys(data[0]["unsteady"], -1)),
        "calls timings unsteady",
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_result_that_was_tampered_with_is_refused_though_its_hashes_fit(name: str, files: Files, tmp_path: Path):
    member, change, why = TAMPERED[name]
    with pytest.raises(InputError, match=why) as caught:
        ingest(packed(changed(files, member, change), tmp_path / "r.zip"))
    assert str(caught.value).startswith(str(tmp_path / "r.zip"))


def graph_names(files: Files) -> list[str]:
    return sorted(name for name in files if name.startswith("optimised/"))


def test_a_graph_of_another_network_is_refused(files: Files, tmp_path: Path):
    first, second = graph_names(files)[:2]
    with pytest.raises(InputError, match="is not the graph that the table says"):
        ingest(packed(signed({**files, first: files[second]}), tmp_path / "r.zip"))


def test_a_graph_that_is_none_is_refused(files: Files, tmp_path: Path):
    first = graph_names(files)[0]
    with pytest.raises(InputError, match=f"{first}: .*not a valid ONNX model"):
        ingest(packed(signed({**files, first: b"my thesis"}), tmp_path / "r.zip"))


def test_a_graph_with_a_node_more_is_refused(files: Files, tmp_path: Path, model: bytes):
    name = f"optimised/{model_id(model)}.onnx"
    plain = evidence(graph_to_onnx(instantiate(sample_architectures(TINY, 1, seed=4)[0])).SerializeToString())
    assert plain != files[name]
    with pytest.raises(InputError, match="is not the graph that the table says"):
        ingest(packed(signed({**files, name: plain}), tmp_path / "r.zip"))


@pytest.mark.parametrize("name", ["plan.json", "table.json", "samples.json", "validation.json", "optimised"])
def test_a_file_that_is_missing_or_changed_or_more_is_refused(name: str, files: Files, tmp_path: Path):
    name = graph_names(files)[0] if name == "optimised" else name
    less = {key: value for key, value in files.items() if key != name}
    cases = [
        (less, "does not fit its MANIFEST"),
        (signed(less), "it holds no|its files are not those"),
        ({**files, name: files[name] + b" "}, "does not fit its MANIFEST"),
        (signed({**files, f"{name}.more": b""}), "its files are not those of the plan"),
    ]
    for number, (case, why) in enumerate(cases):
        with pytest.raises(InputError, match=why):
            ingest(packed(case, tmp_path / f"{number}.zip"))


def test_a_result_without_a_manifest_or_that_is_no_archive_is_refused(files: Files, tmp_path: Path):
    plain = {name: content for name, content in files.items() if name != "MANIFEST"}
    with pytest.raises(InputError, match="holds no MANIFEST"):
        ingest(packed(plain, tmp_path / "a.zip"))
    whole_bytes = packed(files, tmp_path / "b.zip").read_bytes()
    (tmp_path / "b.zip").write_bytes(whole_bytes[:-30])
    with pytest.raises(InputError, match=r"b\.zip"):
        ingest(tmp_path / "b.zip")
    with pytest.raises(InputError, match=r"c\.zip"):
        ingest(tmp_path / "c.zip")


def test_a_bomb_is_not_unpacked(tmp_path: Path):
    write_archive(tmp_path / "bomb.zip", {"table.json": bytes(64 << 20)})
    with pytest.raises(InputError, match="would unpack"):
        ingest(tmp_path / "bomb.zip")


# On any host


@pytest.fixture
def foreign(whole: Ingested, tmp_path: Path) -> Path:
    """The same table, of a CPU with other instructions."""
    other: CpuFacts = dataclasses.replace(read_cpu(), model="Another", isa=("neon", "asimd"))
    save_table(dataclasses.replace(whole.table, cpu=other), tmp_path / "foreign.json")
    return tmp_path / "foreign.json"


def test_a_search_uses_a_table_of_other_instructions(foreign: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> Sequence[object]:
        raise AssertionError("nothing is to be lowered here")

    monkeypatch.setattr(edges, "lower_samples", refuse)
    table = load_table(foreign)
    for pace_hz in (None, 30.0):
        found = cost(table, ONE, TINY, pace_hz=pace_hz)
        assert found.total_ms(sample_architectures(TINY, 1, 99)[0]) > found.fixed_ms > 0
    assert any(isinstance(row.key, Edge) for row in table.rows)


def test_a_search_in_a_space_that_the_table_does_not_hold_is_refused(foreign: Path):
    with pytest.raises(NotComparableError, match="kit make --models"):
        cost(load_table(foreign), ONE, dataclasses.replace(TINY, cell_nodes=2))


def test_what_the_kit_brought_is_known_on_any_host(foreign: Path, tmp_path: Path, model: bytes):
    table = load_table(foreign)
    (tmp_path / "mine.onnx").write_bytes(model)
    brought = options.kernels_for(table, tmp_path / "mine.onnx")
    assert brought == table.network(model_id(model)).kernels  # type: ignore[union-attr]
    assert brought == open_outside_counts(model, tmp_path)


def open_outside_counts(model: bytes, folder: Path) -> dict[Any, int]:
    kernels = kernels_of(model, Setting(threads=1, pinned=False), folder)
    assert list(open_outside(folder / "mine.onnx", "kernels", ONE).kernels) == kernels
    return {kernel: kernels.count(kernel) for kernel in kernels}
