import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest

from latencykit.baselines import Baseline
from latencykit.errors import InputError
from latencykit.macro import Macro
from latencykit.sample import sample_architectures
from latencykit.space import CELL_TYPES, Architecture, cell_edges
from nas.cells import CellArrow, _label_places, _positions, _routes, cell_arrows, cells_figure, draw_cells

ARCHITECTURES = sample_architectures(Macro(), 6, seed=5)


def test_every_kept_edge_is_an_arrow_and_deleted_ones_are_not():
    for architecture in ARCHITECTURES:
        for cell_type in CELL_TYPES:
            kept = [p for p in architecture.choices[cell_type] if p != "zero"]
            assert [a.primitive for a in cell_arrows(architecture, cell_type) if a.primitive] == kept


def test_the_output_sums_the_nodes_and_in_the_quality_network_the_residual():
    fixed = {t: [a.source for a in cell_arrows(ARCHITECTURES[0], t) if a.target == "output"] for t in CELL_TYPES}
    assert fixed["down"] == fixed["up"] == ["node0", "node1", "node2"]
    assert fixed["contracting"] == fixed["non_scaling"] == ["node0", "node1", "node2", "s"]


def test_arrows_run_from_inputs_to_nodes_as_the_space_says():
    choices = {t: tuple(edge.candidates[0] for edge in cell_edges(t, 3)) for t in CELL_TYPES}
    arrows = cell_arrows(Architecture(Macro(), choices), "up")
    assert arrows[:3] == [
        CellArrow("s0", "node0", "conv"),
        CellArrow("s1", "node0", "up_conv"),
        CellArrow("s0", "node1", "conv"),
    ]


@pytest.mark.parametrize("index", range(len(ARCHITECTURES)))
def test_arrows_avoid_nodes_and_labels_avoid_labels(index):
    for cell_type in CELL_TYPES:
        places = _positions(cell_type, 3)
        routes = _routes(cell_arrows(ARCHITECTURES[index], cell_type), places)
        for route in routes:
            others = [place for name, place in places.items() if name not in (route.arrow.source, route.arrow.target)]
            assert all(np.hypot(*(route.curve - place).T).min() > 0.4 for place in others)
        labels = [(middle, width) for _, middle, width in _label_places(routes, places)]
        for n, ((x, y), width) in enumerate(labels):
            assert all(abs(x - a) > (width + w) / 2 - 0.05 or abs(y - b) > 0.3 for (a, b), w in labels[:n])


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_other_numbers_of_nodes_are_drawn(nodes):
    architecture = sample_architectures(Macro(cell_nodes=nodes), 1, seed=0)[0]
    figure = cells_figure(architecture)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Down cell", "Up cell", "Contracting cell", "Non-scaling cell",
    ]  # fmt: skip


def test_the_legend_names_what_is_used_and_labels_are_words():
    up = ["identity", "up_conv", "identity", "identity", "up_conv", "identity", "identity"]
    choices = dict(ARCHITECTURES[0].choices) | {"up": ("separable_conv", "up_dilated_conv", *up)}
    figure = cells_figure(replace(ARCHITECTURES[0], choices=choices), "a title")
    labels = [text.get_text() for text in figure.axes[1].texts]
    assert {"separable", "up dilated", "identity", "s0", "s1", "0", "1", "2", "output"} <= set(labels)
    assert "zero" not in [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_svg_is_well_formed_and_the_same_every_time(tmp_path):
    for name in ("a.svg", "b.svg"):
        draw_cells(ARCHITECTURES[0], tmp_path / name)
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_png_is_written_by_its_ending_and_another_ending_is_refused(tmp_path):
    draw_cells(ARCHITECTURES[0], tmp_path / "cells.png")
    assert (tmp_path / "cells.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match=r"\.png or \.svg"):
        draw_cells(ARCHITECTURES[0], tmp_path / "cells.pdf")


def test_a_hand_made_pair_has_no_cells(tmp_path):
    with pytest.raises(InputError, match="a hand-made pair has no cells"):
        draw_cells(Baseline(), tmp_path / "cells.svg")
    assert not list(tmp_path.iterdir())
