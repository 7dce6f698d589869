import numpy as np
import pytest
import torch

from latencykit.errors import InputError
from nas.frames import Frames, as_rgb


def test_frames_stay_uint8_until_a_batch_is_asked_for(data):
    frames = Frames(data, 256)
    assert frames.images.dtype == frames.masks.dtype == torch.uint8
    images, masks = frames.batch(np.array([3, 1]))
    assert np.array_equal(as_rgb(images).numpy(), data.rgb([3, 1]))
    assert np.array_equal(masks[:, 0].numpy(), data.masks[[3, 1]])


def test_a_smaller_image_is_the_average_and_its_mask_the_majority(data):
    frames = Frames(data, 32)
    blocks = data.images[0, 0, :8, :8].mean(), data.masks[0].mean()
    assert frames.images[0, 0, 0, 0] == pytest.approx(blocks[0], abs=0.51)
    assert frames.masks[0].float().mean().item() == pytest.approx(blocks[1], abs=0.02)
    assert set(frames.masks.unique().tolist()) == {0, 1}


def test_all_frames_come_once_and_in_order(data):
    frames = Frames(data, 32)
    images = torch.cat([batch for batch, _ in frames.in_order(7)])
    assert torch.equal(images, as_rgb(frames.images.float() / 255))


def test_an_image_size_that_does_not_divide_the_datas_is_refused(data):
    with pytest.raises(InputError, match="image_size is 48"):
        Frames(data, 48)
