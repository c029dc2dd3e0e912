"""From a decoded image to the network's input: the only place that resizes or normalises.

Evaluation resizes by Pillow, because the published accuracies were measured with its antialiased filters. Training
crops are resized by OpenCV, several times as fast.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.images.autoaugment import AutoAugment
from datamodules.images.decode import Box, DecodedPicture, Picture, Pixels
from datamodules.images.ops import RandomOps
from transfer.errors import BadValue, unknown_name

Rgb = tuple[float, float, float]
# left, top, right, bottom, in shares of the image's width and height
Part = tuple[float, float, float, float]

# ImageNet's channel statistics on the 0..1 scale, as in every public EfficientNet checkpoint but AdvProp's and lite's.
IMAGENET_MEAN: Rgb = (0.485, 0.456, 0.406)
IMAGENET_STD: Rgb = (0.229, 0.224, 0.225)

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
    """How evaluation resizes, before it crops.

    Args:
        size: of the short side, or of both with `squash`, in pixels.
        resample: Pillow's filter.
        squash: whether the image becomes a square.
    """

    size: int
    resample: Image.Resampling
    squash: bool

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) afterwards; the rounding is torchvision's."""
        if self.squash:
            return self.size, self.size
        short = min(height, width)
        return self.size * height // short, self.size * width // short

    def shrunk_shape(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) afterwards, or before if a side would grow."""
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
        """Shape: (H, W, 3) -> (image_size, image_size, 3)."""
        height, width = self.resize.shape(*img.shape[:2])
        resized = Image.fromarray(img).resize((width, height), self.resize.resample)
        return np.asarray(resized.crop(self._box(height, width)))

    def part(self, height: int, width: int) -> Part:
        """Which part of an image of this size it keeps."""
        height, width = self.resize.shape(height, width)
        left, top, right, bottom = self._box(height, width)
        return left / width, top / height, right / width, bottom / height

    def _box(self, height: int, width: int) -> Box:
        left, top = (round((side - self.image_size) / 2) for side in (width, height))
        return left, top, left + self.image_size, top + self.image_size


class _OwnRandom(A.BasicTransform):
    """Draws from `py_random` alone: making Albumentations' other generator takes longer than a flip."""

    def set_random_seed(self, seed: int | None) -> None:
        self.py_random = random.Random(seed)


class HorizontalFlip(_OwnRandom, A.HorizontalFlip):
    """Albumentations' flip."""


class RandomResizedCrop(_OwnRandom, A.RandomResizedCrop):
    """Albumentations' random crop, of an image that may not be decoded yet, resized by OpenCV.

    Bicubic or bilinear without antialiasing, like the paper's TPU code, down to half the size, and by area below that.
    Images smaller than the result are enlarged in evaluation too: these get the same kernel as there, Pillow's.
    """

    def __init__(self, image_size: int, scale: tuple[float, float], resample: Image.Resampling) -> None:
        super().__init__(size=(image_size, image_size), scale=scale, ratio=_CROP_ASPECT, p=1)
        self.resample = resample

    def cut(self, picture: Picture) -> Pixels:
        """The next random crop. Shape: (image_size, image_size, 3)."""
        shape = (picture.height, picture.width)
        box: Box = self.get_params_dependent_on_data({"shape": shape}, {})["crop_coords"]
        return self._cut(picture, box)

    def apply(self, img: Pixels, crop_coords: Box, **params: Any) -> Pixels:
        """Shape: (H, W, 3) -> (image_size, image_size, 3)."""
        return self._cut(DecodedPicture(img), crop_coords)

    def _cut(self, picture: Picture, box: Box) -> Pixels:
        side = self.size[0]
        crop = picture.crop(box, side)
        if min(picture.height, picture.width) < side:
            return np.asarray(Image.fromarray(crop).resize((side, side), self.resample))
        interpolation = cv2.INTER_AREA if min(crop.shape[:2]) >= 2 * side else _OPENCV[self.resample]
        resized: Any = cv2.resize(crop, (side, side), interpolation=interpolation)
        return resized


def apply_transform(transform: A.Compose, picture: Picture) -> Pixels:
    """What `transform(image=picture.pixels())` gives, without decoding more than a random crop needs.

    Shape: (image_size, image_size, 3), uint8.
    """
    crop, *others = transform.transforms
    if not isinstance(crop, RandomResizedCrop):
        return transform(image=picture.pixels())["image"]
    image = crop.cut(picture)
    for step in others:
        image = step(image=image)["image"]
    return image


