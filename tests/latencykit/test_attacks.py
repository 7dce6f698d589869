"""JSON loaders against files made to break them: only this project's own error comes out, with the file's name."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from latencykit.architecture import architecture_to_json, network_graph, read_architecture
from latencykit.baselines import Baseline
from latencykit.errors import InputError
from latencykit.kernels import Kernel, KernelInput, kernel_from_json, kernel_model
from latencykit.lowering import graph_to_onnx
from latencykit.macro import MAX_CELL_NODES, MAX_IMAGE_SIZE, MAX_LEVELS, MAX_WIDTH, Macro, read_macro
from latencykit.measurement import MAX_PROCESSES, MAX_SAMPLES, Measurement
from latencykit.sample import sample_architectures
from latencykit.schema import to_json
from latencykit.space import template
from latencykit.table_file import TABLE_SCHEMA, load_table
from tests.latencykit.made_up import relu_kernel
from tests.latencykit.running import SMALL

FROZEN = (Path(__file__).parent / "fixtures/table_schema1.json").read_text(encoding="utf-8")


def frozen() -> dict[str, Any]:
    return json.loads(FROZEN)


def signed(data: dict[str, Any]) -> dict[str, Any]:
    """Table data with the checksum that fits them, so that a test gets behind that check."""
    content = {key: value for key, value in data.items() if key != "checksum"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return {**content, "checksum": hashlib.sha256(text.encode()).hexdigest()}


def changed(**changes: Any) -> dict[str, Any]:
    """The frozen table with its first row changed."""
    data = frozen()
    data["rows"][0] |= changes
    return signed(data)


def write(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


LOADERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "table": (load_table, FROZEN),
    "macro": (lambda path: read_macro(str(path)), json.dumps(asdict(SMALL))),
    "architecture": (read_architecture, json.dumps(architecture_to_json(sample_architectures(SMALL, 1, 5)[0]))),
}


def spoil(text: str, kind: str) -> bytes:
    """A valid file's text, made into an attack."""
    first = text.index(":") + 1
    attacks: dict[str, Callable[[], bytes]] = {
        "empty": lambda: b"",
        "truncated": lambda: text[: len(text) // 2].encode(),
        "byte order mark": lambda: b"\xef\xbb\xbf" + text.encode(),
        "UTF-16": lambda: text.encode("utf-16"),
        "not UTF-8": lambda: text.replace('"', '"\udcff', 1).encode(errors="surrogateescape"),
        "NUL": lambda: text.encode() + b"\0",
        "a terminal's command": lambda: text.replace("{", '{"\\u001b[2J": 1, ', 1).encode(),
        "text that turns round": lambda: text.replace("{", '{"\u202e": 1, ', 1).encode(),
        "a deletion": lambda: text.replace("{", '{"\x7f": 1, ', 1).encode(),
        "half a character": lambda: text.replace("{", '{"\\ud800": 1, ', 1).encode(),
        "NaN": lambda: (text[:first] + "NaN, " + text[first:]).encode(),
        "NaN as a value": lambda: text.replace("{", '{"x": NaN, ', 1).encode(),
        "Infinity as a value": lambda: text.replace("{", '{"x": -Infinity, ', 1).encode(),
        "beyond a float": lambda: text.replace("{", '{"x": 1e999, ', 1).encode(),
        "a key twice": lambda: text.replace("{", "{" + text[1:first] + "1, ", 1).encode(),
        "a million deep": lambda: b"[" * 10**6 + b"]" * 10**6,
        "a value that is deep": lambda: text.replace("{", '{"x": ' + "[" * 900 + "]" * 900 + ", ", 1).encode(),
        "a number of many digits": lambda: text.replace("{", '{"x": ' + "9" * 4200 + ", ", 1).encode(),
        "a number of too many digits": lambda: text.replace("{", '{"x": ' + "9" * 10**5 + ", ", 1).encode(),
        "two documents": lambda: (text + text).encode(),
        "a comment": lambda: (text + "// fine").encode(),
        "a list": lambda: b"[" + text.encode() + b"]",
        "text": lambda: json.dumps(text).encode(),
        "pickle": lambda: b"\x80\x04cposix\nsystem\n.",
    }
    return attacks[kind]()


KINDS = (
    *("empty", "truncated", "byte order mark", "UTF-16", "not UTF-8", "NUL", "half a character", "NaN"),
    *("NaN as a value", "Infinity as a value", "beyond a float", "a key twice", "a million deep"),
    *("a value that is deep", "a number of many digits", "a number of too many digits", "two documents"),
    *("a comment", "a list", "text", "pickle", "a terminal's command", "text that turns round", "a deletion"),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loader", LOADERS)
def test_a_spoiled_file_is_refused_by_name(loader: str, kind: str, tmp_path: Path) -> None:
    load, text = LOADERS[loader]
    path = tmp_path / "evil.json"
    path.write_text(text, encoding="utf-8")
    load(path)
    path.write_bytes(spoil(text, kind))
    with pytest.raises(InputError, match=r"evil\.json"):
        load(path)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.skipif(os.name != "posix", reason="pipes and devices of this kind are POSIX's")
def test_what_is_no_file_or_too_large_is_refused_without_waiting(loader: str, tmp_path: Path) -> None:
    load, _ = LOADERS[loader]
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / "large", tmp_path / "circle", Path("a\0b")):
        with pytest.raises(InputError):
            load(path)


# Small files that ask for much


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cell_nodes": 10**6}, f"macro.cell_nodes is 1000000; expected at most {MAX_CELL_NODES}"),
        ({"image_size": 2**40}, f"expected at most {MAX_IMAGE_SIZE}"),
        ({"image_size": 10**4000}, "macro.image_size is a number of 13288 bits; expected at most"),
        ({"output_stride": 2**10_000}, "macro.output_stride is a number of 10001 bits"),
        ({"segmentation_widths": (4,) * 100_000}, f"levels .* is 100000; expected at most {MAX_LEVELS}"),
        ({"quality_widths": (4,) * 13}, f"levels .* is 13; expected at most {MAX_LEVELS}"),
        ({"segmentation_widths": (4, 8, 10**9)}, f"the largest width is 1000000000; expected at most {MAX_WIDTH}"),
    ],
)
def test_a_macro_configuration_has_bounds(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Macro(**change)


def test_a_network_of_the_largest_numbers_is_refused_before_anything_is_made_of_it() -> None:
    with pytest.raises(InputError, match="number of elements of the graph's node"):
        template(Macro(image_size=MAX_IMAGE_SIZE, segmentation_widths=(MAX_WIDTH,) * 4))
    heavy = Baseline(width=1024, depth=6, image_size=64, quality_width=1)
    with pytest.raises(InputError, match="the number of a network's parameters is"):
        graph_to_onnx(network_graph(heavy))


def test_the_deepest_space_is_expanded() -> None:
    widths = (1,) * MAX_LEVELS
    assert template(Macro(MAX_IMAGE_SIZE, 1, 1, widths, widths, MAX_CELL_NODES)).nodes


@pytest.mark.parametrize("field", ["width", "depth", "stride", "quality_width", "image_size"])
def test_a_baseline_has_bounds(field: str) -> None:
    with pytest.raises(InputError, match=f"baseline.{field} is (1099511627776|a number of)"):
        Baseline(**{field: 2**40})


# Tables under a fitting checksum


def kernel_row(**change: Any) -> dict[str, Any]:
    """The frozen table with its first kernel changed."""
    data = frozen()
    row = next(row for row in data["rows"] if row["level"] == "kernel" and row["key"]["op"] == "Conv")
    row["key"] |= change
    return signed(data)


def primitive_row(**change: Any) -> dict[str, Any]:
    data = frozen()
    next(row for row in data["rows"] if row["level"] == "isolated")["key"] |= change
    return signed(data)


ACTIVATION = {"kind": "activation", "type": "tensor(float)"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (kernel_row(output_shape=[1 << 20, 1 << 20]), "number of elements of a kernel's output"),
        (kernel_row(output_shape=[1, 1 << 62]), "a dimension of a kernel's output"),
        (kernel_row(output_shape=[1, -4, 8, 8]), "a dimension of -4"),
        (kernel_row(output_shape=[1] * 99), "number of dimensions of a kernel's output is 99"),
        (kernel_row(op="Relu", inputs=[{**ACTIVATION, "shape": [1 << 27]}] * 3), "number of elements of a kernel Relu"),
        (kernel_row(op="Relu", inputs=[{**ACTIVATION, "shape": [1]}] * 5000), "number of a kernel's inputs is 5000"),
        (kernel_row(inputs=[{"kind": "cloud"}]), "is 'cloud'; expected none, activation or weight"),
        (kernel_row(inputs=[{**ACTIVATION, "type": "\x1b[31m", "shape": [1]}]), "cannot be printed"),
        (kernel_row(inputs=[{**ACTIVATION, "shape": [2], "value": [1.0]}]), "of 2 elements has the values"),
        (kernel_row(inputs=[{**ACTIVATION, "shape": [1], "value": [1e300]}]), "has the values"),
        (kernel_row(op="\x1b[2J"), "cannot be printed"),
        (kernel_row(op="R" * 5000), "expected at most 1000 printable"),
        (kernel_row(version=10**30), "the version of a kernel is a number of 100 bits"),
        (kernel_row(outputs=0), "number of a kernel's outputs is 0"),
        (kernel_row(outputs=10**9), "number of a kernel's outputs is 1000000000"),
        (kernel_row(attributes=[["group", 10**30]]), "no number of 64 bits"),
        (kernel_row(attributes=[["alpha", 1e300]]), "expected a number that float32 holds"),
        (kernel_row(attributes=[["a", 1], ["a", 2]]), "expected each once, in order"),
        (kernel_row(attributes=[["b", 1], ["a", 2]]), "expected each once, in order"),
        (primitive_row(inputs=[[2, 1 << 14, 1 << 14]]), "number of elements of the graph's input"),
        (primitive_row(inputs=[[10**4000, 1, 1]]), "a number of 13288 bits"),
        (primitive_row(inputs=[]), "inputs; expected"),
        (primitive_row(operations=[]), "a chain of no operation"),
        (primitive_row(operations=[{"op": "Conv", "out_channels": 10**6}]), "Conv.out_channels is 1000000"),
        (primitive_row(operations=[{"op": "Resize", "scale": 60_000}]), "number of elements of the graph's node"),
        (changed(macs=-1), "macs is -1; expected 0 to 2"),
        (changed(bytes=2**63), "bytes is 9223372036854775808"),
        (changed(parameters=10**4000), "parameters is a number of 13288 bits"),
        (changed(samples_us=[[1.0] * (MAX_SAMPLES + 1)]), f"up to {MAX_SAMPLES + 1} samples in one"),
        (changed(samples_us=[[1.0]] * (MAX_PROCESSES + 1)), f"of {MAX_PROCESSES + 1} processes"),
        (changed(origin="fitted", samples_us=None, median_us=-1e13), "us; expected a number of at most"),
        (changed(origin="interpolated", samples_us=None, median_us=1e300), "1e\\+300 us; expected"),
        (signed({**frozen(), "sentinels": [{"setting": 0, "medians_us": []}]}), "without samples"),
        (signed({**frozen(), "sentinels": [{"setting": 0, "medians_us": [0.0]}]}), "sample is 0.0 us"),
        (signed({**frozen(), "settings": [{"threads": 0}, {"threads": 2}]}), "the threads of a setting are 0"),
        (
            signed({**frozen(), "settings": [{"threads": 10**30}, {"threads": 2}]}),
            "are a number of 100 bits",
        ),
        (signed({**frozen(), "doctor": {"reasons": 3}}), "the doctor's reasons are int; a list expected"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_table_that_asks_for_much_or_means_nothing_is_refused(
    data: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"t\.json.*{message}"):
        load_table(write(tmp_path / "t.json", data))


def test_the_largest_measurement_has_an_interval() -> None:
    low, high = Measurement(((1.0,) * MAX_SAMPLES,)).interval_us
    assert (low, high) == (1.0, 1.0)


# Kernels


@pytest.mark.parametrize("value", [(1, "a"), (1, 2.5, "b")])
def test_an_attribute_of_mixed_types_is_refused_where_a_model_is_made_of_it(value: tuple[Any, ...]) -> None:
    kernel = Kernel("Relu", "", 14, (("strides", value),), relu_kernel(2).inputs, 1, (1, 2, 8, 8))
    assert str(kernel)
    with pytest.raises(InputError, match="its attribute strides has no ONNX form"):
        kernel_model(kernel)


def test_an_attribute_named_like_a_part_of_a_node_is_an_attribute_still() -> None:
    kernel = Kernel("Relu", "", 14, (("domain", "x"), ("name", "y")), relu_kernel(2).inputs, 1, (1, 2, 8, 8))
    assert kernel_model(kernel)


def test_attributes_that_are_lists_of_words_survive_json() -> None:
    """As recurrent networks have them."""
    kernel = Kernel("LSTM", "", 14, (("activations", ("Sigmoid", "Tanh")),), relu_kernel(2).inputs, 1, (1, 2, 8, 8))
    assert kernel_from_json(json.loads(json.dumps(to_json(kernel))), "test") == kernel


def test_a_batch_normalisation_has_a_variance_that_has_a_root() -> None:
    shape = (1, 64, 4, 4)
    inputs = (KernelInput("activation", "tensor(float)", shape), *[KernelInput("weight", "tensor(float)", (64,))] * 4)
    from onnx import load_model_from_string, numpy_helper

    model = load_model_from_string(kernel_model(Kernel("BatchNormalization", "", 15, (), inputs, 1, shape)))
    variance = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "input4"))
    mean = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "input3"))
    assert variance.min() >= 1
    assert mean.min() < 0


