from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from latencykit.errors import InputError
from nas.data import raster
from nas.data.raster import (
    crop_to_square,
    grid_spacing_mm,
    pad_to_square,
    read_image,
    read_labels,
    resize_image,
    resize_mask,
    stack_images,
)


def test_padding_centres_and_cropping_takes_the_centre():
    array = np.arange(1, 9, dtype=np.uint8).reshape(2, 4)
    assert pad_to_square(array).tolist() == [[0] * 4, [1, 2, 3, 4], [5, 6, 7, 8], [0] * 4]
    assert crop_to_square(array).tolist() == [[2, 3], [6, 7]]


def test_resizing_puts_the_channel_first_and_a_mask_gains_no_values():
    assert resize_image(np.zeros((100, 100), dtype=np.uint8)).shape == (1, 256, 256)
    assert resize_image(np.zeros((100, 100, 3), dtype=np.uint8)).shape == (3, 256, 256)
    mask = np.eye(77, dtype=np.uint8) * 200
    assert set(np.unique(resize_mask(mask))) == {0, 200}


def test_a_pixel_grows_as_the_grid_shrinks():
    assert grid_spacing_mm(512, 0.3, 0.2) == (0.6, 0.4)


def test_a_grey_picture_saved_as_colour_is_grey(tmp_path, save):
    grey = np.arange(100, dtype=np.uint8).reshape(10, 10)
    assert (read_image(save(tmp_path / "a.png", np.repeat(grey[..., None], 3, axis=2))) == grey).all()


def test_a_colour_picture_stays_colour_and_makes_the_stack_colour(tmp_path, save):
    colour = np.zeros((256, 256, 3), dtype=np.uint8)
    colour[..., 1] = 9
    one = resize_image(read_image(save(tmp_path / "a.png", colour)))
    stacked = stack_images([np.full((1, 256, 256), 5, dtype=np.uint8), one])
    assert stacked.shape == (2, 3, 256, 256)
    assert stacked[:, :, 0, 0].tolist() == [[5, 5, 5], [0, 9, 0]]


def test_a_palette_masks_values_are_its_indices(tmp_path):
    image = Image.fromarray(np.eye(8, dtype=np.uint8))
    image.putpalette([255, 255, 255, 1, 2, 3])
    image.save(tmp_path / "a.png")
    assert (read_labels(tmp_path / "a.png") == np.eye(8)).all()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.png: no such image"):
        read_image(tmp_path / "gone.png")


@pytest.mark.parametrize("kept", [0, 10, 40, 200])
def test_a_file_that_is_cut_off_is_named(tmp_path, save, kept):
    whole = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:kept])
    with pytest.raises(InputError, match=r"a\.png: not a readable image"):
        read_image(tmp_path / "a.png")


def test_bytes_turned_over_raise_nothing_but_our_own_errors(tmp_path, save):
    whole = save(tmp_path / "a.png", np.zeros((16, 16), dtype=np.uint8)).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(200):
        broken = bytearray(whole)
        broken[rng.integers(len(broken))] ^= int(rng.integers(1, 256))
        (tmp_path / "a.png").write_bytes(broken)
        try:
            assert read_image(tmp_path / "a.png").dtype == np.uint8
        except InputError as error:
            assert "a.png" in str(error)  # noqa: PT017


def test_sixteen_bits_are_refused(tmp_path, save):
    with pytest.raises(InputError, match="8 bits a channel"):
        read_image(save(tmp_path / "a.png", np.zeros((8, 8), dtype=np.uint16)))


def test_a_huge_image_is_refused_unread(tmp_path, save, monkeypatch):
    monkeypatch.setattr(raster, "MAX_PIXELS", 63)
    with pytest.raises(InputError, match="8 x 8 pixels, over 63"):
        read_image(save(tmp_path / "a.png", np.zeros((8, 8), dtype=np.uint8)))