def build_eval_transform(
    image_size: int, crop_ratio: float, interpolation: str, resize: str = "short_side"
) -> A.Compose:
    """Short side to floor(image_size / crop_ratio), then the centre: what every published accuracy was measured with.

    Args:
        image_size: side of the result, in pixels, at least 32.
        crop_ratio: part of the resized short side that is kept, in (0, 1] (timm: `crop_pct`).
        interpolation: `bicubic` or `bilinear`.
        resize: `short_side`, or `squash` for both sides whatever the image's shape (timm: `crop_mode`).

    Raises:
        UserError: a value outside these ranges.
    """
    resample = _resample(interpolation)
    _check_sizes(image_size, crop_ratio)
    if resize not in RESIZES:
        raise unknown_name("resize", resize, RESIZES)
    return A.Compose([ResizeCenterCrop(math.floor(image_size / crop_ratio), image_size, resample, resize == "squash")])


def kept_part(transform: A.Compose, height: int, width: int) -> Part:
    """Which part of an image of this size an eval transform gives the network."""
    crop: ResizeCenterCrop = transform.transforms[0]
    return crop.part(height, width)


def build_train_transform(
    image_size: int,
    augment: str,
    interpolation: str,
    crop_ratio: float,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    horizontal_flip: bool = True,
    mean: Rgb = IMAGENET_MEAN,
    resize: str = "short_side",
    policy: str = "imagenet",
) -> A.Compose:
    """The augmentation by its name; seed it per image with `seed_transform`.

    `none` is the eval transform; `basic` a random resized crop and a flip (the paper's); the others add to
    `basic` RandAugment (2 operations at 9/30), TrivialAugment (1 at any of 31 strengths), AutoAugment (a published
    policy) or Cutout (one square).

    Args:
        image_size: side of the result, in pixels, at least 32.
        augment: one of `AUGMENTS`.
        interpolation: `bicubic` or `bilinear`.
        crop_ratio: as in evaluation; only `none` reads it.
        crop_scale: smallest and largest part of the image's area that a crop keeps.
        horizontal_flip: whether a mirrored image keeps its meaning.
        mean: per channel on the 0..1 scale; Cutout's square becomes zero after normalising.
        resize: as in evaluation; only `none` reads it.
        policy: AutoAugment's, `imagenet` or `cifar10`.

    Raises:
        UserError: a value outside these ranges, or an unknown name.
    """
    if augment not in AUGMENTS:
        raise unknown_name("augment", augment, AUGMENTS)
    evaluation = build_eval_transform(image_size, crop_ratio, interpolation, resize)
    if augment == "none":
        return evaluation
    steps: list[A.BasicTransform] = [RandomResizedCrop(image_size, crop_scale, _resample(interpolation))]
    if horizontal_flip:
        steps.append(HorizontalFlip(p=0.5))
    if augment == "randaugment":
        steps.append(RandomOps(2, _RANDAUGMENT_STRENGTHS))
    elif augment == "trivialaugment":
        steps.append(RandomOps(1, _TRIVIALAUGMENT_STRENGTHS))
    elif augment == "autoaugment":
        steps.append(AutoAugment(policy))
    elif augment == "cutout":
        # EfficientNetV2's transfer setting: side = half the image (google/automl efficientnetv2/datasets.py).
        side = (image_size // 2, image_size // 2)
        fill = tuple(255 * channel for channel in mean)
        steps.append(
            A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=side, hole_width_range=side, fill=fill, p=1)
        )
    return A.Compose(steps)


def cached_resize(transform: A.Compose, evaluation: A.Compose) -> Resize:
    """How images are kept from which `transform` is to be fed: as evaluation resizes them, in their shape for crops."""
    resize: Resize = evaluation.transforms[0].resize
    return replace(resize, squash=False) if isinstance(transform.transforms[0], RandomResizedCrop) else resize


def seed_transform(transform: A.Compose, seed: int) -> None:
    """Makes the next call of `transform` a function of `seed` and the image alone.

    Compose would hand all its steps the same seed, and with it the same first draw: small crops, and only
        those,
    would be mirrored.
    """
    for position, step in enumerate(transform.transforms):
        step.set_random_seed(seed + position)


def normalize(images: Tensor, mean: Rgb, std: Rgb) -> Tensor:
    """Pixels as the network wants them: (value / 255 - mean) / std per channel.

    Args:
        images: as the loaders give them, on any device.
        mean: per channel, on the 0..1 scale.
        std: likewise.

    Shape:
        uint8 (N, H, W, 3) -> float32 (N, 3, H, W), channels_last in memory (the view costs nothing).
    """
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
