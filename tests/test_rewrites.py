"""The rewrites that `benchmarks/rewrites.py` measures compute what they claim, and its figures follow from its runs."""

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import rewrites
from benchmarks.rewriting import runs, variants
from benchmarks.rewriting.catalogue import REWRITES, Rewrite
from benchmarks.rewriting.changes import (
    concat_as_sum,
    fold_pointwise,
    merge_parallel,
    merge_summed,
    sums_as_one,
    transposed_as_stuffed,
)
from benchmarks.rewriting.edit import Editable
from benchmarks.rewriting.ends import (
    bilinear,
    count_padding_in,
    entropy_of_softplus,
    pooled_image_as_convolution,
    resize_as_products,
    softmax_for_sigmoid,
    without_layout_end,
)
from benchmarks.rewriting.phases import pack_finest, rearrange, transposed_as_subpixel
from benchmarks.rewriting.report import markdown, picture
from benchmarks.rewriting.runs import Models, Results, Run, judge, load, make_models, missing, outcomes, save
from benchmarks.rewriting.variants import VARIANTS, Variant, as_lowered, edited, padded, with_macro
from latencykit.architecture import network_graph
from latencykit.baselines import Baseline
from latencykit.bench import Sample
from latencykit.errors import InputError, LatencyKitError, NotComparableError
from latencykit.graph import Graph, Node, chain
from latencykit.lowering import graph_to_onnx
from latencykit.macro import Macro
from latencykit.measurement import Protocol
from latencykit.primitives import PRIMITIVES
from latencykit.runtime import Session, Setting
from latencykit.space import CELL_TYPES, Architecture, cell_edges
from latencykit.spec import Add, Conv, ConvTranspose, Resize
from latencykit.worker import Item

FREE = Setting(threads=1, pinned=False)
SMALL = Macro(image_size=64, segmentation_widths=(4, 8, 16), quality_widths=(8, 8))
STRIDED = replace(SMALL, image_size=128, segmentation_stride=2, quality_stride=2)
MACHINE = {"CPU": "a", "onnxruntime": "1"}


def varied(macro: Macro, doubled: bool = False) -> Architecture:
    """A network of every primitive: edges take the candidates of their kind in turn, if doubled each for two edges."""
    choices = {}
    for cell_type in CELL_TYPES:
        names = {kind: itertools.cycle(c for c in PRIMITIVES[kind] if c != "zero") for kind in PRIMITIVES}
        if doubled:
            names = {kind: (c for c in found for _ in range(2)) for kind, found in names.items()}
        choices[cell_type] = tuple(next(names[edge.kind]) for edge in cell_edges(cell_type, macro.cell_nodes))
    return Architecture(macro, choices)


def run(model: onnx.ModelProto | bytes, seed: int = 0) -> dict[str, np.ndarray]:
    data = model if isinstance(model, bytes) else bytes(model.SerializeToString())
    with Session(data, FREE, ()) as session:
        return session.run(session.random_inputs(seed))


def assert_same(before: onnx.ModelProto, after: onnx.ModelProto, tolerance: float = 1e-4) -> None:
    left, right = run(before), run(after)
    assert left.keys() == right.keys()
    for name in left:
        assert np.ptp(left[name]) > 1e-3 or left[name].size == 1, f"{name} is constant: it tells nothing"
        np.testing.assert_allclose(right[name], left[name], atol=tolerance, rtol=tolerance)


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


STRIDED_ONLY = ("matrix products", "image by convolution", "together")
EXACT = [
    *("softplus", "packed", *STRIDED_ONLY, "layout not ended", "softmax", "subpixel", "stuffed, resize"),
    *("stuffed, pad", "parallel 1x1", "parallel, narrow", "folded, narrow", "folded, all", "at least 8", "at least 16"),
    *("no concatenation", "one sum"),
]


@pytest.mark.parametrize("variant", EXACT)
def test_a_rewrite_keeps_the_outputs_of_networks_with_every_primitive(variant: str):
    macros = [STRIDED] if variant in STRIDED_ONLY else [SMALL, STRIDED]
    changed = 0
    for network in (varied(macro, doubled) for macro in macros for doubled in (False, True)):
        after = VARIANTS[variant](network)
        before = as_lowered(network)
        if after is not None:
            changed += 1
            assert kinds(after) != kinds(before) or variant.startswith("at least")
            onnx.checker.check_model(after)
            assert_same(before, after)
    assert changed


