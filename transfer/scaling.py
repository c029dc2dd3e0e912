"""The rounding rules of compound scaling (Tan & Le 2019, section 3, and the released code).

A network is scaled by two coefficients: `width_coefficient` (torchvision `width_mult`, timm `channel_multiplier`)
multiplies channels, `depth_coefficient` multiplies how often a block is repeated. Imports no torch.
"""

from __future__ import annotations

import math


def round_filters(channels: int, width_coefficient: float, divisor: int = 8, keep: float = 0.9) -> int:
    """Scaled channels as the released code rounds them.

    Source: tensorflow/tpu efficientnet_model.py `round_filters`: nearest multiple of `divisor`, at least `divisor`,
    one step up where less than `keep` of the channels would be left; a coefficient of 1.0 leaves `channels` as it is.
    EfficientNetV2 (google/automl effnetv2_model.py) has no such step up: `keep` is 0.
    """
    if width_coefficient == 1.0:
        return channels
    scaled = channels * width_coefficient
    rounded = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
    if rounded < keep * scaled:
        rounded += divisor
    return rounded


def round_repeats(repeats: int, depth_coefficient: float) -> int:
    """Scaled number of blocks of a stage, rounded up (tensorflow/tpu efficientnet_model.py `round_repeats`)."""
    return math.ceil(depth_coefficient * repeats)
