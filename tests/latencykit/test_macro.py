"""Macro configurations: what is refused, and the file that holds one."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from latencykit.errors import InputError
from latencykit.macro import Macro, read_macro
from latencykit.schema import decode


def test_the_default_is_the_papers() -> None:
    macro = Macro()
    assert macro.image_size == 256
    assert macro.segmentation_widths == (4, 8, 16, 32, 64, 128)
    assert macro.quality_widths == (8, 8, 16, 32, 64)
    assert (macro.cell_nodes, macro.logit_stride) == (3, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 0}, r"macro\.image_size is 0; expected at least 1"),
        ({"cell_nodes": 0}, r"macro\.cell_nodes is 0"),
        ({"segmentation_stride": 3}, r"macro\.segmentation_stride is 3; expected a power of two"),
        ({"quality_stride": 6}, r"macro\.quality_stride is 6; expected a power of two"),
        ({"output_stride": -1}, r"macro\.output_stride is -1"),
        ({"segmentation_widths": (4, 8)}, "has 2 levels; expected 3 or more"),
        ({"quality_widths": (8,)}, "has 1 levels; expected 2 or more"),
        ({"segmentation_widths": (4, 0, 8)}, "every width must be at least 1"),
        ({"output_stride": 32}, "output_stride 32 leaves no Up cell"),
        ({"image_size": 48}, "the segmentation network divides the image by 32, which does not divide image_size 48"),
        ({"image_size": 32, "quality_stride": 2}, "the quality network divides the image by 64"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Macro(**change)


def test_the_smallest_image_is_the_deepest_division() -> None:
    assert Macro(image_size=32).image_size == 32


def test_the_stride_of_a_logit_is_that_of_input_and_output_together() -> None:
    macro = Macro(segmentation_stride=2, output_stride=4)
    assert (macro.output_level, macro.logit_stride) == (2, 8)


def test_a_configuration_survives_json() -> None:
    macro = Macro(image_size=64, head="depth_to_space", uncertainty="least_confidence", segmentation_widths=(2, 4, 8))
    assert decode(Macro, json.loads(json.dumps(asdict(macro))), "here") == macro


def test_the_word_paper_is_the_default() -> None:
    assert read_macro("paper") == Macro()


def test_a_file_holds_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "macro.json"
    path.write_text('{"segmentation_stride": 4, "quality_stride": 4}')
    assert read_macro(str(path)) == Macro(segmentation_stride=4, quality_stride=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"depth": 3}', r"macro\.json: unknown field 'depth'"),
        ('{"image_size": 7}', r"macro\.json: macro: the segmentation network divides"),
        ('{"head": "crop"}', r"macro\.json: Invalid enum value 'crop'"),
        ("[]", r"macro\.json: Expected `object`"),
        ("{", r"macro\.json cannot be read"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_and_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "macro.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_macro(str(path))


def test_a_word_that_is_no_file_is_refused() -> None:
    with pytest.raises(InputError, match="space 'papre' is neither 'paper' nor a JSON file"):
        read_macro("papre")
