"""How encoded images become 8-bit pixels: which values of deeper ones are black and white, and how large they may be.

Files say how many bits hold a value, not how many are used: a camera's 12 bits lie in 16. So the range is taken from
the values of a whole dataset, and belongs to the network that is trained on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transfer.preprocessing import MAX_PIXELS, Preprocessing, Range

_DEFAULT_INTEGERS = (0, 65535)
# Depths of sensors and of files, in bits.
_DEPTHS = (8, 12, 14, 16, 20, 24, 32)
_FLOAT_WHITES = (1, 255, 65535)
_TIFF_BITS = 258


@dataclass(frozen=True)
class Extent:
    """The smallest and the largest value of an image with more than 8 bits per value.

    Args:
        is_float: whether the values are floating-point.
        low: the smallest one.
        high: the largest one.
    """

    is_float: bool
    low: float
    high: float


@dataclass(frozen=True)
class Decoding:
    """How encoded images become 8-bit pixels.

    Args:
        max_pixels: images with more are refused.
        integer_range: the values that become black and white, in images of integers of more than 8 bits; None: 0 and
            65535.
        float_range: likewise, in images of floating-point values; None: not known, such images are refused.
    """

    max_pixels: int = MAX_PIXELS
    integer_range: Range | None = None
    float_range: Range | None = None

    @classmethod
    def of(cls, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS) -> Decoding:
        """Return how the images of a network are decoded."""
        return cls(max_pixels, preprocessing.integer_range, preprocessing.float_range)

    def measured(self, extents: Iterable[Extent]) -> Decoding:
        """Return the decoding with the ranges that are not known yet taken from the images of a dataset."""
        extents = list(extents)
        floats = [extent for extent in extents if extent.is_float]
        integers = [extent for extent in extents if not extent.is_float]
        found = self
        if integers and self.integer_range is None:
            found = replace(found, integer_range=_integer_range(*_joined(integers)))
        if floats and self.float_range is None:
            found = replace(found, float_range=_float_range(*_joined(floats)))
        return found

    def refusal(self, extent: Extent) -> str | None:
        """Return why an image's values cannot be taken; None if they can.

        A little beyond a measured range is clipped; nothing of integers with a known number of bits.
        """
        known = self.float_range if extent.is_float else self.integer_range or _DEFAULT_INTEGERS
        if not (np.isfinite(extent.low) and np.isfinite(extent.high)):
            return "NaN or infinite pixels"
        if known is None:
            return "floating-point pixels have no known range here; save the image with 8 or 16 bits"
        black, white = known
        slack = white - black if extent.is_float or black < 0 else 0
        if black - slack <= extent.low and extent.high <= white + slack:
            return None
        return (
            f"pixel values {extent.low:g}..{extent.high:g}, and {black:g} is black, {white:g} white in"
            f" {'floating-point' if extent.is_float else 'deep'} images here (`bit_depth` sets the range of integers)"
        )

    def eight_bits(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Return deep values as uint8, of the same shape; transparency has all 16 bits.

        Raises:
            ValueError: they do not fit the range; the text says why.
        """
        if values.shape[2:] == (4,):
            alpha = ((values[..., 3:].astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8)
            return np.concatenate([self.eight_bits(values[..., :3]), alpha], axis=2)
        extent = extent_of(values)
        if reason := self.refusal(extent):
            raise ValueError(reason)
        black, white = (self.float_range if extent.is_float else self.integer_range) or _DEFAULT_INTEGERS
        scaled = (values.astype(np.float64) - black) * (255 / (white - black))
        return scaled.round().clip(0, 255).astype(np.uint8)


DEFAULT_DECODING = Decoding()


def _joined(extents: list[Extent]) -> Range:
    return min(extent.low for extent in extents), max(extent.high for extent in extents)


def _integer_range(low: float, high: float) -> Range:
    if low < 0:
        return low, max(high, low + 1)
    return 0, next(float(2**bits - 1) for bits in _DEPTHS if high < 2**bits)


def _float_range(low: float, high: float) -> Range:
    for white in _FLOAT_WHITES:
        if low >= 0 and white / 2 < high <= white:
            return 0, white
    return low, high if high > low else low + 1


def extent_of(values: NDArray[Any]) -> Extent:
    """Return the extent of deep values, without their transparency."""
    values = values[..., :3] if values.ndim == 3 else values
    return Extent(values.dtype.kind == "f", float(values.min()), float(values.max()))


def deep_values(image: Image.Image, encoded: bytes) -> NDArray[Any] | None:
    """Return the values of an image with more than 8 bits; None for any other.

    Args:
        image: as Pillow opened it. Of deep colours Pillow itself keeps the upper 8 bits.
        encoded: its file; empty for an image that is in memory already.

    Shape:
        (H, W), or (H, W, 3) in RGB, or uint16 (H, W, 4) with transparency.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        return np.asarray(image)
    if image.mode not in ("RGB", "RGBA", "LA") or not encoded:
        return None
    is_deep_png = image.format == "PNG" and encoded[24:25] == b"\x10"
    if not is_deep_png and 16 not in getattr(image, "tag_v2", {}).get(_TIFF_BITS, ()):
        return None
    values: Any = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim not in (2, 3):
        return None
    if values.ndim == 3:
        values = cv2.cvtColor(values, cv2.COLOR_BGRA2RGBA if values.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return values


def learn_ranges(preprocessing: Preprocessing, decoding: Decoding) -> Preprocessing:
    """Return the preprocessing with the ranges of deep images taken from the data, where the network knows none."""
    return replace(
        preprocessing,
        integer_range=preprocessing.integer_range or decoding.integer_range,
        float_range=preprocessing.float_range or decoding.float_range,
    )


def describe_ranges(preprocessing: Preprocessing) -> str:
    """Return in words which values of deep images are black and white."""
    ranges = {"integers": preprocessing.integer_range, "floating-point values": preprocessing.float_range}
    said = [f"of {kind}, {known[0]:g} is black and {known[1]:g} white" for kind, known in ranges.items() if known]
    return (
        f"images with more than 8 bits: {' and '.join(said)}, by the values of all images (`bit_depth` says otherwise"
        " for integers); the run keeps that"
    )
