"""The photometric and geometric operations that RandAugment, TrivialAugment and AutoAugment choose from."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from transfer.images.prepare import has_colour, to_grey

_GREY = (128.0, 128.0, 128.0)


def _enhance(name: str, strength: float) -> A.BasicTransform:
    factors = dict.fromkeys(("brightness", "contrast", "saturation"), (1.0, 1.0))
    factors[name] = (1 + 0.9 * strength, 1 + 0.9 * strength)
    return A.ColorJitter(**factors, hue=(0, 0), p=1)


def _affine(**geometry: Any) -> A.BasicTransform:
    return A.Affine(**geometry, fill=_GREY, p=1)


class Sharpness(A.ImageOnlyTransform):
    """Pillow's ImageEnhance.Sharpness: moves the image away from its smoothed version, or towards it, but its border.

    Args:
        factor: 0 returns the smoothed image, 1 the image itself.
    """

    def __init__(self, factor: float) -> None:
        super().__init__(p=1)
        self.factor = factor

    def apply(self, img: NDArray[np.uint8], **params: Any) -> NDArray[np.uint8]:
        """Return the sharpened image. Shape: (H, W, 3) -> (H, W, 3)"""
        smooth: Any = cv2.filter2D(img, -1, _SMOOTH)
        result: Any = cv2.addWeighted(img, self.factor, smooth, 1 - self.factor, 0)
        result[[0, -1]], result[:, [0, -1]] = img[[0, -1]], img[:, [0, -1]]
        return result


# Pillow's ImageFilter.SMOOTH.
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
_SHEAR_DEGREES = math.degrees(math.atan(0.3))
_TRANSLATE = 150 / 331

# The search space and ranges of RandAugment (Cubuk et al. 2020, arXiv:1909.13719, as in AutoAugment's
# appendix), the uncovered border filled with the grey 128 of its TensorFlow code. AutoAugment alone has `invert`.
# name: (does the strength have a sign, strength in -1..1 or 0..1 -> the transform that does exactly that)
AUGMENT_OPS: dict[str, tuple[bool, Callable[[float], A.BasicTransform]]] = {
    "identity": (False, lambda s: A.NoOp(p=1)),
    "shear_x": (True, lambda s: _affine(shear={"x": (s * _SHEAR_DEGREES, s * _SHEAR_DEGREES), "y": (0, 0)})),
    "shear_y": (True, lambda s: _affine(shear={"x": (0, 0), "y": (s * _SHEAR_DEGREES, s * _SHEAR_DEGREES)})),
    "translate_x": (
        True,
        lambda s: _affine(translate_percent={"x": (s * _TRANSLATE, s * _TRANSLATE), "y": (0, 0)}),
    ),
    "translate_y": (
        True,
        lambda s: _affine(translate_percent={"x": (0, 0), "y": (s * _TRANSLATE, s * _TRANSLATE)}),
    ),
    "rotate": (True, lambda s: _affine(rotate=(30 * s, 30 * s))),
    "brightness": (True, lambda s: _enhance("brightness", s)),
    "contrast": (True, lambda s: _enhance("contrast", s)),
    "color": (True, lambda s: _enhance("saturation", s)),
    "sharpness": (True, lambda s: Sharpness(1 + 0.9 * s)),
    "posterize": (False, lambda s: A.Posterize(num_bits=(8 - round(4 * s), 8 - round(4 * s)), p=1)),
    "solarize": (False, lambda s: A.Solarize(threshold_range=(1 - s, 1 - s), p=1)),
    "autocontrast": (False, lambda s: A.AutoContrast(method="pil", p=1)),
    "equalize": (False, lambda s: A.Equalize(mode="pil", p=1)),
    "invert": (False, lambda s: A.InvertImg(p=1)),
}
_RANDOM_OPS = tuple(name for name in AUGMENT_OPS if name != "invert")


@cache
def build_op(name: str, strength: float) -> A.BasicTransform:
    """Return the transform of one row of `AUGMENT_OPS` at one strength; it draws nothing at random."""
    return AUGMENT_OPS[name][1](strength)


class RandomOps(A.ImageOnlyTransform):
    """Applies operations of `AUGMENT_OPS`, without `invert`: operation, strength and sign are drawn uniformly.

    RandAugment draws 2 operations at one strength; TrivialAugment (Müller and Hutter 2021, arXiv:2103.10158) draws 1 at
    one of 31 strengths.

    Args:
        num_ops: number of operations per image, drawn with replacement.
        strengths: the strengths to choose from, each in 0..1 of the table's range.
    """

    def __init__(self, num_ops: int, strengths: tuple[float, ...]) -> None:
        super().__init__(p=1)
        self.num_ops = num_ops
        self.strengths = strengths

    def get_params(self) -> dict[str, Any]:
        """Return the operations for one image, as (name, signed strength)."""
        return {"ops": [self._draw() for _ in range(self.num_ops)]}

    def _draw(self) -> tuple[str, float]:
        name = self.py_random.choice(_RANDOM_OPS)
        strength = self.py_random.choice(self.strengths)
        signed = AUGMENT_OPS[name][0]
        return name, -strength if signed and self.py_random.random() < 0.5 else strength

    def apply(self, img: NDArray[np.uint8], ops: list[tuple[str, float]], **params: Any) -> NDArray[np.uint8]:
        """Return the image after the operations, in their order."""
        for name, strength in ops:
            img = build_op(name, strength)(image=img)["image"]
        return img


class Grey(A.ImageOnlyTransform):
    """Grey, in one channel; see `to_grey`."""

    def __init__(self) -> None:
        super().__init__(p=1)

    def apply(self, img: NDArray[np.uint8], **params: Any) -> NDArray[np.uint8]:
        """Return the grey image. Shape: (H, W, 3) -> (H, W, 1)"""
        return to_grey(img)


def to_channels(number: int) -> list[A.BasicTransform]:
    """Return the steps from a colour image to one of 3 channels (none) or of 1 (grey).

    Raises:
        BadValue: the number is neither 1 nor 3.
    """
    return [] if has_colour(number) else [Grey()]
