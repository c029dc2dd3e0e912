"""Rules that choose settings from the size of the data and the backbone, each choice with its reason.

The doctor recommends by the same rules.

The framework is BiT-HyperRule (Kolesnikov et al. 2020, arXiv 1912.11370): training length by dataset size, with steps
at 20,000 and 500,000 images; smaller inputs for small images; mixup from 20,000 images on. Its learning rate was tuned
for another family of networks, so ours follows published fine-tuning of EfficientNets instead. Reasons marked "(ours)"
have no published source.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from transfer.config.data_schema import DataConfig
from transfer.config.schema import OptimConfig


@dataclass(frozen=True)
class Rule:
    """What a rule sets a field of the configuration to, and why.

    Attributes:
        field: dotted name of the field.
        value: value chosen for it.
        reason: why it was chosen.
    """

    field: str
    value: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.field} {self.value}: {self.reason}"


# Up to so many training images of one's own, a run from trained weights takes these rules unless told otherwise, and
# begins with a linear probe: it costs one pass without gradients, and the fewer the images, the more often a frozen
# network is the better one (arXiv 2205.07874).
FEW_IMAGES = 5_000
# Images from which on LP-FT is usually better than a probe: on clothing photos it was 3, 1 and half a point worse with
# 30, 100 and 300 training images and 4 points better with 2,700, on CIFAR-10 3 points better with 500
# (benchmarks/small_data.md). The number between is ours.
LPFT_FROM = 400
_SMALL, _MEDIUM = 20_000, 500_000
_SMALL_SIDE = 96

# (largest resolution of the weights in pixels, SGD's learning rate per 256 images, reason). Measured here with lite0:
# 0.02 at batch size 64 and 0.05 at 128 (benchmarks/digits_lite0_cpu.json, cifar10_lite0_cpu.json). DNA: its author in
# changlin31/DNA issue 3, 0.06 at 1,024. SAM: arXiv 2010.01412, 0.016 at 1,024. The boundaries in pixels are ours.
_LEARNING_RATES = (
    (260, 0.04, "half the defaults' rate, as runs are several times longer (ours)"),
    (599, 0.015, "the rate of DNA, applied to medium-sized backbones (ours)"),
    (math.inf, 0.004, "the rate of SAM for b7, which diverged at higher ones"),
)


def usual_method(num_images: int) -> Literal["probe", "lpft", "full"]:
    """Return how so many images, of one label each, are best learned from trained weights."""
    if num_images > FEW_IMAGES:
        return "full"
    return "probe" if num_images < LPFT_FROM else "lpft"


def choose_recipe(
    *, num_images: int, num_classes: int, short_side: int, resolution: int, dropout_rate: float, batch_size: int
) -> list[Rule]:
    """Return one choice for each setting that depends on the data.

    Args:
        num_images: number of training images.
        num_classes: number of classes.
        short_side: median of the images' short sides, in pixels.
        resolution: image size at which the weights were evaluated, in pixels.
        dropout_rate: dropout rate published with the backbone, in [0, 1).
        batch_size: images per optimizer step, over all processes.
    """
    return [
        *choose_size(short_side, resolution),
        *_choose_length(num_images, num_classes, batch_size),
        *_choose_mixing(num_images),
        Rule("augment", "basic", "random crop and flip only, as in Kornblith et al. 2019 and BiT"),
        Rule("dropout", dropout_rate, "the backbone's published rate; the author kept ImageNet's settings"),
        # log(0.5) / log(0.9999) = 6,931 steps of 218,949.
        Rule("ema_half_life", 0.03, "equivalent to 0.9999 in the paper's ImageNet training, 6,931 of 218,949 steps"),
        *_choose_optimizer(num_images, resolution, batch_size),
    ]


def choose_lpft(num_images: int, max_epochs: int | None = None, is_balanced: bool = False) -> list[Rule]:
    """Return the settings of a fine-tuning from the head of a linear probe (Kumar et al. 2022, arXiv 2202.10054).

    They keep the features near those that the head was fitted to; `benchmarks small_data` compares them with others.

    Args:
        num_images: number of training images.
        max_epochs: length of the run that the user set; None: it is chosen.
        is_balanced: whether every class counts the same, whatever its number of images.
    """
    epochs = min(max(math.ceil(27_000 / num_images), 10), 20)
    whole = "as the head was fitted without; with few steps it costs more than it brings (ours)"
    return [
        Rule("bn", "frozen", "the head fits features with the checkpoint's statistics, not with those of a batch"),
        Rule("optim.name", "adamw", "its steps are as long at a small gradient as at a large one (ours)"),
        Rule("optim.lr", 2e-4, "low, so that the features change little while the head follows: LP-FT"),
        Rule(
            "optim.warmup_epochs",
            (max_epochs or epochs) / 5,
            "a fifth of the run: AdamW's first steps, before its averages settle, throw off the head (ours)",
        ),
        Rule("ema_half_life", 0.05, "averages the last steps, which are few (ours)"),
        Rule("trainer.max_epochs", epochs, "27,000 images in all, within 10 to 20 passes (benchmarks/small_data.md)"),
        Rule("loss.label_smoothing", 0.0, whole),
        Rule("dropout", 0.0, whole),
        Rule("stochastic_depth_prob", 0.0, whole),
        *([Rule("loss.logit_adjustment", True, "the mean per class is what counts (ours)")] if is_balanced else []),
        Rule("data.min_crop_area", 0.5, "crops that look like the whole images that the head was fitted to (ours)"),
    ]


def choose_batch_size(fits: int | None = None) -> int:
    """Return the images per process and step: the default, or the largest power of two that fits into memory.

    The default holds for few images too: smaller batches take more steps, but with noisier BatchNorm statistics, and
    were no better on 24 photos (`benchmarks/few_photos_cpu.json`).

    Args:
        fits: largest number of images that fits into memory; None: unknown.
    """
    default = DataConfig().batch_size
    return default if fits is None or fits >= default else 1 << (max(fits, 1).bit_length() - 1)


def choose_size(short_side: int, resolution: int) -> list[Rule]:
    """Return the image size and, for small images, the smallest crop; the arguments are those of `choose_recipe`."""
    if short_side >= _SMALL_SIDE:
        reason = f"the size the weights were trained for; half of the images have a side below {short_side + 1} px"
        return [Rule("image_size", resolution, reason)]
    # Ours: BiT's ratio for CIFAR's 32 px, but at least 64 px, where the last feature map has 2 x 2 cells.
    size = min(resolution, max(64, min(128, 4 * short_side)))
    where = f"half of the images have a side below {short_side + 1} px; BiT's rule for images below 96 px"
    return [
        Rule("image_size", size, f"{where} enlarges CIFAR's 32 to 128: four times the side, within 64 to 128 (ours)"),
        Rule("data.min_crop_area", 0.64, f"{where} crops 128 from 160 px: 64% of the area"),
    ]


def _choose_length(num_images: int, num_classes: int, batch_size: int) -> list[Rule]:
    if num_images < _SMALL:
        per_class = 5_000 * num_classes
        images, reason = max(500 * 512, per_class), "BiT's 500 steps of 512 below 20,000 images"
        if per_class > 500 * 512:
            reason = f"5,000 training examples for each of {num_classes} classes (ours)"
    elif num_images < _MEDIUM:
        images, reason = 10_000 * 512, "BiT's 10,000 steps of 512 below 500,000 images"
    else:
        images, reason = 20_000 * 512, "BiT's 20,000 steps of 512 from 500,000 images on"
    if images > 50 * num_images:
        images = 50 * num_images
        reason += f", capped at 50 passes over {num_images:,} images (ours; Kornblith et al. reached 90% of their best"
        reason += " odds in 26)"
    steps = math.ceil(images / batch_size)
    return [
        Rule("trainer.max_steps", steps, f"{images:,} images in steps of {batch_size}: {reason}"),
        Rule("trainer.max_epochs", -1, "trainer.max_steps sets the length"),
    ]


def _choose_mixing(num_images: int) -> list[Rule]:
    if num_images >= _SMALL:
        return [Rule("loss.mixup_alpha", 0.1, "BiT uses mixup from 20,000 images on")]
    return [Rule("loss.mixup_alpha", 0.0, "BiT does not use mixup below 20,000 images")]


def _choose_optimizer(num_images: int, resolution: int, batch_size: int) -> list[Rule]:
    if num_images <= FEW_IMAGES and resolution <= _LEARNING_RATES[0][0]:
        return [
            Rule("optim.name", "adamw", "10 points better than the defaults on 300 photos (benchmarks/small_data.md)"),
            Rule("optim.lr", 1e-3, "timm's usual rate for AdamW, with which that was measured"),
            Rule("optim.weight_decay", 0.05, "timm's usual decay for AdamW, with which that was measured"),
        ]
    if num_images < _SMALL and resolution <= _LEARNING_RATES[0][0]:
        value = OptimConfig().lr * batch_size / DataConfig().batch_size
        reason = f"the defaults' rate, scaled to the batch size of {batch_size}: runs on few images are short (ours)"
        return [Rule("optim.lr", float(f"{value:.1e}"), reason)]
    _, rate, reason = next(row for row in _LEARNING_RATES if resolution <= row[0])
    value = float(f"{rate * batch_size / 256:.1e}")
    return [Rule("optim.lr", value, f"{rate} per 256 images, scaled to the batch size of {batch_size}: {reason}")]
