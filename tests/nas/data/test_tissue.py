from __future__ import annotations

import numpy as np

from nas.data.anatomy import draw_heart, outline
from nas.data.tissue import draw_tissue, echogenicity
from nas.data.ultrasound import BEAMS, SAMPLES, Probe, beam_positions

PROBE = Probe(
    depth_mm=150, half_angle_rad=0.7, tip_row=8, tip_col=128, pixel_mm=0.65, pulse_mm=0.7, beam_rad=0.015, focus_mm=80
)


def test_contrast_fills_the_cavity_and_spares_the_wall():
    heart = draw_heart(np.random.default_rng(0))
    tissue = draw_tissue(np.random.default_rng(1))
    level, contrast = echogenicity(tissue, heart, PROBE, np.random.default_rng(2))
    curve = outline(heart)
    up, across = curve.local(*beam_positions(PROBE))
    _, inner, outer = curve.borders(up, across)
    above = up > -curve.below_mm + 6
    cavity, wall = (inner < -4) & above, (inner > 3) & (outer < -2) & above
    assert level.shape == contrast.shape == (SAMPLES, BEAMS)
    assert contrast[cavity].mean() > 0.9
    assert contrast[wall].mean() < 0.1
    assert level[cavity].mean() > level[wall].mean() + 5


def test_dropout_takes_echo_from_one_of_the_walls():
    heart = draw_heart(np.random.default_rng(0))
    tissue = draw_tissue(np.random.default_rng(1))
    curve = outline(heart)
    angle, inner, outer = curve.borders(*curve.local(*beam_positions(PROBE)))
    wall = (inner > 2) & (outer < -2)
    loss = []
    for side in (-1.3, 1.3):
        part = wall & (np.abs(angle - side) < 0.3)
        hit, spared = (
            echogenicity(tissue, heart, PROBE, np.random.default_rng(2), dropout=flag)[0][part].mean()
            for flag in (True, False)
        )
        loss.append(spared - hit)
    assert max(loss) > 1
