"""From a decoded image to the network's input: how evaluation prepares it, and how training augments it."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import albumentations as A
import numpy as np
import torch
from torch import Tensor

from datamodules.images.autoaugment import AutoAugment
from datamodules.images.crops import (
    HorizontalFlip,
    QuarterTurn,
    RandomResizedCrop,
    ResizeCenterCrop,
    VerticalFlip,
)
from datamodules.images.ops import RandomOps, to_channels
from datamodules.images.pictures import Picture
from datamodules.images.user_transform import UserTransform
from transfer.errors import BadValue, unknown_name
from transfer.images.decode import Pixels
from transfer.images.prepare import CenterCrop, Part, build_crop, check_sizes, resampling
from transfer.images.resizing import Resize
from transfer.preprocessing import SMALLEST_IMAGE, Preprocessing
from transfer.progressive import FIRST_RANDAUGMENT, grown, stage_sizes

Transform: TypeAlias = A.Compose | UserTransform
# The arguments of `build_train_transform` after the preprocessing, up to `color_jitter`.
AugmentOptions: TypeAlias = tuple[str, tuple[float, float], bool, str, bool, bool, float]
AUGMENTS = ("none", "basic", "randaugment", "trivialaugment", "autoaugment", "cutout")

# RandAugment's 9 of 30 (Cubuk et al. 2020); TrivialAugment's 31 strengths (Müller and Hutter 2021).
_RANDAUGMENT = 9 / 30
_TRIVIALAUGMENT_STRENGTHS = tuple(level / 30 for level in range(31))


def apply_transform(transform: Transform, picture: Picture) -> Pixels | Tensor:
    """Return the transformed image, without decoding more of it than a random crop needs.

    Shape:
        uint8 (image_size, image_size, 3), or what a `UserTransform` returns.
    """
    if isinstance(transform, UserTransform):
        return transform(picture.pixels())
    crop, *others = transform.transforms
    if not isinstance(crop, RandomResizedCrop):
        return prepare(transform, picture.pixels())
    image = crop.cut(picture)
    for step in others:
        image = step(image=image)["image"]
    return image


def prepare(transform: A.Compose, pixels: Pixels) -> Pixels:
    """Return an image as an eval transform prepares it; several threads may do so at a time.

    Shape:
        uint8 (H, W, 3) -> (image_size, image_size, 3), or 1 channel for a network of one
    """
    for step in transform.transforms:
        pixels = step.apply(pixels)
    return pixels


def build_eval_transform(preprocessing: Preprocessing) -> A.Compose:
    """Return the transform that published accuracies were measured with: resize, then crop the centre.

    The short side, or with `squash` both sides, becomes floor(image_size / crop_ratio).

    Args:
        preprocessing: image_size of at least 32 pixels, crop_ratio in (0, 1], interpolation and resize.

    Raises:
        BadValue: a value outside these ranges.
    """
    return A.Compose([ResizeCenterCrop(build_crop(preprocessing)), *to_channels(len(preprocessing.mean))])


def kept_part(transform: A.Compose, height: int, width: int) -> Part:
    """Return which part of an image of this size, in pixels, an eval transform keeps for the network."""
    crop: CenterCrop = transform.transforms[0].crop
    return crop.part(height, width)


def build_train_transform(
    preprocessing: Preprocessing,
    augment: str,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    horizontal_flip: bool = True,
    policy: str = "imagenet",
    vertical_flip: bool = False,
    quarter_turns: bool = False,
    color_jitter: float = 0.0,
    randaugment: float = _RANDAUGMENT,
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
        vertical_flip: whether an image upside down keeps its meaning.
        quarter_turns: whether an image on its side does.
        color_jitter: strength, 0 to 1, of random changes of brightness, contrast, saturation and (a quarter of it) hue.
        randaugment: RandAugment's strength, 0 to 1.

    Raises:
        BadValue: a value outside these ranges, an unknown name, or `none` together with an augmentation.
    """
    _check_augmentation(augment, crop_scale[0], vertical_flip, quarter_turns, color_jitter)
    if augment == "none":
        return build_eval_transform(preprocessing)
    image_size = preprocessing.image_size
    check_sizes(preprocessing)
    steps: list[A.BasicTransform] = [RandomResizedCrop(image_size, crop_scale, resampling(preprocessing.interpolation))]
    if horizontal_flip:
        steps.append(HorizontalFlip(p=0.5))
    if vertical_flip:
        steps.append(VerticalFlip(p=0.5))
    if quarter_turns:
        steps.append(QuarterTurn(p=1))
    if color_jitter:
        steps.append(_color_jitter(color_jitter))
    if augment == "randaugment":
        steps.append(RandomOps(2, (randaugment,)))
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


