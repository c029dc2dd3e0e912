"""How images are prepared for a network: size, crop, interpolation, mean and standard deviation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


Rgb = tuple[float, float, float]


IMAGENET: tuple[Rgb, Rgb] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


HALF: tuple[Rgb, Rgb] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


# The lite family's own (x - 127) / 128 on 0..255 (tensorflow/tpu efficientnet_lite_builder.py), on the 0..1 scale.
LITE: tuple[Rgb, Rgb] = ((127 / 255, 127 / 255, 127 / 255), (128 / 255, 128 / 255, 128 / 255))


# V2's own (x - 128) / 128 (google/automl efficientnetv2/preprocessing.py); timm's ports take HALF for it.
V2: tuple[Rgb, Rgb] = ((128 / 255, 128 / 255, 128 / 255), (128 / 255, 128 / 255, 128 / 255))


@dataclass(frozen=True)
class Preprocessing:
    """How the images were prepared for which a network's accuracy was published.

    Args:
        image_size: side of the square crop, in pixels.
        crop_ratio: image_size / crop_ratio is the size to which the image is resized before the centre is cropped.
        interpolation: `bicubic` or `bilinear`, antialiased (Pillow's).
        mean, std: per channel, of values scaled to 0..1; one value each for a network with one input channel, whose
            images become grey.
        resize: what gets that size: the `short_side`, or both sides whatever the image's shape (`squash`).
    """

    image_size: int
    crop_ratio: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str = "short_side"

    def grey(self) -> Preprocessing:
        """Return the preprocessing of a network with one input channel: mean and std are averaged over the channels."""
        mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
        return replace(self, mean=(mean,), std=(std,))


def released_crop_ratio(image_size: int) -> float:
    """The released code's: image_size / (image_size + 32)."""
    return image_size / (image_size + 32)
