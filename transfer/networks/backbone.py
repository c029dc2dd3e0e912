"""What every backbone has, and the class that builds and runs the network that the rows of a table describe."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from transfer.errors import BadValue
from transfer.networks.backward import spatial_mean
from transfer.networks.dilation import replace_stride_with_dilation
from transfer.networks.layers import ConvNormAct, LayerSettings, SamePadConv2d, untracked_batch_norm
from transfer.networks.rows import StageRow, Variant

if TYPE_CHECKING:
    from transfer.networks.function import FunctionVariant

OUTPUT_STRIDES = (8, 16, 32)


class FeatureInfo(TypedDict):
    """A stage map in timm's words: its channels, its stride and the module whose output it is."""

    num_chs: int
    reduction: int
    module: str


class Stage(nn.Sequential):
    """The blocks of one stage. (N, C, H, W) -> (N, C', H/s, W/s).

    Attributes:
        grad_checkpointing: keep only the blocks' inputs while training and compute the rest again in the backward pass.
    """

    grad_checkpointing: bool = False

    def forward(self, input: Tensor) -> Tensor:
        if not (self.grad_checkpointing and self.training and torch.is_grad_enabled()):
            for block in self:
                input = block(input)
            return input
        for block in self:
            contexts = partial(_checkpoint_contexts, block)
            input = checkpoint(block, input, use_reentrant=False, context_fn=contexts)
        return input


