"""The picture of a comparison shows every row, by verdict."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from latencykit.compare import compare
from latencykit.comparison_figure import comparison_figure
from latencykit.figures import save_figure
from tests.latencykit.made_up import ONE, TWO
from tests.latencykit.test_compare import KEYS, noisy_table


def points(axes: object) -> dict[str, int]:
    """How many points the legend's entries have."""
    found = [c for c in axes.collections if isinstance(c, PathCollection)]  # type: ignore[attr-defined]
    return {
        str(c.get_label()).split()[0]: len(c.get_offsets()) for c in found if not str(c.get_label()).startswith("_")
    }


def test_every_row_is_a_point_in_its_setting_s_panel(tmp_path: Path):
    a = noisy_table(1, settings=(ONE, TWO))
    b = noisy_table(2, {KEYS[0]: 1.1, KEYS[1]: 0.93}, settings=(ONE, TWO))
    figure = comparison_figure(compare(a, b), "before to after")
    assert len(figure.axes) == 2
    for axes, threads in zip(figure.axes, ("1 thread", "2 threads"), strict=True):
        assert points(axes) == {"SAME": 38, "FASTER": 1, "SLOWER": 1, "UNCLEAR": 0}
        assert axes.get_title(loc="left").startswith(f"{threads}, pinned: 40 rows")
        assert axes.get_xscale() == "log"
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    save_figure(figure, tmp_path / "c.svg")


def test_a_row_beyond_the_axis_sits_on_its_edge():
    figure = comparison_figure(compare(noisy_table(1), noisy_table(2, {KEYS[0]: 3.0, KEYS[1]: 0.2})), "")
    (axes,) = figure.axes
    limit = axes.get_ylim()[1]
    assert limit == pytest.approx(12)
    heights = np.concatenate([c.get_offsets()[:, 1] for c in axes.collections if isinstance(c, PathCollection)])
    assert len(heights) == len(KEYS)
    assert sorted(set(heights[np.abs(heights) >= limit])) == [-limit, limit]