def test_merging_summed_1x1s_keeps_the_outputs_where_the_activation_stands_behind_sums():
    network = varied(SMALL, doubled=True)
    after = VARIANTS["summed 1x1"](network)
    assert after is not None
    before = VARIANTS["ReLU after sums"](network)
    assert before is not None
    assert kinds(after).count("Conv") < kinds(before).count("Conv")
    assert_same(before, after)


@pytest.mark.parametrize("variant", ["subpixel", "stuffed, resize", "stuffed, pad", "no concatenation", "softplus"])
def test_a_rewrite_keeps_the_outputs_of_a_u_net(variant: str):
    network = Baseline(width=4, depth=2, quality_width=4, image_size=64)
    after = VARIANTS[variant](network)
    assert after is not None
    assert_same(as_lowered(network), after)


def test_every_rewrite_that_claims_to_keep_the_function_is_tested_here():
    exact = {name for r in REWRITES if r.same_function for name in (r.before, r.after)}
    assert exact - {"as lowered", "ReLU after sums"} == {*EXACT, "summed 1x1"}
    assert {rewrite.before for rewrite in REWRITES} == {"as lowered", "softplus", "layout not ended", "ReLU after sums"}
    titles = [rewrite.title for rewrite in REWRITES]
    assert len(set(titles)) == len(titles)
    assert {name for r in REWRITES for name in (r.before, r.after)} == VARIANTS.keys()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "operation",
    [
        ConvTranspose(4),
        ConvTranspose(4, 3, 2, 2),
        ConvTranspose(4, 2, 2),
        ConvTranspose(4, 5, 2),
        ConvTranspose(4, 4, 4, activation="none"),
        ConvTranspose(6, 3, 3),
    ],
    ids=str,
)
def test_a_transposed_convolution_is_a_convolution_and_depth_to_space(operation: ConvTranspose, channels: int):
    before = graph_to_onnx(chain([operation], [(channels, 6, 8)]), seed=1)
    model = Editable(before)
    assert transposed_as_subpixel(model) == 1
    after = model.finish()
    assert set(kinds(after)) <= {"Conv", "Relu", "DepthToSpace"}
    assert_same(before, after)


def test_a_depthwise_transposed_convolution_is_one_too():
    before = graph_to_onnx(chain([ConvTranspose(4, groups=4, norm=False)], [(4, 6, 6)]), seed=1)
    model = Editable(before)
    transposed_as_subpixel(model)
    assert_same(before, model.finish())


@pytest.mark.parametrize("how", ["resize", "pad"])
@pytest.mark.parametrize("operation", [ConvTranspose(4), ConvTranspose(4, 3, 2, 2), ConvTranspose(3, 2, 2)], ids=str)
def test_zeros_between_pixels_and_a_convolution_are_a_transposed_convolution(operation: ConvTranspose, how: str):
    before = graph_to_onnx(chain([operation], [(3, 6, 8)]), seed=1)
    model = Editable(before)
    assert transposed_as_stuffed(model, how) == 1
    assert "ConvTranspose" not in kinds(model.finish())
    assert_same(before, model.finish())


@pytest.mark.parametrize(
    ("operations", "packed_nodes"),
    [
        ([Conv(4, 1), Conv(4), Conv(6, stride=2)], 3),
        ([Conv(4, 1), Conv(4, dilation=2), Conv(6, 1, stride=2)], 3),
        ([Conv(4, 1), Conv(4, 5), Conv(1, 1, norm=False, bias=True, activation="none")], 3),
        ([Conv(8, stride=2), ConvTranspose(4), Conv(4, groups=4), Conv(8, stride=2)], 3),
        ([Conv(8, stride=2), ConvTranspose(4, dilation=2), Conv(6, stride=2, dilation=2)], 2),
    ],
)
def test_packed_maps_hold_the_same_pixels(operations: list[Conv | ConvTranspose], packed_nodes: int):
    before = graph_to_onnx(chain(operations, [(3, 16, 16)]), seed=1)
    model = Editable(before)
    assert pack_finest(model, 4) == packed_nodes
    after = model.finish()
    assert "ConvTranspose" not in kinds(after)
    assert_same(before, after)
    shapes = Editable(after).shapes
    assert (1, 16, 8, 8) in shapes.values()
    assert (1, 4, 16, 16) not in shapes.values()


