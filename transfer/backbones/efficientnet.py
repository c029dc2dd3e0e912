"""EfficientNet b0-b8, l2, lite and V2: tables of rows and the one class that interprets them.

Sources: Tan & Le 2019 (arXiv 1905.11946) Table 1; coefficients and construction from tensorflow/tpu
models/official/efficientnet (efficientnet_builder.py, efficientnet_lite_builder.py); Tan & Le 2021 (arXiv 2104.00298)
and google/automl efficientnetv2.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from transfer.layers import ConvNormAct, FusedMBConv, LayerSettings, MBConv, SamePadConv2d, untracked_batch_norm
from transfer.scaling import round_filters, round_repeats


@dataclass(frozen=True)
class StageRow:
    """One stage of MBConv blocks, or of fused ones: the stride is the first block's, the others have 1."""

    expand_ratio: int
    kernel_size: int
    stride: int
    in_channels: int
    out_channels: int
    repeats: int
    se_ratio: float = 0.25
    fused: bool = False


@dataclass(frozen=True)
class Baseline:
    """A network to be scaled, and the rules by which its family scales it.

    Args:
        scale_ends: whether the stem's and the top layer's channels and the first and last stage's repeats scale too.
        keep: see `round_filters`.
        bn_momentum: of a network that starts from random weights, in torch's convention.
    """

    stem_channels: int
    stages: tuple[StageRow, ...]
    top_channels: int = 1280
    activation: str = "silu"
    scale_ends: bool = True
    keep: float = 0.9
    bn_momentum: float = 0.01


# Paper Table 1 (strides from the released code): stages 2 to 8.
B0 = Baseline(
    32,
    (
        StageRow(1, 3, 1, 32, 16, 1),
        StageRow(6, 3, 2, 16, 24, 2),
        StageRow(6, 5, 2, 24, 40, 2),
        StageRow(6, 3, 2, 40, 80, 3),
        StageRow(6, 5, 1, 80, 112, 3),
        StageRow(6, 5, 2, 112, 192, 4),
        StageRow(6, 3, 1, 192, 320, 1),
    ),
)
# tensorflow/tpu efficientnet_lite_builder.py: no squeeze-excitation, relu6, fixed ends.
LITE0 = replace(B0, stages=tuple(replace(row, se_ratio=0.0) for row in B0.stages), activation="relu6", scale_ends=False)


def _v2(stem_channels: int, *stages: tuple[int, int]) -> Baseline:
    """An EfficientNetV2 from the (repeats, channels) of its stages; the rest is the same in all of them.

    Source: google/automl efficientnetv2 (effnetv2_configs.py, effnetv2_model.py).
    """
    rows = []
    in_channels = stem_channels
    operators = ((1, 1, True), (4, 2, True), (4, 2, True), (4, 2, False), (6, 1, False), (6, 2, False), (6, 1, False))
    for (repeats, channels), (expand_ratio, stride, fused) in zip(stages, operators, strict=False):
        se_ratio = 0.0 if fused else 0.25
        rows.append(StageRow(expand_ratio, 3, stride, in_channels, channels, repeats, se_ratio, fused))
        in_channels = channels
    return Baseline(stem_channels, tuple(rows), keep=0.0, bn_momentum=0.1)


V2_B0 = _v2(32, (1, 16), (2, 32), (2, 48), (3, 96), (5, 112), (8, 192))
V2_S = _v2(24, (2, 24), (4, 48), (4, 64), (6, 128), (9, 160), (15, 256))
V2_M = _v2(24, (3, 24), (5, 48), (5, 80), (7, 160), (14, 176), (18, 304), (5, 512))
V2_L = _v2(32, (4, 32), (7, 64), (7, 96), (10, 192), (19, 224), (25, 384), (7, 640))
V2_XL = _v2(32, (4, 32), (8, 64), (8, 96), (16, 192), (24, 256), (32, 512), (8, 640))


