"""The rows of which every family's tables consist: a stage, a baseline made of stages, a variant of a baseline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

from transfer.networks.layers import LayerSettings
from transfer.networks.scaling import Scale, round_filters, round_repeats

DEFAULT_SETTINGS = LayerSettings()
Operator = Literal["mbconv", "fused", "separable", "bottleneck"]


@dataclass(frozen=True)
class StageRow:
    """One stage of equal blocks: the stride is the first block's, the others have 1.

    Args:
        expand_ratio: of MBConv blocks, channels inside relative to those that come in; of bottlenecks, channels that go
            out relative to those inside.
        operator: the kind of block.
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
        """Of bottlenecks it is the channels inside that are rounded, and `expand_ratio` times as many go out."""
        return self.expand_ratio if self.operator == "bottleneck" else 1


@dataclass(frozen=True)
class Baseline:
    """A network to be scaled, and the rules by which its family scales it.

    Args:
        top_channels: of the 1x1 convolution after the last stage; None: there is none.
        settings: of networks that start from random weights.
        scale_ends: whether the stem's and the top layer's channels and the first and last stage's repeats scale too.
        keep: see `round_filters`.
        stem_kernel_size: of the stem's convolution, which has stride 2.
        stem_pool: a max pooling of 3x3 with stride 2 after the stem, one pixel of padding on every side.
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
    """One network of a family.

    Args:
        resolution: side of the square input at which the variant was evaluated, in pixels.
        dropout_rate: before the classifier; a scaled network keeps its baseline's.
        num_params: with the 1000-class classifier; 0 where nothing is published.
        num_macs: multiply-adds of convolutions and the classifier at `resolution`, 1000 classes; 0 likewise.
        origin, scale: of a network that is in no table, the variant it was made of, and what multiplies that one's
            coefficients.
    """

    name: str
    width_coefficient: float
    depth_coefficient: float
    resolution: int
    dropout_rate: float
    num_params: int
    num_macs: int
    baseline: Baseline
    origin: Variant | None = None
    scale: Scale | None = None

    @property
    def row(self) -> Variant:
        """The row of the table: itself, or what it was made of."""
        return self if self.origin is None else self.origin.row

    @property
    def settings(self) -> LayerSettings:
        """Of the released code: for random weights and TensorFlow's checkpoints."""
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
        """Of each stage, whether its repeats scale."""
        last = len(self.baseline.stages) - 1
        return tuple(self.baseline.scale_ends or index not in (0, last) for index in range(last + 1))

    def scaled(self, name: str, scale: Scale) -> Self:
        """See `transfer.networks.scaling.scale`."""
        return replace(
            self,
            name=name,
            width_coefficient=float(f"{self.width_coefficient * scale.width:.12g}"),
            depth_coefficient=float(f"{self.depth_coefficient * scale.depth:.12g}"),
            resolution=scale.pixels(self.resolution),
            num_params=0,
            num_macs=0,
            origin=self,
            scale=scale,
        )

    def _scale_end(self, channels: int) -> int:
        if not self.baseline.scale_ends:
            return channels
        return round_filters(channels, self.width_coefficient, keep=self.baseline.keep)