def test_only_convolutions_sums_and_relus_may_touch_packed_maps():
    model = Editable(graph_to_onnx(chain([Conv(4), Resize(2)], [(3, 8, 8)])))
    with pytest.raises(ValueError, match="Resize output reads or writes a map"):
        pack_finest(model, 4)


def test_a_rearranged_convolution_knows_what_it_cannot_do():
    transposed, strided = (
        Editable(graph_to_onnx(chain([operation], [(2, 9, 9)]))).convolutions()[0]
        for operation in (ConvTranspose(2), Conv(2, stride=3))
    )
    with pytest.raises(ValueError, match="cannot give 3 phases"):
        rearrange(transposed, phases_out=3)
    with pytest.raises(ValueError, match="does not lead from 2 to 1"):
        rearrange(strided, phases_in=2)


def test_upsampling_by_products_repeats_the_border_and_keeps_sums():
    np.testing.assert_allclose(bilinear(3, 2)[:3], [[1, 0, 0], [0.75, 0.25, 0], [0.25, 0.75, 0]])
    np.testing.assert_allclose(bilinear(5, 4).sum(axis=1), 1)


def test_softmax_reads_two_logits_of_which_one_is_zero():
    model = Editable(as_lowered(varied(STRIDED)))
    assert softmax_for_sigmoid(model) == 2
    found = kinds(model.finish())
    assert found.count("Softmax") == 2
    assert found.count("Resize") == 2


def test_counting_the_padding_changes_the_border_of_average_pools_only():
    network = varied(SMALL)
    model = Editable(as_lowered(network))
    pools = kinds(as_lowered(network)).count("AveragePool")
    assert count_padding_in(model) == pools > 0


@pytest.mark.parametrize(
    "change",
    [
        fold_pointwise,
        merge_parallel,
        merge_summed,
        concat_as_sum,
        sums_as_one,
        without_layout_end,
        softmax_for_sigmoid,
        resize_as_products,
        pooled_image_as_convolution,
        count_padding_in,
        transposed_as_subpixel,
        partial(transposed_as_stuffed, how="pad"),
        entropy_of_softplus,
    ],
)
def test_a_rewrite_leaves_alone_what_it_does_not_know(change: variants.Change):
    before = graph_to_onnx(chain([Conv(4), Conv(4)], [(3, 8, 8)]))
    model = Editable(before)
    assert change(model) == 0
    assert kinds(model.finish()) == kinds(before)
    assert edited(change, start=lambda network: before)(Baseline()) is None


def test_what_is_read_twice_is_not_folded_away():
    nodes = (
        Node("depthwise", Conv(4, groups=4, activation="none"), ("x",), "test"),
        Node("point", Conv(4, 1, activation="none"), ("depthwise",), "test"),
        Node("sum", Add(), ("depthwise", "point"), "test"),
    )
    model = Editable(graph_to_onnx(Graph({"x": (4, 8, 8)}, nodes, {"y": "sum"})))
    assert fold_pointwise(model) == 0


def test_unlike_convolutions_of_one_input_are_not_merged():
    nodes = (
        Node("a", Conv(4, 1), ("x",), "test"),
        Node("b", Conv(4, 1, activation="none"), ("x",), "test"),
        Node("c", Conv(4, 3), ("x",), "test"),
        Node("d", Conv(4, 1, stride=2), ("x",), "test"),
    )
    graph = Graph({"x": (4, 8, 8)}, nodes, {name: name for name in "abcd"})
    assert merge_parallel(Editable(graph_to_onnx(graph))) == 0


def test_a_model_whose_node_reads_nothing_that_is_written_is_refused():
    model = Editable(graph_to_onnx(chain([Conv(4)], [(3, 8, 8)])))
    model.op("Relu", ["nowhere"], "output")
    with pytest.raises(ValueError, match="nowhere"):
        model.finish()


def test_nodes_and_constants_that_nothing_reads_are_dropped():
    model = Editable(graph_to_onnx(chain([Conv(4)], [(3, 8, 8)])))
    model.op("Neg", ["input0"], "unused")
    model.constant("unused.weight", np.zeros(3, np.float32))
    after = model.finish()
    assert "Neg" not in kinds(after)
    assert [tensor.name for tensor in after.graph.initializer if "unused" in tensor.name] == []


