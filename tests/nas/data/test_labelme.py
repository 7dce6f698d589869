from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latencykit.errors import InputError
from nas.data.labelme import Labels, rasterise


def box(label: str, low: float, high: float, **replaced) -> dict:
    points = [[low, low], [high, low], [high, high], [low, high]]
    return {"label": label, "points": points, "shape_type": "polygon", **replaced}


@pytest.fixture
def draw(tmp_path):
    def drawer(*shapes: dict, labels: Labels | None = None, **file) -> np.ndarray:
        path = tmp_path / "frame.json"
        path.write_text(json.dumps({"version": "5.0.1", "flags": {}, "shapes": list(shapes), **file}))
        return rasterise(path, 50, 60, labels or Labels())

    return drawer


def test_a_polygon_fills_its_inside(draw):
    mask = draw(box("myocardium", 10, 30))
    assert mask.shape == (50, 60)
    assert mask.sum() == 21 * 21
    assert mask[10:31, 10:31].all()


def test_a_ring_is_an_outer_and_an_inner_polygon_in_any_order(draw):
    ring = draw(box("epicardium", 5, 40), box("endocardium", 15, 30))
    assert (ring == draw(box("hole", 15, 30), box("myocardium", 5, 40))).all()
    assert (ring[10, 10], ring[20, 20]) == (1, 0)


def test_polygons_of_the_myocardium_are_united(draw):
    assert draw(box("myocardium", 2, 5), box("MYO ", 10, 12)).sum() == 16 + 9


def test_a_ring_drawn_as_one_polygon_with_a_cut_keeps_its_hole(draw):
    outer = [[5, 5], [45, 5], [45, 45], [5, 45], [5, 5]]
    inner = [[20, 20], [20, 30], [30, 30], [30, 20], [20, 20]]
    mask = draw({"label": "myocardium", "points": [*outer, *inner], "shape_type": "polygon"})
    assert (mask[10, 40], mask[25, 25]) == (1, 0)


def test_an_unknown_label_is_refused_with_file_label_and_the_accepted_ones(draw):
    with pytest.raises(InputError, match=r"frame\.json: unknown label 'atrium', accepted are .*'myocardium'"):
        draw(box("myocardium", 1, 9), box("atrium", 1, 9))


def test_accepted_labels_can_be_set(draw):
    assert draw(box("Wand", 1, 9), box("Lumen", 3, 5), labels=Labels(("wand",), ("lumen",))).sum() == 81 - 9


def test_an_annotation_of_another_size_is_refused(draw):
    with pytest.raises(InputError, match=r"drawn on an image of \(64, 60\), its image is \(50, 60\)"):
        draw(box("myocardium", 1, 9), imageHeight=64, imageWidth=60)


@pytest.mark.parametrize("shapes", [[], [box("hole", 1, 9)], [box("myocardium", 1, 9), box("hole", 0, 20)]])
def test_an_annotation_that_leaves_no_myocardium_is_refused(draw, shapes):
    with pytest.raises(InputError, match="no pixel is myocardium"):
        draw(*shapes)


@pytest.mark.parametrize(
    "replaced",
    [{"shape_type": "circle"}, {"points": [[1, 1], [2, 2]]}, {"points": [[1, 1], [2, 2], [1e9, 3]]}],
)
def test_shapes_other_than_sound_polygons_are_refused(draw, replaced):
    with pytest.raises(InputError, match=r"frame\.json: 'myocardium'"):
        draw(box("myocardium", 1, 9, **replaced))


def test_a_missing_annotation_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"gone\.json: no annotation"):
        rasterise(tmp_path / "gone.json", 9, 9, Labels())


@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_whatever_the_file_holds_only_our_own_error_comes_out(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"fuzzed\.json"):
        rasterise(path, 9, 9, Labels())
