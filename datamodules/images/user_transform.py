"""A transform of the user's own: called as its library wants it, repeatable, and never normalised twice."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import albumentations as A
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from transfer.errors import BadValue, UserError
from transfer.images.decode import Pixels, WorkerError
from transfer.preprocessing import Preprocessing

# Rounding to 8 bits and half precision stay well below; another mean or std does not.
_TOLERANCE = 0.05
# Random steps of a training transform may keep black and white from coming out as they are: by this share of their
# distance in most of so many draws.
_TRAINING_TOLERANCE = 0.1
_TRAINING_DRAWS = 8


class TransformError(WorkerError, BadValue):
    """A transform of the user's own returned what cannot be used; the text says what, and what is allowed."""


class UserTransform:
    """A transform of the user's own, on decoded images.

    It is an Albumentations transform, a torchvision one (which gets a PIL image), or any callable on uint8 (H, W, 3)
    arrays. It resizes or crops to `image_size`, and returns a square image as an array, a tensor or a PIL image. If
    that is uint8, it is normalised later, on the device; if it is floating-point, it is the network's input as it is.

    Before each image its random draws are seeded: Albumentations by its own generators, others by those of Python,
    NumPy and torch, which afterwards go on as if nothing had happened.

    Args:
        function: the transform.
        argument: its name in messages, `train_transform` or `eval_transform`.
        preprocessing: what the network wants; images are checked against it.

    Attributes:
        normalizes: whether it returns the network's input.

    Raises:
        BadValue: on a black and a white image of `image_size` it fails, returns another size or type, or floats that
            are not normalised.
    """

    def __init__(self, function: Callable[..., Any], argument: str, preprocessing: Preprocessing) -> None:
        if not callable(function):
            raise BadValue(
                f"`{argument}`={function!r} cannot be called; give an Albumentations or torchvision transform, or a"
                " function of a uint8 (height, width, 3) array"
            )
        self.function = function
        self.argument = argument
        self.is_training = argument == "train_transform"
        self.image_size = preprocessing.image_size
        self.channels = len(preprocessing.mean)
        self._seed = 0
        self.normalizes = self._check(preprocessing)

    def set_seed(self, seed: int) -> None:
        """Make the next call a function of `seed` and the image alone; a call without a seed gets the seed 0."""
        self._seed = seed

    def __call__(self, pixels: Pixels) -> Tensor:
        """Return the transformed image.

        Shape:
            uint8 (H, W, 3) -> uint8 (S, S, 3) or float32 (3, S, S)

        Raises:
            TransformError: what came out is not an image of the network's size.
        """
        seed, self._seed = self._seed, 0
        if isinstance(self.function, A.BaseCompose | A.BasicTransform):
            _seed_albumentations(self.function, seed)
            with _seeded(seed):
                result = self.function(image=pixels)["image"]
        else:
            with _seeded(seed):
                result = self.function(Image.fromarray(pixels) if _is_torchvision(self.function) else pixels)
        return self._as_tensor(result)

    def _as_tensor(self, result: Any) -> Tensor:
        if isinstance(result, Image.Image):
            result = np.asarray(result.convert("RGB" if self.channels == 3 else "L"))
        if isinstance(result, np.ndarray):
            channels_last, image = True, torch.from_numpy(np.require(result, requirements=("C", "W")))
        elif isinstance(result, Tensor):
            channels_last, image = False, result.as_subclass(Tensor)
        else:
            raise TransformError(f"`{self.argument}` returned {type(result).__name__} ({self._allowed()})")
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise TransformError(f"`{self.argument}` returned {image.dtype} values ({self._allowed()})")
        size, channels = self.image_size, self.channels
        if channels == 1 and image.ndim == 2:
            channels_last, image = True, image[..., None]
        if image.shape not in ((size, size, channels), (channels, size, size)):
            raise TransformError(
                f"`{self.argument}` returned an image of shape {tuple(image.shape)}, and `image_size` is {size}: let it"
                f" end by a resize or crop to {size} x {size}, or set `image_size` ({self._allowed()})"
            )
        if size != channels:
            channels_last = image.shape[2] == channels
        if image.dtype == torch.uint8:
            return image if channels_last else image.permute(1, 2, 0).contiguous()
        return (image.permute(2, 0, 1) if channels_last else image).float().contiguous()

    def _allowed(self) -> str:
        channels_last = f"({self.image_size}, {self.image_size}, {self.channels})"
        channels_first = f"({self.channels}, {self.image_size}, {self.image_size})"
        return f"allowed: a uint8 or floating-point array {channels_last} or tensor {channels_first}"

    def _check(self, preprocessing: Preprocessing) -> bool:
        """Return whether floats come out, judged by black and white images."""
        extremes = self._extremes()
        if extremes is None:
            return False
        low, high = extremes
        mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
        wanted = (f"mean={preprocessing.mean}", f"std={preprocessing.std}")
        if low.min() >= 0 and mean.max() > 0:
            raise BadValue(
                f"`{self.argument}` returns floats in {low.min():.3g}..{high.max():.3g}, which do not look normalised:"
                f" let it end by Normalize({', '.join(wanted)}), as this network wants it, or leave the conversion to"
                " floats out, then uint8 images are normalised later"
            )
        black, white = -mean / std, (1 - mean) / std
        beyond = torch.maximum(black - low, high - white).max()
        within = (torch.maximum(low - black, white - high) * (std if self.is_training else 1)).max()
        if beyond > _TOLERANCE or within > (_TRAINING_TOLERANCE if self.is_training else _TOLERANCE):
            warnings.warn(
                f"`{self.argument}` normalises in another way than this network wants it ({' and '.join(wanted)}):"
                f" black becomes {_rounded(low)}, white {_rounded(high)}",
                stacklevel=4,
            )
        return True

    def _extremes(self) -> tuple[Tensor, Tensor] | None:
        """Return what black and white become, per channel (C,); None if they stay uint8.

        Medians leave out what is erased, padded or added as noise; several draws, what only some of them darken.
        """
        shape = (self.image_size, self.image_size, 3)
        medians = []
        try:
            for seed in range(_TRAINING_DRAWS if self.is_training else 1):
                for value in (0, 255):
                    self.set_seed(seed)
                    image = self(np.full(shape, value, np.uint8))
                    if image.dtype == torch.uint8:
                        return None
                    medians.append(image.flatten(1).median(1).values)
        except UserError:
            raise
        except Exception as error:
            raise BadValue(f"`{self.argument}` failed on a uint8 {shape} image: {error}") from error
        return torch.stack(medians).amin(0), torch.stack(medians).amax(0)


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(round(value, 3) for value in values.tolist())


def _is_torchvision(function: Any) -> bool:
    parts = list(function.modules()) if isinstance(function, nn.Module) else [function]
    return any(type(part).__module__.partition(".")[0] == "torchvision" for part in parts)


def _seed_albumentations(transform: A.BaseCompose | A.BasicTransform, seed: int) -> None:
    """Seed each step by itself: Albumentations would give all of them the same seed, and with it the same draws."""
    transform.set_random_seed(seed)
    if isinstance(transform, A.BaseCompose):
        for position, step in enumerate(transform.transforms, start=1):
            _seed_albumentations(step, seed + position)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the generators of Python, NumPy and torch's CPU, and put them back afterwards."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.default_generator.set_state(cpu)