def test_padding_the_channels_changes_widths_and_nothing_else():
    network = varied(SMALL)
    wide = padded(16)(network)
    widths = {shape[1] for name, shape in Editable(wide).shapes.items() if name.startswith("segmentation/up")}
    assert min(widths) == 16
    assert sum(map(np.count_nonzero, Editable(wide).constants.values())) == sum(
        map(np.count_nonzero, Editable(as_lowered(network)).constants.values())
    )


def test_another_macro_keeps_the_choices():
    network = varied(SMALL)
    model = with_macro(activation_place="node")(network)
    expected = network_graph(Architecture(replace(SMALL, activation_place="node"), network.choices))
    assert Editable(model).shapes.keys() >= set(expected.outputs)


def some_runs(ratio: float, count: int = 3, stride: int = 1) -> tuple[Run, ...]:
    """Runs of two networks in which the second variant takes `ratio` times as long, each process of another speed."""
    return tuple(
        Run(
            stride,
            1,
            {"net0/a": speed, "net0/b": ratio * speed, "net1/a": 2 * speed, "net1/b": 2 * ratio * speed},
            70.0,
        )
        for speed in np.linspace(900, 1300, count).tolist()
    )


PAIR = Rewrite("Pair", "somewhere", "b", "no", "because", before="a", strides=(1,))


@pytest.mark.parametrize(("ratio", "verdict"), [(0.9, "WINS"), (0.995, "SAME"), (1.0, "SAME"), (1.03, "LOSES")])
def test_the_verdict_follows_from_ratios_within_a_process(ratio: float, verdict: str):
    (found,) = outcomes(Results(MACHINE, runs=some_runs(ratio)), [PAIR])
    assert found.ratio == pytest.approx(ratio)
    assert found.interval == pytest.approx((ratio, ratio))
    assert found.verdict == verdict
    assert found.pairs == 6
    assert found.after_ms == pytest.approx(ratio * found.before_ms)


def test_pairs_that_disagree_are_the_same():
    ratio, (low, high), verdict = judge([1.0] * 6, [0.8, 0.9, 0.95, 1.05, 1.1, 1.2])
    assert low < 1 < high
    assert ratio == pytest.approx(1.0)
    assert verdict == "SAME"


def test_a_rewrite_is_missing_until_it_has_all_its_runs():
    results = Results(MACHINE, runs=some_runs(1.0, count=2))
    other = replace(PAIR, title="Other", after="c")
    assert missing(results, [PAIR, other], 1, 1, 2) == [other]
    assert missing(results, [PAIR, other], 1, 1, 3) == [PAIR, other]
    assert missing(results, [PAIR], 1, 2, 1) == [PAIR]
    assert missing(results, [PAIR], 4, 1, 1) == []


def test_results_are_read_back_as_they_were(tmp_path: Path):
    results = Results(MACHINE, {"1/net0/b/a": 1e-6}, some_runs(0.9))
    save(tmp_path / "r.json", results, [PAIR])
    assert load(tmp_path / "r.json", MACHINE) == results
    assert load(tmp_path / "none.json", MACHINE) == Results(MACHINE)


def test_results_of_another_machine_are_refused(tmp_path: Path):
    save(tmp_path / "r.json", Results(MACHINE), [PAIR])
    with pytest.raises(NotComparableError, match="move it away"):
        load(tmp_path / "r.json", {**MACHINE, "onnxruntime": "2"})


def test_damaged_results_are_refused(tmp_path: Path):
    (tmp_path / "r.json").write_text('{"machine": {}, "differences": {}, "runs": [{"stride": "x"}]}')
    with pytest.raises(InputError, match=r"r\.json"):
        load(tmp_path / "r.json", {})


def identity_model(factor: float) -> onnx.ModelProto:
    nodes = [helper.make_node("Mul", ["image", "factor"], ["mask"])]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, 3, 256, 256)) for n in ("image", "mask")]
    factors = [numpy_helper.from_array(np.array(factor, np.float32), "factor")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], factors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def two_variants(monkeypatch: pytest.MonkeyPatch) -> dict[str, Variant]:
    """The catalogue's variants replaced by three tiny ones: `a`, `b` nearly the same, `c` another function."""

    def constant(factor: float) -> Variant:
        return lambda network: identity_model(factor)

    found = {"a": constant(0.5), "b": constant(0.500001), "c": constant(0.6), "d": lambda network: None}
    monkeypatch.setattr(runs, "VARIANTS", found)
    return found


