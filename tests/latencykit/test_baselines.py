"""The hand-made pairs: sizes that the paper implies, shapes, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest

from latencykit.baselines import Baseline, baseline_graph
from latencykit.errors import InputError
from latencykit.graph import Graph
from latencykit.lowering import graph_to_onnx
from latencykit.spec import ConvTranspose, Linear
from tests.latencykit.running import random_inputs, run

SMALL = Baseline(width=2, depth=2, quality_width=2, image_size=32)


def macs(graph: Graph, prefixes: tuple[str, ...]) -> int:
    nodes = [node for node in graph.nodes if node.name.startswith(prefixes)]
    return sum(node.operation.macs(graph.input_shapes(node)) for node in nodes)


@pytest.mark.parametrize(("width", "millions"), [(8, 766), (16, 3034)])
def test_the_unet_has_the_papers_true_macs(width: int, millions: float) -> None:
    graph = baseline_graph(Baseline(width=width))
    assert macs(graph, ("unet/", "logits")) / 1e6 == pytest.approx(millions, rel=0.01)


def test_the_resnet_has_the_papers_macs() -> None:
    """153.46 M in the paper's counting, which adds 4 for each element that is normalised."""
    assert macs(baseline_graph(Baseline()), ("resnet/", "quality/linear")) / 1e6 == pytest.approx(153.46, rel=0.03)


def test_the_resnet_has_18_layers_with_weights_and_three_shortcuts() -> None:
    graph = baseline_graph(Baseline())
    nodes = [n for n in graph.nodes if n.name.startswith(("resnet", "quality"))]
    weighted = [n for n in nodes if n.operation.macs(graph.input_shapes(n)) or isinstance(n.operation, Linear)]
    shortcuts = [n for n in nodes if n.name.endswith("shortcut")]
    assert len(weighted) - len(shortcuts) == 18
    assert len(shortcuts) == 3


def test_the_unet_upsamples_with_biased_2x2_transposed_convolutions() -> None:
    ups = [n.operation for n in baseline_graph(Baseline()).nodes if isinstance(n.operation, ConvTranspose)]
    expected = ConvTranspose(16, 2, 2, norm=False, bias=True, activation="none")
    assert ups == [replace(expected, out_channels=16 * 2**level) for level in (3, 2, 1, 0)]


def test_a_shortcut_reads_the_blocks_input() -> None:
    graph = baseline_graph(SMALL)
    block = graph["resnet/stage1/block0/shortcut"]
    assert block.inputs == graph["resnet/stage1/block0/conv0"].inputs == ("resnet/stage0/block1/sum",)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"stride": 2},
        {"stride": 4, "head": "transposed_conv"},
        {"stride": 2, "head": "depth_to_space"},
        {"depth": 1},
    ],
)
def test_a_pair_lowers_and_gives_the_contracts_shapes(change: dict[str, Any]) -> None:
    graph = baseline_graph(replace(SMALL, **change))
    outputs = run(graph_to_onnx(graph), random_inputs(graph))
    shapes = {name: value.shape for name, value in outputs.items()}
    assert shapes == {"mask": (1, 1, 32, 32), "uncertainty": (1, 1, 32, 32), "dice": (1, 1)}
    assert all(value.min() >= 0 and value.max() <= 1 for value in outputs.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, r"baseline\.width is 0; expected at least 1"),
        ({"depth": -1}, r"baseline\.depth is -1"),
        ({"stride": 3}, r"baseline\.stride is 3; expected a power of two"),
        ({"image_size": 40}, "depth 4 at stride 1 divides the image by 16, which does not divide image_size 40"),
        ({"image_size": 32, "stride": 4}, "divides the image by 64"),
    ],
)
def test_a_pair_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Baseline(**change)
