"""How images are prepared for a network: size, crop, interpolation, mean and standard deviation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

Rgb = tuple[float, float, float]
Range = tuple[float, float]  # the values that become black and white
# Beyond, Pillow's own limit takes an image for an attack on the memory.
MAX_PIXELS = 178_956_970
INTERPOLATIONS = ("bicubic", "bilinear")
RESIZES = ("short_side", "squash")
SMALLEST_IMAGE = 32  # side in pixels: the networks halve it five times


IMAGENET: tuple[Rgb, Rgb] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


HALF: tuple[Rgb, Rgb] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


# The lite family's own (x - 127) / 128 on 0..255 (tensorflow/tpu efficientnet_lite_builder.py), on the 0..1 scale.
LITE: tuple[Rgb, Rgb] = ((127 / 255, 127 / 255, 127 / 255), (128 / 255, 128 / 255, 128 / 255))


# V2's own (x - 128) / 128 (google/automl efficientnetv2/preprocessing.py); timm's ports take HALF for it.
V2: tuple[Rgb, Rgb] = ((128 / 255, 128 / 255, 128 / 255), (128 / 255, 128 / 255, 128 / 255))


@dataclass(frozen=True)
class Preprocessing:
    """How the images of a network are prepared, as when its published accuracy was measured.

    Args:
        image_size: side of the square crop, in pixels.
        crop_ratio: share of the resized image's side that is cropped: the image is resized to image_size / crop_ratio
            before the centre crop.
        interpolation: `bicubic` or `bilinear`, antialiased as in Pillow.
        mean, std: mean and standard deviation of each channel, for values in [0, 1]; one value each for a network with
            one input channel, whose images are converted to grey.
        resize: which side is resized: `short_side`, or both sides regardless of the image's shape (`squash`).
        integer_range: the values that become black and white, in images of integers of more than 8 bits; None: 0 and
            65535.
        float_range: likewise, in images of floating-point values; None: not known, such images are refused.
    """

    image_size: int
    crop_ratio: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str = "short_side"
    integer_range: Range | None = None
    float_range: Range | None = None

    @classmethod
    def from_entries(cls, entries: Mapping[str, Any]) -> Preprocessing:
        """Return what `dataclasses.asdict` took apart, whose tuples JSON may have made lists."""
        values: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in entries.items()}
        return cls(**values)

    def grey(self) -> Preprocessing:
        """Return the preprocessing for one input channel, with mean and std averaged over the channels."""
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        return replace(self, mean=(mean,), std=(std,))


def released_crop_ratio(image_size: int) -> float:
    """Return the released code's crop ratio: image_size / (image_size + 32)."""
    return image_size / (image_size + 32)
