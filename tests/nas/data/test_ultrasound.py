from __future__ import annotations

import numpy as np
import pytest

from nas.data.ultrasound import (
    BEAMS,
    SAMPLES,
    Probe,
    beam_positions,
    compress,
    echo,
    pixel_positions,
    scan_convert,
    smooth_field,
)

PROBE = Probe(
    depth_mm=150, half_angle_rad=0.7, tip_row=8, tip_col=128, pixel_mm=0.65, pulse_mm=0.7, beam_rad=0.015, focus_mm=80
)


def envelope(level_db: float, noise_db: float, seed: int = 0) -> np.ndarray:
    level = np.full((SAMPLES, BEAMS), level_db, dtype=np.float32)
    return echo(level, np.float32(noise_db), PROBE, np.random.default_rng(seed))


def test_a_level_of_0_decibels_echoes_with_a_power_that_tissue_and_noise_agree_on():
    tissue, noise = np.square(envelope(0, -200)).mean(), np.square(envelope(-200, 0)).mean()
    assert tissue == pytest.approx(1, rel=0.1)
    assert noise == pytest.approx(1, rel=0.1)


def test_20_decibels_are_ten_times_the_amplitude():
    assert envelope(20, -200).mean() / envelope(0, -200).mean() == pytest.approx(10, rel=1e-3)


def correlation(rows: np.ndarray) -> float:
    texture = rows - rows.mean()
    return float((texture[:, 1:] * texture[:, :-1]).mean() / np.square(texture).mean())


def test_speckle_is_narrowest_in_angle_at_the_focus():
    field = envelope(0, -200)
    near, focus, far = (correlation(field[start : start + 40]) for start in (5, 150, 280))
    assert near > far > focus


def test_noise_knows_no_beam():
    assert abs(correlation(envelope(-200, 0))) < 0.05


def test_compression_maps_its_range_to_black_and_white():
    grey = compress(np.array([[10.0, 1.0, 0.1, 0.001]], dtype=np.float32), top_db=0, range_db=40)
    assert grey[0] == pytest.approx([1, 1, 0.5, 0], abs=1e-3)


def test_scan_conversion_puts_a_sample_where_its_position_says():
    grey = np.zeros((SAMPLES, BEAMS), dtype=np.float32)
    grey[200:204, 100:104] = 1
    picture, sector = scan_convert(grey, PROBE)
    row, col = (places.mean() for places in np.nonzero(picture > 128))
    x, z = (positions[200:204, 100:104].mean() for positions in beam_positions(PROBE))
    assert (col, row) == pytest.approx((PROBE.tip_col + x / PROBE.pixel_mm, PROBE.tip_row + z / PROBE.pixel_mm), abs=1)
    assert not picture[~sector].any()


def test_pixels_start_at_the_tip():
    x, z = pixel_positions(PROBE)
    assert (x[8, 128], z[8, 128]) == (0, 0)


def test_a_smooth_field_has_unit_deviation_and_little_change_between_neighbours():
    rng = np.random.default_rng(0)
    fields = np.stack([smooth_field(rng, (9, 7)) for _ in range(20)])
    assert fields.std() == pytest.approx(1, rel=0.15)
    assert np.abs(np.diff(fields, axis=1)).max() < 0.3