@dataclass(frozen=True)
class Variant:
    """One network of the family.

    Args:
        resolution: side of the square input at which the variant was evaluated, in pixels.
        dropout_rate: before the classifier.
        num_params: with the 1000-class classifier.
        num_macs: multiply-adds of convolutions and the classifier at `resolution`, 1000 classes.
    """

    name: str
    width_coefficient: float
    depth_coefficient: float
    resolution: int
    dropout_rate: float
    num_params: int
    num_macs: int
    baseline: Baseline = B0

    @property
    def settings(self) -> LayerSettings:
        """Of the released code: for random weights and TensorFlow's checkpoints."""
        return LayerSettings(activation=self.baseline.activation, bn_momentum=self.baseline.bn_momentum)

    @property
    def stem_channels(self) -> int:
        return self._scale_end(self.baseline.stem_channels)

    @property
    def num_features(self) -> int:
        return self._scale_end(self.baseline.top_channels)

    @property
    def stages(self) -> tuple[StageRow, ...]:
        """The baseline's rows, scaled."""
        rows = []
        in_channels = self.stem_channels
        last = len(self.baseline.stages) - 1
        for index, row in enumerate(self.baseline.stages):
            fixed = not self.baseline.scale_ends and index in (0, last)
            out_channels = round_filters(row.out_channels, self.width_coefficient, keep=self.baseline.keep)
            repeats = row.repeats if fixed else round_repeats(row.repeats, self.depth_coefficient)
            rows.append(replace(row, in_channels=in_channels, out_channels=out_channels, repeats=repeats))
            in_channels = out_channels
        return tuple(rows)

    def _scale_end(self, channels: int) -> int:
        if not self.baseline.scale_ends:
            return channels
        return round_filters(channels, self.width_coefficient, keep=self.baseline.keep)


# Coefficients: tensorflow/tpu efficientnet_builder.py and efficientnet_lite_builder.py, google/automl
# effnetv2_configs.py. Counts: efficientnet-pytorch 0.7.1 and efficientnet-lite-pytorch 0.1.0, equal to torchvision's
# and timm's; V2 torchvision 0.28.0 and timm 1.0.31.
# name, width, depth, resolution, dropout, parameters, multiply-adds
VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("b0", 1.0, 1.0, 224, 0.2, 5_288_548, 385_814_752),
        Variant("b1", 1.0, 1.1, 240, 0.2, 7_794_184, 686_802_832),
        Variant("b2", 1.1, 1.2, 260, 0.3, 9_109_994, 993_561_872),
        Variant("b3", 1.2, 1.4, 300, 0.3, 12_233_232, 1_827_141_392),
        Variant("b4", 1.4, 1.8, 380, 0.4, 19_341_616, 4_393_771_024),
        Variant("b5", 1.6, 2.2, 456, 0.4, 30_389_784, 10_266_384_752),
        Variant("b6", 1.8, 2.6, 528, 0.5, 43_040_704, 19_067_593_536),
        Variant("b7", 2.0, 3.1, 600, 0.5, 66_347_960, 37_745_884_192),
        Variant("b8", 2.2, 3.6, 672, 0.5, 87_413_142, 62_597_461_568),
        Variant("l2", 4.3, 5.3, 800, 0.5, 480_309_308, 475_703_653_280),
        Variant("lite0", 1.0, 1.0, 224, 0.2, 4_652_008, 385_187_552, LITE0),
        Variant("lite1", 1.0, 1.1, 240, 0.2, 5_416_680, 600_185_232, LITE0),
        Variant("lite2", 1.1, 1.2, 260, 0.3, 6_092_072, 859_736_272, LITE0),
        Variant("lite3", 1.2, 1.4, 280, 0.3, 8_197_096, 1_383_321_872, LITE0),
        Variant("lite4", 1.4, 1.8, 300, 0.3, 13_006_568, 2_553_034_336, LITE0),
        Variant("v2-b0", 1.0, 1.0, 224, 0.2, 7_139_704, 718_086_176, V2_B0),
        Variant("v2-b1", 1.0, 1.1, 240, 0.2, 8_141_052, 1_196_819_360, V2_B0),
        Variant("v2-b2", 1.1, 1.2, 260, 0.3, 10_096_086, 1_697_542_832, V2_B0),
        Variant("v2-b3", 1.2, 1.4, 300, 0.3, 14_358_406, 3_011_458_816, V2_B0),
        Variant("v2-s", 1.0, 1.0, 384, 0.2, 21_458_488, 8_365_617_152, V2_S),
        Variant("v2-m", 1.0, 1.0, 480, 0.3, 54_139_356, 24_582_460_384, V2_M),
        Variant("v2-l", 1.0, 1.0, 480, 0.4, 118_515_272, 56_079_699_008, V2_L),
        Variant("v2-xl", 1.0, 1.0, 512, 0.4, 208_119_808, 93_353_451_520, V2_XL),
    )
}


