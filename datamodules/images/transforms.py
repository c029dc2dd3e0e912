"""From a decoded image to the network's input: the only place that resizes or normalises.

Evaluation resizes by Pillow, because the published accuracies were measured with its antialiased filters. Training
crops are resized by OpenCV, which is several times as fast.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import albumentations as A
import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.images.autoaugment import AutoAugment
from datamodules.images.decode import Pixels
from datamodules.images.ops import RandomOps, to_channels
from datamodules.images.pictures import Box, DecodedPicture, Picture
from datamodules.images.user_transform import UserTransform
from transfer.errors import BadValue, unknown_name
from transfer.preprocessing import Preprocessing

Transform: TypeAlias = A.Compose | UserTransform
# Left, top, right, bottom, as shares of the image's width and height.
Part = tuple[float, float, float, float]

INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_OPENCV = {Image.Resampling.BICUBIC: cv2.INTER_CUBIC, Image.Resampling.BILINEAR: cv2.INTER_LINEAR}
RESIZES = ("short_side", "squash")
AUGMENTS = ("none", "basic", "randaugment", "trivialaugment", "autoaugment", "cutout")

# MBConv networks halve the image five times: below 32 pixels nothing is left of it.
MIN_IMAGE_SIZE = 32
# Area comes from the data sheet; the aspect range is that of the paper's TPU code, 3/4 to 4/3.
_CROP_ASPECT = (3 / 4, 4 / 3)
# RandAugment's 9 of 30 (Cubuk et al. 2020); TrivialAugment's 31 strengths (Müller and Hutter 2021).
_RANDAUGMENT_STRENGTHS = (9 / 30,)
_TRIVIALAUGMENT_STRENGTHS = tuple(level / 30 for level in range(31))


@dataclass(frozen=True)
class Resize:
    """How evaluation resizes an image before the crop.

    Args:
        size: the short side afterwards, or with `squash` both sides, in pixels.
        resample: Pillow's filter.
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


class ResizeCenterCrop(A.ImageOnlyTransform):
    """Resizes the short side, or with `squash` both sides, to `resize_size`; then cuts the central `image_size` square.

    Roundings are torchvision's `Resize` + `CenterCrop`, which timm evaluates with.
    """

    def __init__(self, resize_size: int, image_size: int, resample: Image.Resampling, squash: bool) -> None:
        super().__init__(p=1)
        self.resize = Resize(resize_size, resample, squash)
        self.image_size = image_size

    def apply(self, img: Pixels, **params: Any) -> Pixels:
        """Return the crop. Shape: (H, W, 3) -> (image_size, image_size, 3)"""
        height, width = self.resize.shape(*img.shape[:2])
        resized = Image.fromarray(img).resize((width, height), self.resize.resample)
        return np.asarray(resized.crop(self._box(height, width)))

    def part(self, height: int, width: int) -> Part:
        """Return which part of an image of this size is kept."""
        height, width = self.resize.shape(height, width)
        left, top, right, bottom = self._box(height, width)
        return left / width, top / height, right / width, bottom / height

    def _box(self, height: int, width: int) -> Box:
        left, top = (round((side - self.image_size) / 2) for side in (width, height))
        return left, top, left + self.image_size, top + self.image_size


class _OwnRandom(A.BasicTransform):
    """Draws from `py_random` alone: creating Albumentations' other generator takes longer than a flip."""

    def set_random_seed(self, seed: int | None) -> None:
        self.py_random = random.Random(seed)


class HorizontalFlip(_OwnRandom, A.HorizontalFlip):
    """Albumentations' flip."""


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


def apply_transform(transform: Transform, picture: Picture) -> Pixels | Tensor:
    """Return the transformed image, without decoding more of it than a random crop needs.

    Shape:
        uint8 (image_size, image_size, 3), or what a `UserTransform` returns.
    """
    if isinstance(transform, UserTransform):
        return transform(picture.pixels())
    crop, *others = transform.transforms
    if not isinstance(crop, RandomResizedCrop):
        return transform(image=picture.pixels())["image"]
    image = crop.cut(picture)
    for step in others:
        image = step(image=image)["image"]
    return image


def build_eval_transform(preprocessing: Preprocessing) -> A.Compose:
    """Return the transform that published accuracies were measured with: resize, then crop the centre.

    The short side, or with `squash` both sides, becomes floor(image_size / crop_ratio).

    Args:
        preprocessing: image_size of at least 32 pixels, crop_ratio in (0, 1], interpolation and resize.

    Raises:
        BadValue: a value outside these ranges.
    """
    resample = _resample(preprocessing.interpolation)
    size, crop_ratio, resize = preprocessing.image_size, preprocessing.crop_ratio, preprocessing.resize
    _check_sizes(size, crop_ratio)
    if resize not in RESIZES:
        raise unknown_name("resize", resize, RESIZES)
    crop = ResizeCenterCrop(math.floor(size / crop_ratio), size, resample, resize == "squash")
    return A.Compose([crop, *to_channels(len(preprocessing.mean))])


def kept_part(transform: A.Compose, height: int, width: int) -> Part:
    """Return which part of an image of this size, in pixels, an eval transform keeps for the network."""
    crop: ResizeCenterCrop = transform.transforms[0]
    return crop.part(height, width)


