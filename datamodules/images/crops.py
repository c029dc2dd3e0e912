"""Crops, flips and turns of decoded images.

Evaluation's crop is resized by Pillow; training's by OpenCV, which is several times as fast.
"""

from __future__ import annotations

import random
from typing import Any

import albumentations as A
import cv2
import numpy as np
from PIL import Image

from datamodules.images.pictures import DecodedPicture, Picture
from transfer.images.decode import Pixels
from transfer.images.prepare import CenterCrop
from transfer.images.resizing import Box

_OPENCV = {Image.Resampling.BICUBIC: cv2.INTER_CUBIC, Image.Resampling.BILINEAR: cv2.INTER_LINEAR}
# Area comes from the data sheet; the aspect range is that of the paper's TPU code, 3/4 to 4/3.
_CROP_ASPECT = (3 / 4, 4 / 3)


class ResizeCenterCrop(A.ImageOnlyTransform):
    """Evaluation's crop as a step of Albumentations."""

    def __init__(self, crop: CenterCrop) -> None:
        super().__init__(p=1)
        self.crop = crop

    def apply(self, img: Pixels, **params: Any) -> Pixels:
        """Return the crop. Shape: (H, W, 3) -> (image_size, image_size, 3)"""
        return self.crop(img)


class _OwnRandom(A.BasicTransform):
    """Draws from `py_random` alone: creating Albumentations' other generator takes longer than a flip."""

    def set_random_seed(self, seed: int | None) -> None:
        self.py_random = random.Random(seed)


class HorizontalFlip(_OwnRandom, A.HorizontalFlip):
    """Albumentations' flip."""


class VerticalFlip(_OwnRandom, A.VerticalFlip):
    """Albumentations' flip."""


class QuarterTurn(_OwnRandom, A.ImageOnlyTransform):
    """Turns a square image by 0, 90, 180 or 270 degrees, each as likely as the others."""

    def get_params(self) -> dict[str, Any]:
        """Return the number of quarter turns for one image."""
        return {"turns": self.py_random.randrange(4)}

    def apply(self, img: Pixels, turns: int, **params: Any) -> Pixels:
        """Return the turned image. Shape: (S, S, 3) -> (S, S, 3)"""
        return np.ascontiguousarray(np.rot90(img, turns))


class RandomResizedCrop(_OwnRandom, A.RandomResizedCrop):
    """Albumentations' random crop of an image that may not be decoded yet, resized by OpenCV.

    Crops are resized by a bicubic or bilinear kernel without antialiasing, like in the paper's TPU code, down to half
    their size, and by area below that. Images smaller than the result, which evaluation enlarges too, are resized by
    Pillow as there.
    """

    def __init__(self, image_size: int, scale: tuple[float, float], resample: Image.Resampling) -> None:
        super().__init__(size=(image_size, image_size), scale=scale, ratio=_CROP_ASPECT, p=1)
        self.resample = resample

    def cut(self, picture: Picture) -> Pixels:
        """Return the next random crop. Shape: (image_size, image_size, 3)"""
        shape = (picture.height, picture.width)
        box: Box = self.get_params_dependent_on_data({"shape": shape}, {})["crop_coords"]
        return self._cut(picture, box)

    def apply(self, img: Pixels, crop_coords: Box, **params: Any) -> Pixels:
        """Return the resized crop. Shape: (H, W, 3) -> (image_size, image_size, 3)"""
        return self._cut(DecodedPicture(img), crop_coords)

    def _cut(self, picture: Picture, box: Box) -> Pixels:
        side = self.size[0]
        crop = picture.crop(box, side)
        if min(picture.height, picture.width) < side:
            return np.asarray(Image.fromarray(crop).resize((side, side), self.resample))
        interpolation = cv2.INTER_AREA if min(crop.shape[:2]) >= 2 * side else _OPENCV[self.resample]
        resized: Any = cv2.resize(crop, (side, side), interpolation=interpolation)
        return resized
