"""Images as evaluation prepares them for a network: resized, the centre cropped, in as many channels as it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transfer.errors import BadValue, DamagedFile, unknown_name
from transfer.images.decode import Pixels
from transfer.images.resizing import Box, Resize
from transfer.preprocessing import INTERPOLATIONS, RESIZES, SMALLEST_IMAGE, Preprocessing

# Left, top, right, bottom, as shares of the image's width and height.
Part = tuple[float, float, float, float]


@dataclass(frozen=True)
class CenterCrop:
    """Resizes an image and cuts out the central square, rounding as torchvision's `Resize` and `CenterCrop`.

    Args:
        resize: how the image is resized.
        image_size: side of the square, in pixels; at most `resize.size`.
    """

    resize: Resize
    image_size: int

    def __call__(self, pixels: Pixels) -> Pixels:
        """Return the crop. Shape: (H, W, 3) -> (image_size, image_size, 3)"""
        return self.resize.cut(pixels, self._box(*self.resize.shape(*pixels.shape[:2])))

    def part(self, height: int, width: int) -> Part:
        """Return which part of an image of this size is kept."""
        height, width = self.resize.shape(height, width)
        left, top, right, bottom = self._box(height, width)
        return left / width, top / height, right / width, bottom / height

    def _box(self, height: int, width: int) -> Box:
        left, top = (round((side - self.image_size) / 2) for side in (width, height))
        return left, top, left + self.image_size, top + self.image_size


def build_crop(preprocessing: Preprocessing) -> CenterCrop:
    """Return what published accuracies were measured with.

    The short side, or with `squash` both sides, becomes floor(image_size / crop_ratio).

    Args:
        preprocessing: image_size of at least 32 pixels, crop_ratio in (0, 1], interpolation and resize.

    Raises:
        BadValue: a value outside these ranges.
    """
    check_sizes(preprocessing)
    if preprocessing.resize not in RESIZES:
        raise unknown_name("resize", preprocessing.resize, RESIZES)
    size = math.floor(preprocessing.image_size / preprocessing.crop_ratio)
    resize = Resize(size, resampling(preprocessing.interpolation), preprocessing.resize == "squash")
    return CenterCrop(resize, preprocessing.image_size)


def prepare_pixels(pixels: Pixels, preprocessing: Preprocessing) -> Pixels:
    """Return the pixels that a network takes of an image.

    Args:
        pixels: RGB, see `decode_image`. Shape: (H, W, 3)
        preprocessing: see `build_crop`; its mean has 3 values, or 1 for grey.

    Returns:
        Pixels, uint8. Shape: (image_size, image_size, C)

    Raises:
        BadValue: a value out of range.
    """
    crop = build_crop(preprocessing)(pixels)
    return crop if has_colour(len(preprocessing.mean)) else to_grey(crop)


def normalized(images: Pixels, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Return pixels as the network computes with them: (value / 255 - mean) / std per channel.

    Shape:
        uint8 (N, H, W, C) -> float32 (N, C, H, W)
    """
    scale, shift = scale_and_shift(preprocessing)
    return np.ascontiguousarray((images * scale + shift).transpose(0, 3, 1, 2))


def scale_and_shift(preprocessing: Preprocessing) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what pixels are multiplied by, and what is then added, to normalise them. Shape: (C,) each"""
    mean, std = (np.array(values) for values in (preprocessing.mean, preprocessing.std))
    return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)


def to_grey(pixels: Pixels) -> Pixels:
    """Return an image in one channel by Pillow's conversion to `L`: the luma of ITU-R 601, which keeps grey values.

    Shape:
        (H, W, 3) -> (H, W, 1)
    """
    return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]


def has_colour(number: int) -> bool:
    """Return whether a network of so many channels takes colour images, and not grey ones.

    Raises:
        BadValue: the number is neither 1 nor 3.
    """
    if number not in (1, 3):
        raise BadValue(f"`preprocessing`: mean and std of {number} channels (allowed: 3, or 1 for grey images)")
    return number == 3


def resampling(interpolation: str) -> Image.Resampling:
    """Return Pillow's filter of this name.

    Raises:
        BadValue: it is none of `INTERPOLATIONS`.
    """
    if interpolation not in INTERPOLATIONS:
        raise unknown_name("interpolation", interpolation, INTERPOLATIONS)
    return Image.Resampling[interpolation.upper()]


def check_sizes(preprocessing: Preprocessing) -> None:
    """Check that images are large enough for the networks, and a crop no larger than the image.

    Raises:
        BadValue: they are not.
    """
    image_size, crop_ratio = preprocessing.image_size, preprocessing.crop_ratio
    if image_size < SMALLEST_IMAGE:
        raise BadValue(f"`image_size`={image_size} is too small: the networks need at least {SMALLEST_IMAGE} pixels")
    if not 0 < crop_ratio <= 1:
        raise BadValue(f"`crop_ratio`={crop_ratio} is out of range: it is the kept part of the short side, in (0, 1]")


def read_preprocessing(entries: Any, path: Path) -> Preprocessing:
    """Return the preprocessing in what a file says of it.

    Args:
        entries: values by the names of `Preprocessing`'s fields.
        path: the file, for the message.

    Raises:
        DamagedFile: one is missing, unknown or out of range.
    """
    try:
        found = Preprocessing.from_entries(entries)
        numbers = (found.crop_ratio, *found.mean, *found.std)
        valid = (
            type(found.image_size) is int
            and all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
            and min(found.image_size, found.crop_ratio, *found.std) > 0
            and (len(found.mean), len(found.std)) in ((1, 1), (3, 3))
            and found.interpolation in INTERPOLATIONS
            and found.resize in RESIZES
            and all(known is None or _is_range(known) for known in (found.integer_range, found.float_range))
        )
    except (AttributeError, TypeError, KeyError, ValueError):
        valid = False
    if not valid:
        raise DamagedFile(
            f"{path}: its preprocessing is {str(entries)[:200]}"
            f" (needed: {', '.join(Preprocessing.__dataclass_fields__)}; sizes and std above 0)"
        )
    return found


def _is_range(values: Sequence[float]) -> bool:
    return len(values) == 2 and all(math.isfinite(value) for value in values) and values[0] < values[1]