def build_train_transform(
    preprocessing: Preprocessing,
    augment: str,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    horizontal_flip: bool = True,
    policy: str = "imagenet",
) -> A.Compose:
    """Return the augmentation of this name; seed it per image with `seed_transform`.

    `none` is the eval transform; `basic` a random resized crop and a flip (the paper's); the others add to
    `basic` RandAugment (2 operations at 9/30), TrivialAugment (1 at any of 31 strengths), AutoAugment (a published
    policy) or Cutout (one square, which becomes zero after normalising).

    Args:
        preprocessing: what the network wants; only `none` reads crop_ratio and resize, only `cutout` the mean.
        augment: one of `AUGMENTS`.
        crop_scale: smallest and largest share of the image's area that a crop keeps, in (0, 1].
        horizontal_flip: whether a mirrored image keeps its meaning.
        policy: AutoAugment's, `imagenet` or `cifar10`.

    Raises:
        BadValue: a value outside these ranges, or an unknown name.
    """
    if augment not in AUGMENTS:
        raise unknown_name("augment", augment, AUGMENTS)
    evaluation = build_eval_transform(preprocessing)
    if augment == "none":
        return evaluation
    image_size = preprocessing.image_size
    crop = RandomResizedCrop(image_size, crop_scale, _resample(preprocessing.interpolation))
    steps: list[A.BasicTransform] = [crop]
    if horizontal_flip:
        steps.append(HorizontalFlip(p=0.5))
    if augment == "randaugment":
        steps.append(RandomOps(2, _RANDAUGMENT_STRENGTHS))
    elif augment == "trivialaugment":
        steps.append(RandomOps(1, _TRIVIALAUGMENT_STRENGTHS))
    elif augment == "autoaugment":
        steps.append(AutoAugment(policy))
    steps += to_channels(len(preprocessing.mean))
    if augment == "cutout":
        # EfficientNetV2's transfer setting: side = half the image (google/automl efficientnetv2/datasets.py).
        side = (image_size // 2, image_size // 2)
        fill = tuple(255 * channel for channel in preprocessing.mean)
        steps.append(
            A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=side, hole_width_range=side, fill=fill, p=1)
        )
    return A.Compose(steps)


def cached_resize(transform: Transform, evaluation: A.Compose) -> Resize:
    """Return how images are cached for `transform`: as evaluation resizes them, but never squashed for another crop.

    Args:
        transform: what the cached images are for; a `UserTransform` gets them in their own shape, as a random crop.
        evaluation: see `build_eval_transform`.
    """
    resize: Resize = evaluation.transforms[0].resize
    own_crop = isinstance(transform, UserTransform) or isinstance(transform.transforms[0], RandomResizedCrop)
    return replace(resize, squash=False) if own_crop else resize


def seed_transform(transform: Transform, seed: int) -> None:
    """Make the next call of `transform` a function of `seed` and the image alone.

    Compose would hand all its steps the same seed, and with it the same first draw: small crops, and only
    those, would be mirrored.
    """
    if isinstance(transform, UserTransform):
        transform.set_seed(seed)
        return
    for position, step in enumerate(transform.transforms):
        step.set_random_seed(seed + position)


def normalize(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return pixels as the network wants them: (value / 255 - mean) / std per channel; floats are returned unchanged.

    Args:
        images: a loader's images, on any device.
        preprocessing: mean and std per channel, on the 0..1 scale.

    Shape:
        uint8 (N, H, W, C) -> float32 (N, C, H, W), channels_last in memory (the view costs nothing).
    """
    if images.is_floating_point():  # a `UserTransform` has normalised them
        return images
    mean, std = preprocessing.mean, preprocessing.std
    scale = torch.tensor([1 / (255 * channel) for channel in std], device=images.device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=images.device)
    if images.device.type != "cpu":
        return images.to(torch.float32).mul_(scale).add_(shift).permute(0, 3, 1, 2)
    # Image by image it stays in the core's cache, rows of pixels make long vectors, and NumPy's memory comes in huge
    # pages: several times as fast.
    result = torch.from_numpy(np.empty(images.shape, np.float32))
    scale, shift = scale.repeat(images.shape[2]), shift.repeat(images.shape[2])
    for pixels, target in zip(images.flatten(2), result.flatten(2), strict=True):
        target.copy_(pixels).mul_(scale).add_(shift)
    return result.permute(0, 3, 1, 2)


def _resample(interpolation: str) -> Image.Resampling:
    if interpolation not in INTERPOLATIONS:
        raise unknown_name("interpolation", interpolation, INTERPOLATIONS)
    return INTERPOLATIONS[interpolation]


def _check_sizes(image_size: int, crop_ratio: float) -> None:
    if image_size < MIN_IMAGE_SIZE:
        raise BadValue(f"`image_size`={image_size} is too small: the networks need at least {MIN_IMAGE_SIZE} pixels")
    if not 0 < crop_ratio <= 1:
        raise BadValue(f"`crop_ratio`={crop_ratio} is out of range: it is the kept part of the short side, in (0, 1]")