class Backbone(nn.Module, ABC):
    """A network without its classifier. (N, C, H, W) -> (N, num_features, h, w).

    The stages of a function of the user's own are unknown here: asking for the last three raises a UserError.

    Attributes:
        variant: what the network was built from.
        num_features: channels of `forward`'s output.
        num_map_channels: those of the last layer, which come first; see `set_pooled_stages` for the others.
        output_stride: stride of `forward`'s output.
        stage_channels: channels of each map of `forward_stages`, finest first.
        stage_strides: strides of the same maps.
    """

    variant: Variant | FunctionVariant
    num_features: int
    num_map_channels: int
    output_stride: int
    stage_channels: tuple[int, ...]
    stage_strides: tuple[int, ...]

    @abstractmethod
    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """Return the maps at `stage_strides`, each with its `stage_channels`, for detectors and segmentation.

        Raises:
            UserError: the network is a function of the user's own, whose stages are unknown here.
        """

    @abstractmethod
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the blocks' inputs while training and compute the rest again in the backward pass, or stop that.

        It takes less memory, more time, and yields the same numbers: BatchNorm statistics move once a step.

        Raises:
            UserError: `enable` is true and the network is a function of the user's own.
        """

    @abstractmethod
    def set_pooled_stages(self, count: int) -> None:
        """Append the means of the maps of the last stages to each cell of `forward`'s output.

        `num_features` grows by their channels. Pooled, the output is the means of the last layer, then those of the
        stages.

        Args:
            count: how many stages; that whose map is the output does not count.

        Raises:
            UserError: `count` is above 0 and the network is a function of the user's own.
        """


class StagedBackbone(Backbone):
    """A network without its classifier: a stem, stages of blocks and, in most families, a 1x1 convolution on top.

    Attributes:
        num_features: channels of `forward`'s output.
        stage_channels: channels of each map of `forward_stages`, finest first.
        stage_strides: strides of the same maps, 2 to 32.
        output_stride: stride of `forward`'s output.

    Args:
        variant: a row of the table, or a scaled one.
        settings: padding, BatchNorm constants and activation with which the weights were trained.
        in_channels: channels of the images.
        stochastic_depth_prob: probability of dropping the last residual branch, in [0, 1); earlier ones are dropped
            less, linearly (block i of n: prob * i / n). All published EfficientNets were trained with 0.2.
        grad_checkpointing: see `set_grad_checkpointing`.
        output_stride: 8, 16 or 32. Below 32 the last strides become dilations: finer maps from the same weights.

    Shape:
        (N, in_channels, H, W) -> (N, num_features, ceil(H / output_stride), ceil(W / output_stride)).

    Raises:
        UserError: another output stride.
    """

    variant: Variant

    def __init__(
        self,
        variant: Variant,
        settings: LayerSettings,
        in_channels: int = 3,
        stochastic_depth_prob: float = 0.2,
        grad_checkpointing: bool = False,
        output_stride: int = 32,
    ) -> None:
        super().__init__()
        if output_stride not in OUTPUT_STRIDES:
            raise BadValue(f"`output_stride`={output_stride} (allowed: {', '.join(map(str, OUTPUT_STRIDES))})")
        self.variant = variant
        self.num_features = self.num_map_channels = variant.num_features
        self.output_stride = output_stride
        rows, baseline = variant.stages, variant.baseline
        self.stem = ConvNormAct(in_channels, variant.stem_channels, settings, baseline.stem_kernel_size, stride=2)
        self.stem_pool = nn.MaxPool2d(3, 2, padding=1) if baseline.stem_pool else nn.Identity()
        self.stages = self._build_stages(rows, settings, stochastic_depth_prob)
        self.top = (
            nn.Identity()
            if baseline.top_channels is None
            else ConvNormAct(rows[-1].out_channels, self.num_features, settings)
        )

        # A map is complete before the next stride of 2, and after the last stage. -1 is the stem's.
        strides = [2 if baseline.stem_pool else rows[0].stride, *(row.stride for row in rows[1:]), 2]
        self._map_stages = tuple(i for i, stride in enumerate(strides, start=-1) if stride == 2)
        self.stage_channels = tuple(
            variant.stem_channels if i == -1 else rows[i].out_channels for i in self._map_stages
        )
        self.stage_strides = tuple(min(2 ** (i + 1), output_stride) for i in range(len(self._map_stages)))
        self.apply(_init_weights)
        if settings.padding == "static":
            self._fix_padding(variant.resolution)
        replace_stride_with_dilation(self.stages, rows, 4 if baseline.stem_pool else 2, output_stride)
        self.set_grad_checkpointing(grad_checkpointing)
        self.set_pooled_stages(0)

    def _build_stages(
        self, rows: tuple[StageRow, ...], settings: LayerSettings, stochastic_depth_prob: float
    ) -> nn.ModuleList:
        num_blocks = sum(row.repeats for row in rows)
        block_index = 0
        stages = nn.ModuleList()
        for row in rows:
            blocks = []
            for i in range(row.repeats):
                drop_prob = stochastic_depth_prob * block_index / num_blocks
                block_in, stride = (row.in_channels, row.stride) if i == 0 else (row.out_channels, 1)
                blocks.append(self.build_block(row, block_in, stride, drop_prob, settings))
                block_index += 1
            stages.append(Stage(*blocks))
        return stages

    def _fix_padding(self, size: int) -> None:
        """Pad every input as one of `size` pixels."""
        for module in self.modules():
            if isinstance(module, SamePadConv2d):
                module.static_size = size
                size = -(-size // 2)

    @abstractmethod
    def build_block(
        self, row: StageRow, in_channels: int, stride: int, drop_prob: float, settings: LayerSettings
    ) -> nn.Module:
        """Return one block of a stage."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_pool(self.stem(x))
        pooled = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self._pooled_stages:
                pooled.append(spatial_mean(x))
        x = self.top(x)
        if not pooled:
            return x
        cells = torch.zeros_like(x[:, :1])  # exporters to ONNX lose the channels of `expand`
        return torch.cat([x, *(means + cells for means in pooled)], 1)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps = [x] if -1 in self._map_stages else []
        x = self.stem_pool(x)
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self._map_stages:
                maps.append(x)
        return maps

    @property
    def feature_info(self) -> list[FeatureInfo]:
        """The maps of `forward_stages` as timm describes them: channels, stride, and the module for a hook."""
        return [
            {"num_chs": channels, "reduction": stride, "module": "stem" if index == -1 else f"stages.{index}"}
            for index, channels, stride in zip(self._map_stages, self.stage_channels, self.stage_strides, strict=True)
        ]

    def set_pooled_stages(self, count: int) -> None:
        end = len(self.stages) - isinstance(self.top, nn.Identity)  # without a top, the last stage's map is the output
        self._pooled_stages = range(end - count, end)
        self.num_features = self.num_map_channels + sum(
            self.variant.stages[index].out_channels for index in self._pooled_stages
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable
        for stage in self.stages:
            assert isinstance(stage, Stage)
            stage.grad_checkpointing = enable


def _checkpoint_contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of the forward pass and of its repetition, which must not move the BatchNorm statistics."""
    return nullcontext(), untracked_batch_norm(block)


def _init_weights(module: nn.Module) -> None:
    """Initialise a convolution as the released code does: N(0, sqrt(2 / fan_out)); a depthwise fan_out is k * k.

    On the meta device there is nothing to fill, and `normal_` would import a compiler there, which takes seconds.
    """
    if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
