from __future__ import annotations

import numpy as np
import pytest

from nas.data.anatomy import ANGLES, contracted, contraction, draw_heart, jitter, outline


def test_a_heart_contracts_and_relaxes_within_a_beat():
    assert contraction(0) == contraction(1) == 0
    assert contraction(0.38) == pytest.approx(1)
    assert 0 < contraction(0.2) < 1


def test_the_cavity_shrinks_and_the_wall_thickens():
    heart = draw_heart(np.random.default_rng(0))
    systole = contracted(heart, 1.0)
    assert systole.half_width_mm < heart.half_width_mm
    assert systole.length_mm < heart.length_mm
    assert systole.septum_mm > heart.septum_mm


def test_the_wall_is_as_thick_as_the_heart_says():
    heart = draw_heart(np.random.default_rng(1))
    curve = outline(heart)
    lateral = np.argmin(np.abs(ANGLES - np.pi / 2))
    assert curve.outer_mm[lateral] - curve.inner_mm[lateral] == pytest.approx(heart.lateral_mm, rel=0.1)
    assert (curve.outer_mm > curve.inner_mm + 3).all()


def test_the_apex_lies_where_the_heart_says():
    heart = draw_heart(np.random.default_rng(2))
    curve = outline(heart)
    x, z = (np.array([value], dtype=np.float32) for value in (heart.apex_x_mm, heart.apex_z_mm))
    up, across = curve.local(x, z)
    _, inner, outer = curve.borders(up, across)
    assert abs(inner[0]) < 5  # the outline's wobble moves it a little
    assert outer[0] < 0


def test_distances_change_by_a_millimetre_a_millimetre_across_the_wall():
    heart = draw_heart(np.random.default_rng(3))
    curve = outline(heart)
    across = np.arange(0, 60, dtype=np.float32)
    _, inner, _ = curve.borders(np.zeros_like(across), across)
    assert np.diff(inner)[1:].mean() == pytest.approx(1, abs=0.1)


def test_jitter_has_the_deviation_asked_for():
    rng = np.random.default_rng(0)
    assert np.std([jitter(rng, 0.8, 5) for _ in range(300)]) == pytest.approx(0.8, rel=0.1)
