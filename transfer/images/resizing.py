"""Resizing by Pillow, whose antialiased filters the published accuracies were measured with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from transfer.images.decode import Pixels

Box = tuple[int, int, int, int]  # left, top, right, bottom
# Pixels to either side that the wider filter, bicubic, weighs; times the scale where it shrinks.
_SUPPORT = 2


@dataclass(frozen=True)
class Resize:
    """How evaluation resizes an image before the crop.

    Args:
        size: the short side afterwards, or with `squash` both sides, in pixels.
        resample: Pillow's filter, bicubic or bilinear.
        squash: whether the image becomes a square whatever its shape.
    """

    size: int
    resample: Image.Resampling
    squash: bool

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) after the resizing; the rounding is torchvision's."""
        if self.squash:
            return self.size, self.size
        short = min(height, width)
        return self.size * height // short, self.size * width // short

    def shrunk_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return (height, width) after the resizing, or those before it if a side would grow."""
        shape = self.shape(height, width)
        return shape if shape[0] <= height and shape[1] <= width else (height, width)

    def whole(self, pixels: Pixels) -> Pixels:
        """Return the resized image. Shape: (H, W, 3) -> (*self.shape(H, W), 3)"""
        height, width = self.shape(*pixels.shape[:2])
        return np.asarray(Image.fromarray(pixels).resize((width, height), self.resample))

    def cut(self, pixels: Pixels, box: Box) -> Pixels:
        """Return a box of the resized image: the pixels of `whole`, to the bit, for less work.

        Pillow resizes the width, rounds, then resizes the height. So only the rows that the box is made of are read,
        and the second step leaves out the columns beside it. Tall images, which Pillow 13 resizes the other way round,
        are resized whole.

        Shape:
            (H, W, 3) -> (bottom - top, right - left, 3)
        """
        left, top, right, bottom = box
        height, width = pixels.shape[:2]
        full_height, full_width = self.shape(height, width)
        if height - full_height > max(2 * (width - full_width), 0):
            return np.ascontiguousarray(self.whole(pixels)[top:bottom, left:right])
        scale = height / full_height
        reach = _SUPPORT * max(scale, 1) + 1
        first, last = max(math.floor(top * scale - reach), 0), min(math.ceil(bottom * scale + reach), height)
        image = Image.fromarray(pixels[first:last])
        if _is_exact(width, full_width):
            columns = left * width / full_width, 0, right * width / full_width, last - first
            image = image.resize((right - left, last - first), self.resample, columns)
        else:
            image = image.resize((full_width, last - first), self.resample).crop((left, 0, right, last - first))
        if _is_exact(height, full_height):
            rows = 0, top * scale - first, right - left, bottom * scale - first
            return np.asarray(image.resize((right - left, bottom - top), self.resample, rows))
        image = image.crop((0, -first, right - left, height - first))  # the rows around are black, and have no weight
        return np.asarray(image.resize((right - left, full_height), self.resample).crop((0, top, right - left, bottom)))


def _is_exact(side: int, resized: int) -> bool:
    """Return whether Pillow's box, of 32-bit floats, can name all that lies between two pixels of the resized side."""
    return resized & (resized - 1) == 0 and side * resized < 2**24
