import pytest
import torch
from torch.nn import functional

from latencykit.errors import InputError
from nas.augment import Augmentation, augment, moved
from nas.randomness import Stream, torch_generator

STILL = Augmentation(translate=0, rotate_degrees=0, scale=0)


def generator(*position):
    return torch_generator(0, Stream.AUGMENTATION, *position)


@pytest.fixture
def square():
    """A bright square right of and above the centre, on black; the mask is the same."""
    images = torch.zeros(8, 1, 64, 64)
    images[..., 12:32, 36:52] = 1
    return images, images.clone()


def test_nothing_asked_changes_nothing(square):
    images, masks = augment(*square, STILL, generator(0, 0))
    assert torch.allclose(images, square[0], atol=1e-5)
    assert torch.equal(masks, square[1])


def test_the_result_is_a_function_of_seed_epoch_and_step(square):
    first, again, other = (augment(*square, Augmentation(), generator(3, step))[0] for step in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_image_and_mask_move_alike_and_masks_stay_binary(square):
    images, masks = augment(*square, Augmentation(), generator(0, 0))
    assert set(masks.unique().tolist()) == {0, 1}
    assert ((images > 0.5).float() - masks).abs().mean() < 0.01
    assert not torch.equal(masks, square[1])


def test_each_image_is_moved_differently_but_never_far_or_flipped(square):
    _, masks = augment(*square, Augmentation(), generator(0, 0))
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    area = masks.sum((1, 2, 3))
    right, down = (masks * columns).sum((1, 2, 3)) / area, (masks * rows).sum((1, 2, 3)) / area
    assert right.std() > 0.5
    assert (area / 320 > 0.75).all()
    assert (area / 320 < 1.3).all()
    assert ((right - 43.5).abs() < 11).all()
    assert ((down - 21.5).abs() < 11).all()


def test_a_translation_is_a_share_of_the_side(square):
    _, masks = augment(*square, Augmentation(translate=0.1, rotate_degrees=0, scale=0), generator(0, 0))
    columns = (masks.amax((1, 2)) > 0).float().argmax(1)
    assert (columns - 36).abs().max() <= 7
    assert (columns - 36).abs().max() >= 2


def test_what_is_moved_is_read_where_torchs_grid_says(square):
    affine = torch.randn(8, 2, 3, generator=generator(0, 0))
    grid = functional.affine_grid(affine, [8, 1, 64, 64], align_corners=False)
    images, masks = moved(*square, affine)
    assert torch.allclose(images, functional.grid_sample(square[0], grid, align_corners=False), atol=1e-4)
    nearest = functional.grid_sample(square[1], grid, mode="nearest", align_corners=False)
    assert (masks != nearest).float().mean() < 1e-3


def test_gain_and_gamma_stay_in_range(square):
    images, masks = augment(0.5 * square[0], square[1], Augmentation(0, 0, 0, gain=1, gamma=1), generator(0, 0))
    inside = images.amax((1, 2, 3))
    assert inside.std() > 0.05
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.equal(masks, square[1])


@pytest.mark.parametrize("wrong", [{"translate": -0.1}, {"scale": 1.0}])
def test_amounts_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Augmentation(**wrong)
