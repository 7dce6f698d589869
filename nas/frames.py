"""A data set staged for torch: uint8 in memory, float only batch by batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from latencykit.errors import InputError
from nas.data.dataset import Dataset


class Frames:
    """N frames with masks at the network's image size.

    Attributes:
        images: uint8 (N, C, S, S), C is 1 or 3.
        masks: uint8 (N, 1, S, S), 0 or 1.
    """

    def __init__(self, dataset: Dataset, image_size: int) -> None:
        """Stage a data set, area-averaged where `image_size` is a fraction of its size (smoke tests)."""
        size = dataset.images.shape[-1]
        if size % image_size:
            raise InputError(f"image_size is {image_size}; expected a divisor of the data's {size} pixels.")
        images, masks = torch.from_numpy(dataset.images), torch.from_numpy(dataset.masks)[:, None]
        if (factor := size // image_size) > 1:
            images = functional.avg_pool2d(images.float(), factor).round().to(torch.uint8)
            masks = (functional.avg_pool2d(masks.float(), factor) >= 0.5).to(torch.uint8)
        self.images, self.masks = images, masks

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Images (n, C, S, S) in [0, 1] and masks (n, 1, S, S) in {0, 1}, both float32."""
        chosen = torch.from_numpy(indices)
        return self.images[chosen].float() / 255, self.masks[chosen].float()

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All frames once, in order, as RGB."""
        for start in range(0, len(self), batch_size):
            images, masks = self.batch(np.arange(start, min(start + batch_size, len(self))))
            yield as_rgb(images), masks


def as_rgb(images: Tensor) -> Tensor:
    """Three channels of (n, 1 or 3, S, S); grey is repeated without a copy."""
    return images.expand(-1, 3, -1, -1)
