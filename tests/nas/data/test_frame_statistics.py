from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from nas.data.frame_statistics import enclosed, frame_statistics


def test_what_the_horseshoe_encloses_is_the_cavity(make):
    wall = make().masks[0].astype(bool)
    cavity = enclosed(wall)
    assert cavity[80:200, 100:150].all()
    assert cavity.sum() == 120 * 50


def test_regions_have_their_mean_grey(make):
    data = make(patients=2, frames=1)
    images = np.full_like(data.images, 40)
    images[:, 0][data.masks == 1] = 90
    images[:, 0, 80:200, 100:150] = 200
    figures = frame_statistics(make(patients=2, frames=1, images=images))
    assert figures.wall_grey == pytest.approx(90)
    assert figures.cavity_grey == pytest.approx(200)
    assert figures.other_grey == pytest.approx(40)
    assert figures.mask_share == pytest.approx(data.masks[0].mean())
    assert figures.histogram.sum() == pytest.approx(1)
    assert figures.histogram[90] == pytest.approx(data.masks[0].mean())


def test_coarser_noise_has_wider_speckle_along_its_axis(make):
    noise = np.random.default_rng(0).standard_normal((1, 1, 256, 256))
    widths = []
    for sigma in (0.8, 1.6):
        blurred = ndimage.gaussian_filter1d(noise, sigma, axis=2)
        images = np.clip(128 + 30 * blurred / blurred.std(), 1, 255).astype(np.uint8)
        figures = frame_statistics(make(patients=2, frames=1, images=np.repeat(images, 2, axis=0)))
        widths.append(float(figures.speckle_down_px[0]))
        assert figures.speckle_across_px[0] < figures.speckle_down_px[0]
    assert widths[0] < widths[1]


def test_a_frame_without_mask_has_no_wall_to_measure(make):
    data = make(patients=2, frames=1, masks=np.zeros((2, 256, 256), dtype=np.uint8))
    figures = frame_statistics(data)
    assert np.isnan(figures.wall_grey).all()
    assert np.isnan(figures.speckle_down_px).all()
