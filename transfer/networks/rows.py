"""The rows of every family's tables: a stage, a baseline made of stages, and a variant of a baseline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

from transfer.networks.layers import LayerSettings
from transfer.networks.scaling import Scale, round_filters, round_repeats

DEFAULT_SETTINGS = LayerSettings()
Operator = Literal["mbconv", "fused", "separable", "bottleneck"]


@dataclass(frozen=True)
class StageRow:
    """A stage of identical blocks.

    Args:
        expand_ratio: for MBConv blocks, inner channels relative to the input's; for bottlenecks, output channels
            relative to the inner ones.
        kernel_size: side of the spatial kernel.
        stride: stride of the first block, 1 or 2; the others have 1.
        in_channels: channels of the first block's input.
        out_channels: channels of every block's output.
        repeats: number of blocks.
        se_ratio: squeeze-excitation's channels relative to a block's input, in [0, 1]; 0 means none.
        operator: kind of block.
    """

    expand_ratio: int
    kernel_size: int
    stride: int
    in_channels: int
    out_channels: int
    repeats: int
    se_ratio: float = 0.25
    operator: Operator = "mbconv"

    @property
    def fused(self) -> bool:
        """Whether the blocks are EfficientNetV2's fused ones."""
        return self.operator == "fused"

    @property
    def channels_unit(self) -> int:
        """Ratio of `out_channels` to the channels that rounding applies to: bottlenecks round their inner ones."""
        return self.expand_ratio if self.operator == "bottleneck" else 1


@dataclass(frozen=True)
class Baseline:
    """A network to be scaled, and the rules by which its family scales it.

    Args:
        stem_channels: output channels of the stem.
        stages: rows of the stages, in order.
        top_channels: output channels of the 1x1 convolution after the last stage; None for none.
        settings: settings of networks that start from random weights.
        scale_ends: whether the channels of the stem and the top, and the repeats of the first and last stage, scale.
        keep: share of the channels that rounding must keep; see `round_filters`.
        stem_kernel_size: side of the stem's kernel; its stride is 2.
        stem_pool: whether a 3x3 max pooling with stride 2 and one pixel of padding follows the stem.
    """

    stem_channels: int
    stages: tuple[StageRow, ...]
    top_channels: int | None = 1280
    settings: LayerSettings = DEFAULT_SETTINGS
    scale_ends: bool = True
    keep: float = 0.9
    stem_kernel_size: int = 3
    stem_pool: bool = False


@dataclass(frozen=True)
class Variant:
    """A network of a family.

    Args:
        name: short name, such as `b0`.
        width_coefficient: factor of the baseline's channels (torchvision's `width_mult`, timm's `channel_multiplier`).
        depth_coefficient: factor of the baseline's repeats.
        resolution: side of the square input at which the variant was evaluated, in pixels.
        dropout_rate: probability of dropout before the classifier; a scaled network keeps its baseline's.
        num_parameters: number of parameters with a 1000-class classifier; 0 if unpublished.
        num_macs: multiply-adds of the convolutions and a 1000-class classifier at `resolution`; 0 if unpublished.
        baseline: the network that the coefficients scale.
        origin: variant of the table that the network was derived from; None for a variant of the table.
        scale: factors by which the origin's coefficients were multiplied; None if it was not scaled.
    """

    name: str
    width_coefficient: float
    depth_coefficient: float
    resolution: int
    dropout_rate: float
    num_parameters: int
    num_macs: int
    baseline: Baseline
    origin: Variant | None = None
    scale: Scale | None = None

    @property
    def row(self) -> Variant:
        """The row of the table: the variant itself, or the one that it was derived from."""
        return self if self.origin is None else self.origin.row

    @property
    def settings(self) -> LayerSettings:
        """The released code's settings, for random weights and TensorFlow's checkpoints."""
        return self.baseline.settings

    @property
    def stem_channels(self) -> int:
        return self._scale_end(self.baseline.stem_channels)

    @property
    def num_features(self) -> int:
        top_channels = self.baseline.top_channels
        return self.stages[-1].out_channels if top_channels is None else self._scale_end(top_channels)

    @property
    def stages(self) -> tuple[StageRow, ...]:
        """The baseline's rows, scaled."""
        rows = []
        in_channels = self.stem_channels
        for row, scales in zip(self.baseline.stages, self.scaled_repeats, strict=True):
            unit = row.channels_unit
            out_channels = unit * round_filters(
                row.out_channels // unit, self.width_coefficient, keep=self.baseline.keep
            )
            repeats = round_repeats(row.repeats, self.depth_coefficient) if scales else row.repeats
            rows.append(replace(row, in_channels=in_channels, out_channels=out_channels, repeats=repeats))
            in_channels = out_channels
        return tuple(rows)

    @property
    def scaled_repeats(self) -> tuple[bool, ...]:
        """Whether each stage's repeats scale."""
        last = len(self.baseline.stages) - 1
        return tuple(self.baseline.scale_ends or index not in (0, last) for index in range(last + 1))

    def scaled(self, name: str, scale: Scale) -> Self:
        """Return the variant with its coefficients multiplied; see `transfer.networks.scaling.scale`."""
        return replace(
            self,
            name=name,
            width_coefficient=float(f"{self.width_coefficient * scale.width:.12g}"),
            depth_coefficient=float(f"{self.depth_coefficient * scale.depth:.12g}"),
            resolution=scale.pixels(self.resolution),
            num_parameters=0,
            num_macs=0,
            origin=self,
            scale=scale,
        )

    def _scale_end(self, channels: int) -> int:
        if not self.baseline.scale_ends:
            return channels
        return round_filters(channels, self.width_coefficient, keep=self.baseline.keep)
