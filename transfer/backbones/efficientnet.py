"""EfficientNet b0-b8, l2 and the lite family: tables of rows and the one class that interprets them.

Sources: Tan & Le 2019 (arXiv 1905.11946) Table 1; coefficients and construction from tensorflow/tpu
models/official/efficientnet (efficientnet_builder.py, efficientnet_lite_builder.py).
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from transfer.layers import ConvNormAct, LayerSettings, MBConv, untracked_batch_norm
from transfer.scaling import round_filters, round_repeats


@dataclass(frozen=True)
class StageRow:
    """One stage of MBConv blocks: the stride is the first block's, the others have 1."""

    expand_ratio: int
    kernel_size: int
    stride: int
    in_channels: int
    out_channels: int
    repeats: int
    se_ratio: float = 0.25


# Paper Table 1 (strides from the released code): stages 2 to 8 of b0, from which all others are scaled.
B0_STAGES = (
    StageRow(1, 3, 1, 32, 16, 1),
    StageRow(6, 3, 2, 16, 24, 2),
    StageRow(6, 5, 2, 24, 40, 2),
    StageRow(6, 3, 2, 40, 80, 3),
    StageRow(6, 5, 1, 80, 112, 3),
    StageRow(6, 5, 2, 112, 192, 4),
    StageRow(6, 3, 1, 192, 320, 1),
)
STEM_CHANNELS = 32
TOP_CHANNELS = 1280


@dataclass(frozen=True)
class Variant:
    """One network of the family.

    Args:
        resolution: side of the square input the variant was designed for, in pixels.
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
    lite: bool = False

    @property
    def activation(self) -> str:
        return "relu6" if self.lite else "silu"

    @property
    def stem_channels(self) -> int:
        return STEM_CHANNELS if self.lite else round_filters(STEM_CHANNELS, self.width_coefficient)

    @property
    def num_features(self) -> int:
        return TOP_CHANNELS if self.lite else round_filters(TOP_CHANNELS, self.width_coefficient)

    @property
    def stages(self) -> tuple[StageRow, ...]:
        """The scaled rows. Lite keeps the first and last stage's repeats and has no squeeze-excitation."""
        rows = []
        in_channels = self.stem_channels
        for index, row in enumerate(B0_STAGES):
            fixed = self.lite and index in (0, len(B0_STAGES) - 1)
            out_channels = round_filters(row.out_channels, self.width_coefficient)
            rows.append(
                replace(
                    row,
                    in_channels=in_channels,
                    out_channels=out_channels,
                    repeats=row.repeats if fixed else round_repeats(row.repeats, self.depth_coefficient),
                    se_ratio=0.0 if self.lite else row.se_ratio,
                )
            )
            in_channels = out_channels
        return tuple(rows)


# Coefficients: tensorflow/tpu efficientnet_builder.py and efficientnet_lite_builder.py. Counts: efficientnet-pytorch
# 0.7.1 and efficientnet-lite-pytorch 0.1.0, equal to torchvision's and timm's.
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
        Variant("lite0", 1.0, 1.0, 224, 0.2, 4_652_008, 385_187_552, lite=True),
        Variant("lite1", 1.0, 1.1, 240, 0.2, 5_416_680, 600_185_232, lite=True),
        Variant("lite2", 1.1, 1.2, 260, 0.3, 6_092_072, 859_736_272, lite=True),
        Variant("lite3", 1.2, 1.4, 280, 0.3, 8_197_096, 1_383_321_872, lite=True),
        Variant("lite4", 1.4, 1.8, 300, 0.3, 13_006_568, 2_553_034_336, lite=True),
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
                blocks.append(
                    MBConv(
                        row.in_channels if i == 0 else row.out_channels,
                        row.out_channels,
                        kernel_size=row.kernel_size,
                        stride=row.stride if i == 0 else 1,
                        expand_ratio=row.expand_ratio,
                        se_ratio=row.se_ratio,
                        drop_prob=stochastic_depth_prob * block_index / num_blocks,
                        settings=settings,
                    )
                )
                block_index += 1
            self.stages.append(nn.Sequential(*blocks))
        self.top = ConvNormAct(rows[-1].out_channels, self.num_features, settings)

        # A map is complete where the next stage halves the resolution, and after the last stage.
        next_strides = [row.stride for row in rows[1:]] + [2]
        self._map_stages = frozenset(i for i, stride in enumerate(next_strides) if stride == 2)
        self.stage_channels = tuple(rows[i].out_channels for i in sorted(self._map_stages))
        self.stage_strides = tuple(2 ** (i + 1) for i in range(len(self._map_stages)))
        self.apply(_init_weights)

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