# What calibration adds to a table


def edged(**change: Any) -> dict[str, Any]:
    """A table with the edge cost of everything not chosen, changed."""
    key = {"macro": 0, "cell_type": None, "index": 0, "candidate": "", "pace_hz": None} | change
    row = {"level": "edge", "setting": 0, "label": "", "origin": "fitted", "median_us": 1.0, "key": key}
    data = calibrated()
    data["macros"] = [asdict(SMALL)]
    data["rows"].append({**row, "macs": 0, "parameters": 0, "bytes": 0})
    return signed(data)


def calibrated(**change: Any) -> dict[str, Any]:
    """The frozen table's rows under the schema of today, with a network, its timing and a cost model, changed."""
    data = {key: value for key, value in frozen().items() if key not in ("calibration", "validation")}
    covariance = [[0.1, 0.0], [0.0, 0.1]]
    model = {"setting": 0, "pace_hz": None, "coefficients": {"call": 1.0, "sum_us": 1.0}, "covariance": covariance}
    data |= {
        "schema": TABLE_SCHEMA,
        "macros": [],
        "models": [{**model, "spread_pct": 2.0, "residual_pct": 1.0, "networks": 24}],
        "networks": [{"id": "n", "architecture": None, "kernels": [[0, 1]]}],
        "timings": [{"setting": 0, "pace_hz": None, "network": "n", "medians_us": [5.0]}],
        "validations": [],
    }
    for place, value in change.items():
        name, _, field = place.partition("__")
        data[name] = [{**data[name][0], field: value}] if field else value
    return signed(data)