def test_a_pair_that_differs_is_no_rewrite(two_variants: dict[str, Variant], tmp_path: Path):
    models = make_models([PAIR], 1, tmp_path)
    assert models.paths.keys() == {f"net{n}/{v}" for n in range(4) for v in "ab"}
    assert 0 < models.differences["1/net0/b/a"] < 1e-5
    with pytest.raises(LatencyKitError, match=r"Pair: outputs of net0 at stride 1 differ by 0\.1"):
        make_models([replace(PAIR, after="c")], 1, tmp_path)
    other = make_models([replace(PAIR, after="c", same_function=False)], 1, tmp_path)
    assert other.differences["1/net0/c/a"] == pytest.approx(0.1, rel=0.01)


def test_a_rewrite_that_finds_nothing_in_a_network_has_no_model(two_variants: dict[str, Variant], tmp_path: Path):
    models = make_models([replace(PAIR, after="d")], 1, tmp_path)
    assert models.paths.keys() == {f"net{n}/a" for n in range(4)}
    assert models.differences == {}


def test_a_stopped_measurement_goes_on_and_measures_nothing_twice(
    two_variants: dict[str, Variant], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[tuple[int, int, str]] = []
    stop_at = 3

    def fake(models: Models, variants: set[str], stride: int, threads: int, earlier: object, advance: object) -> Run:
        if len(asked) == stop_at:
            raise KeyboardInterrupt
        asked.append((stride, threads, "".join(sorted(variants))))
        return Run(stride, threads, {key: 1000.0 for key in models.paths if key[-1] in variants}, 70.0)

    monkeypatch.setattr(rewrites, "measure_run", fake)
    pair, path = replace(PAIR, strides=(1, 4)), tmp_path / "rewrites.json"
    with pytest.raises(KeyboardInterrupt):
        rewrites.measure(path, Results(MACHINE), [pair], [1, 2], 2)
    results = load(path, MACHINE)
    assert [(run.stride, run.threads) for run in results.runs] == [(1, 1), (1, 2), (4, 1)]
    stop_at = 100
    results = rewrites.measure(path, results, [pair], [1, 2], 2)
    assert [place for *place, _ in asked] == [[1, 1], [1, 2], [4, 1], [4, 2]] * 2
    later = replace(pair, title="Later", after="c", same_function=False)
    rewrites.measure(path, results, [pair, later], [1], 1)
    assert asked[8:] == [(1, 1, "ac"), (4, 1, "ac")]


def test_a_run_leaves_out_what_was_timed_while_the_machine_was_slow(monkeypatch: pytest.MonkeyPatch):
    def slow_for_b(items: list[Item], setting: Setting, protocol: Protocol, seed: int, reference_us: float | None):
        assert (setting, seed, reference_us) == (Setting(2), 3, 60.0)
        for item in items:
            sentinel_us = (65.0, 90.0) if item.id == "net0/b" else (65.0, 66.0)
            yield Sample(item.id, 0, (1.0, 3.0, 2.0), ("0",), None, 0.1, sentinel_us)

    monkeypatch.setattr(runs, "measure_items", slow_for_b)
    models = Models({name: Path(name) for name in ("net0/a", "net0/b", "net0/c", "net1/b")}, {})
    earlier = [
        replace(run, threads=threads, sentinel_us=us)
        for run, threads, us in zip(some_runs(1.0), (2, 2, 1), (60.0, 64.0, 50.0), strict=True)
    ]
    found = runs.measure_run(models, {"a", "b"}, 1, 2, earlier)
    assert found == Run(1, 2, {"net0/a": 2.0, "net1/b": 2.0}, 65.0)


def test_the_report_names_every_rewrite_once_with_its_verdicts(monkeypatch: pytest.MonkeyPatch):
    title = REWRITES[0].title
    named = replace(PAIR, title=title, strides=(1, 4))
    results = Results(MACHINE, runs=some_runs(0.9) + some_runs(3.0, stride=4))
    found = outcomes(results, [named])
    text = markdown(results, found)
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    assert lines[1].startswith(f"| {title} | {REWRITES[0].where} | stride 1, 1 thread | 1.")
    assert "0.900 (0.900 to 0.900) | WINS |" in lines[1]
    assert lines[2].startswith("|  |  | stride 4, 1 thread |")
    assert "LOSES" in lines[2]
    assert {line.count(" | ") for line in lines} == {8}
    axes = picture(found).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [title]
    assert [round(bar.get_width(), 3) for bar in axes.patches] == [-0.1, 1.0]