def build_earlier_transforms(
    preprocessing: Preprocessing, first_size: int | None, *options: *AugmentOptions
) -> list[A.Compose]:
    """Return the augmentations of a progressive run's stages before the last one: smaller images, weaker RandAugment.

    Args:
        preprocessing: see `build_train_transform`; its image_size is that of the last stage.
        first_size: side of the images in the first stage, in pixels; None if the run is not progressive.
        options: the further arguments of `build_train_transform` up to `color_jitter`.

    Raises:
        BadValue: `first_size` is out of range.
    """
    if first_size is None:
        return []
    if not SMALLEST_IMAGE <= first_size < preprocessing.image_size:
        raise BadValue(
            f"`progressive`={first_size} (allowed: {SMALLEST_IMAGE} to below `image_size`={preprocessing.image_size})"
        )
    *sizes, _ = stage_sizes(first_size, preprocessing.image_size)
    strengths = [grown(FIRST_RANDAUGMENT, _RANDAUGMENT, stage) for stage in range(len(sizes))]
    return [
        build_train_transform(replace(preprocessing, image_size=size), *options, strength)
        for size, strength in zip(sizes, strengths, strict=True)
    ]


def output_bytes(transform: Transform) -> int:
    """Return the bytes of one transformed image."""
    if isinstance(transform, UserTransform):
        return transform.image_size**2 * transform.channels * (4 if transform.normalizes else 1)
    crop = transform.transforms[0]
    side: int = crop.size[0] if isinstance(crop, RandomResizedCrop) else crop.crop.image_size
    return 3 * side**2


def cached_resize(transform: Transform, evaluation: A.Compose) -> Resize:
    """Return how images are cached for `transform`: as evaluation resizes them, but never squashed for another crop.

    Args:
        transform: what the cached images are for; a `UserTransform` gets them in their own shape, as a random crop.
        evaluation: see `build_eval_transform`.
    """
    resize: Resize = evaluation.transforms[0].crop.resize
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
    constants = torch.tensor([[1 / (255 * s), -m / s] for m, s in zip(mean, std, strict=True)])
    scale, shift = constants.to(images.device, non_blocking=True).unbind(1)
    if images.device.type != "cpu":
        return images.to(torch.float32).mul_(scale).add_(shift).permute(0, 3, 1, 2)
    # Image by image it stays in the core's cache, rows of pixels make long vectors, and NumPy's memory comes in huge
    # pages: several times as fast.
    result = torch.from_numpy(np.empty(images.shape, np.float32))
    scale, shift = scale.repeat(images.shape[2]), shift.repeat(images.shape[2])
    for pixels, target in zip(images.flatten(2), result.flatten(2), strict=True):
        target.copy_(pixels).mul_(scale).add_(shift)
    return result.permute(0, 3, 1, 2)


def _color_jitter(strength: float) -> A.BasicTransform:
    factors = (1 - strength, 1 + strength)
    return A.ColorJitter(factors, factors, factors, (-strength / 4, strength / 4), p=1)


def _check_augmentation(
    augment: str, min_crop_area: float, vertical_flip: bool, quarter_turns: bool, color_jitter: float
) -> None:
    if augment not in AUGMENTS:
        raise unknown_name("augment", augment, AUGMENTS)
    if not 0 < min_crop_area <= 1:
        raise BadValue(f"`min_crop_area`={min_crop_area} (allowed: above 0, at most 1)")
    if not 0 <= color_jitter <= 1:
        raise BadValue(f"`color_jitter`={color_jitter} (allowed: 0 to 1)")
    chosen = {"vertical_flip": vertical_flip, "quarter_turns": quarter_turns, "color_jitter": color_jitter}
    for name, value in chosen.items():
        if value and augment == "none":
            raise BadValue(f"`{name}`={value} with `augment`=none, which augments nothing (choose one)")
