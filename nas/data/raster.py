"""From an image file of any size to the 256 grid: reading, squaring, resizing, and the pixel's size afterwards.

Images are uint8 (H, W) or (H, W, 3) here, masks uint8 (H, W).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from latencykit.errors import InputError
from nas.data.dataset import SIZE

IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
MASK_SUFFIXES: Final = (".png", ".bmp", ".tif", ".tiff")
"""Without JPEG, whose compression invents label values at borders."""

MAX_PIXELS: Final = 64 * 1024 * 1024
"""Above this an image is refused unread: no ultrasound frame is so large, a decompression bomb is."""

_BROKEN: Final = (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError, MemoryError)
"""What Pillow raises on files that are cut off or are no images."""


def _opened(path: Path) -> Image.Image:
    """Return the decoded image.

    Raises:
        InputError: the file is missing, broken, too large or holds more than 8 bits a channel.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such image file: restore it, or remove its entry")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise InputError(f"{path}: {image.width} x {image.height} pixels, over {MAX_PIXELS}: shrink it")
                image.load()
                decoded = image.copy()
    except _BROKEN as error:
        raise InputError(f"{path}: not a readable image ({error}): export it again, as 8-bit PNG") from error
    if decoded.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"):
        raise InputError(f"{path}: pixels of mode {decoded.mode!r}, expected 8 bits a channel: convert it to 8-bit PNG")
    return decoded


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Return an image file as uint8 (H, W) where it is grey, (H, W, 3) where its channels differ.

    Raises:
        InputError: as for a file that is missing, broken, too large or deeper than 8 bits.
    """
    image = _opened(path)
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"))
    colour = np.asarray(image.convert("RGB"))
    grey = (colour[..., :1] == colour).all()
    return np.ascontiguousarray(colour[..., 0]) if grey else colour


def read_labels(path: Path) -> npt.NDArray[np.uint8]:
    """Return a mask file's values as uint8 (H, W): grey levels, palette indices, or the largest channel of a colour.

    Raises:
        InputError: as for a file that is missing, broken, too large or deeper than 8 bits.
    """
    image = _opened(path)
    if image.mode in ("L", "P"):
        return np.asarray(image)
    if image.mode in ("1", "LA", "PA"):
        return np.asarray(image.convert("L"))
    return np.asarray(image.convert("RGB")).max(axis=2)


def pad_to_square(array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return an array (H, W, ...) centred in zeros of side max(H, W)."""
    height, width = array.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side, *array.shape[2:]), dtype=array.dtype)
    square[top : top + height, left : left + width] = array
    return square


def crop_to_square(array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the centre of an array (H, W, ...), of side min(H, W)."""
    height, width = array.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return array[top : top + side, left : left + side]


def resize_image(square: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return an image (S, S) or (S, S, 3) on the 256 grid, bilinear: uint8 (1 or 3, 256, 256)."""
    resized = np.asarray(Image.fromarray(square).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    return resized[None] if resized.ndim == 2 else np.ascontiguousarray(resized.transpose(2, 0, 1))


def resize_mask(square: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return a mask (S, S) on the 256 grid, nearest: uint8 (256, 256)."""
    return np.asarray(Image.fromarray(square).resize((SIZE, SIZE), Image.Resampling.NEAREST))


def grid_spacing_mm(side: int, row_mm: float, col_mm: float) -> tuple[float, float]:
    """Return a pixel's height and width on the 256 grid, for a square of `side` pixels of row_mm x col_mm."""
    return row_mm * side / SIZE, col_mm * side / SIZE


def stack_images(images: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Return images (1 or 3, 256, 256) as one array (N, C, 256, 256): RGB as soon as one of them is."""
    channels = max(image.shape[0] for image in images)
    stacked = np.empty((len(images), channels, SIZE, SIZE), dtype=np.uint8)
    for index, image in enumerate(images):
        stacked[index] = image  # one channel broadcasts over three
    return stacked