class EfficientNet(nn.Module):
    """The network without its classifier.

    Attributes:
        num_features: channels of `forward`'s output.
        stage_channels, stage_strides: of the maps `forward_stages` gives, finest first.

    Args:
        variant: a row of the table.
        settings: padding, BatchNorm constants, activation: what the weights were trained with.
        in_channels: of the images.
        stochastic_depth_prob: probability of dropping the last residual branch; earlier ones less, linearly
            (block i of n: prob * i / n). All published sizes were trained with 0.2.
        grad_checkpointing: keep only the blocks' inputs while training and compute the rest again in the backward
            pass: less memory, more time, the same numbers (BatchNorm statistics move once a step).

    Shape:
        (N, in_channels, H, W) -> (N, num_features, ceil(H / 32), ceil(W / 32)).
    """

    def __init__(
        self,
        variant: Variant,
        settings: LayerSettings,
        in_channels: int = 3,
        stochastic_depth_prob: float = 0.2,
        grad_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.variant = variant
        self.num_features = variant.num_features
        self.grad_checkpointing = grad_checkpointing
        rows = variant.stages
        self.stem = ConvNormAct(in_channels, variant.stem_channels, settings, kernel_size=3, stride=2)
        num_blocks = sum(row.repeats for row in rows)
        block_index = 0
        self.stages = nn.ModuleList()
        for row in rows:
            blocks = []
            for i in range(row.repeats):
                drop_prob = stochastic_depth_prob * block_index / num_blocks
                blocks.append(_build_block(row, i == 0, drop_prob, settings))
                block_index += 1
            self.stages.append(nn.Sequential(*blocks))
        self.top = ConvNormAct(rows[-1].out_channels, self.num_features, settings)

        # A map is complete where the next stage halves the resolution, and after the last stage.
        next_strides = [row.stride for row in rows[1:]] + [2]
        self._map_stages = frozenset(i for i, stride in enumerate(next_strides) if stride == 2)
        self.stage_channels = tuple(rows[i].out_channels for i in sorted(self._map_stages))
        self.stage_strides = tuple(2 ** (i + 1) for i in range(len(self._map_stages)))
        self.apply(_init_weights)
        if settings.padding == "static":
            size = variant.resolution
            for module in self.modules():
                if isinstance(module, SamePadConv2d):
                    module.static_size = size
                    size = -(-size // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = self._run_stage(stage, x)
        return self.top(x)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """The maps at `stage_strides` (2, 4, 8, 16, 32) with `stage_channels` channels, for detectors and the like."""
        maps = []
        x = self.stem(x)
        for index, stage in enumerate(self.stages):
            x = self._run_stage(stage, x)
            if index in self._map_stages:
                maps.append(x)
        return maps

    def _run_stage(self, stage: nn.Module, x: Tensor) -> Tensor:
        if not (self.grad_checkpointing and self.training and torch.is_grad_enabled()):
            return stage(x)
        for block in stage.children():
            contexts = partial(_checkpoint_contexts, block)
            x = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
        return x


def _build_block(row: StageRow, first: bool, drop_prob: float, settings: LayerSettings) -> MBConv | FusedMBConv:
    in_channels = row.in_channels if first else row.out_channels
    stride = row.stride if first else 1
    if row.fused:
        return FusedMBConv(
            in_channels,
            row.out_channels,
            kernel_size=row.kernel_size,
            stride=stride,
            expand_ratio=row.expand_ratio,
            drop_prob=drop_prob,
            settings=settings,
        )
    return MBConv(
        in_channels,
        row.out_channels,
        kernel_size=row.kernel_size,
        stride=stride,
        expand_ratio=row.expand_ratio,
        se_ratio=row.se_ratio,
        drop_prob=drop_prob,
        settings=settings,
    )


def _checkpoint_contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For the forward pass and for its repetition, which must not move the BatchNorm statistics a second time."""
    return nullcontext(), untracked_batch_norm(block)


def _init_weights(module: nn.Module) -> None:
    """Released code's initialisation: N(0, sqrt(2 / fan_out)), where a depthwise kernel's fan_out is k * k."""
    if isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