def test_the_tables_that_these_attacks_are_made_of_load(tmp_path: Path) -> None:
    assert load_table(write(tmp_path / "t.json", calibrated())).models
    assert load_table(write(tmp_path / "t.json", edged())).rows


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (edged(macro=1), "names macro configuration 1"),
        (edged(index=1), "no such edge or candidate"),
        (edged(cell_type="down", index=-1, candidate="max_pool"), "edge -1 of down .* no such edge"),
        (edged(cell_type="down", index=10**400, candidate="max_pool"), "edge a number of 1329 bits of down"),
        (edged(cell_type="down", candidate="explode"), "'explode': no such edge or candidate"),
        (edged(pace_hz=0.0), "edge: .*0.0"),
        (edged(pace_hz=1e300), "edge: .*1e.300"),
        (calibrated(models__pace_hz=-1.0), "cost model .*-1.0"),
        (calibrated(models__spread_pct=-2.0), "an error of -2.0 or"),
        (calibrated(models__coefficients={}), "do not fit together"),
        (calibrated(models__coefficients={"call": 1e300, "sum_us": 1.0}), "no plausible number"),
        (calibrated(networks__kernels=[[0, 0]]), "a kernel runs 0 times; expected 1 to"),
        (calibrated(networks__kernels=[[0, 10**400]]), "a kernel runs a number of 1329 bits times"),
        (calibrated(networks__kernels=[[0, 1], [0, 2]]), "network n lists a kernel twice"),
        (calibrated(networks__kernels=[[10**6, 1]]), "names kernel 1000000"),
        (calibrated(networks__architecture={"schema": 1}), "missing required field"),
        (calibrated(timings__network="m"), "a timing of m, a network that is not listed"),
        (calibrated(timings__medians_us=[]), "timing of n: .*without samples"),
        (calibrated(timings__pace_hz=-3.0), "timing of n: .*-3.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_calibrated_table_that_means_nothing_is_refused(data: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"t\.json.*{message}"):
        load_table(write(tmp_path / "t.json", data))
