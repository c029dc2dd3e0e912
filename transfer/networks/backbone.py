"""The class that builds and runs what the rows of a family's table say."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from transfer.networks.layers import ConvNormAct, LayerSettings, SamePadConv2d, untracked_batch_norm
from transfer.networks.rows import StageRow, Variant


class Backbone(nn.Module, ABC):
    """A network without its classifier: a stem, stages of blocks and, in most families, a 1x1 convolution on top.

    Attributes:
        num_features: channels of `forward`'s output.
        stage_channels, stage_strides: of the maps `forward_stages` gives, finest first.

    Args:
        variant: a row of the table, or one scaled.
        settings: padding, BatchNorm constants, activation: what the weights were trained with.
        in_channels: of the images.
        stochastic_depth_prob: probability of dropping the last residual branch; earlier ones less, linearly
            (block i of n: prob * i / n). All published EfficientNets were trained with 0.2.
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
        rows, baseline = variant.stages, variant.baseline
        self.stem = ConvNormAct(in_channels, variant.stem_channels, settings, baseline.stem_kernel_size, stride=2)
        self.stem_pool = nn.MaxPool2d(3, 2, padding=1) if baseline.stem_pool else nn.Identity()
        num_blocks = sum(row.repeats for row in rows)
        block_index = 0
        self.stages = nn.ModuleList()
        for row in rows:
            blocks = []
            for i in range(row.repeats):
                drop_prob = stochastic_depth_prob * block_index / num_blocks
                first = i == 0
                block_in, stride = (row.in_channels, row.stride) if first else (row.out_channels, 1)
                blocks.append(self.build_block(row, block_in, stride, drop_prob, settings))
                block_index += 1
            self.stages.append(nn.Sequential(*blocks))
        self.top = (
            nn.Identity()
            if baseline.top_channels is None
            else ConvNormAct(rows[-1].out_channels, self.num_features, settings)
        )

        # A map is complete where what follows halves the resolution, and after the last stage. -1 is the stem's.
        strides = [2 if baseline.stem_pool else rows[0].stride, *(row.stride for row in rows[1:]), 2]
        self._map_stages = frozenset(i for i, stride in enumerate(strides, start=-1) if stride == 2)
        self.stage_channels = tuple(
            variant.stem_channels if i == -1 else rows[i].out_channels for i in sorted(self._map_stages)
        )
        self.stage_strides = tuple(2 ** (i + 1) for i in range(len(self._map_stages)))
        self.apply(_init_weights)
        if settings.padding == "static":
            size = variant.resolution
            for module in self.modules():
                if isinstance(module, SamePadConv2d):
                    module.static_size = size
                    size = -(-size // 2)

    @abstractmethod
    def build_block(
        self, row: StageRow, in_channels: int, stride: int, drop_prob: float, settings: LayerSettings
    ) -> nn.Module:
        """One block of a stage."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_pool(self.stem(x))
        for stage in self.stages:
            x = self._run_stage(stage, x)
        return self.top(x)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """The maps at `stage_strides` (2, 4, 8, 16, 32) with `stage_channels` channels, for detectors and the like."""
        x = self.stem(x)
        maps = [x] if -1 in self._map_stages else []
        x = self.stem_pool(x)
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
    """Released code's initialisation: N(0, sqrt(2 / fan_out)), where a depthwise kernel's fan_out is k * k.

    On the meta device there is nothing to fill, and `normal_` would import a compiler there, which takes seconds.
    """
    if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
