"""What rounding makes of a scaled network: asked and built, and the multiply-adds of both, part by part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from transfer.backbones.function import FunctionVariant, count_function_macs
from transfer.backbones.rows import StageRow, Variant


@dataclass(frozen=True)
class Rounding:
    """One part of a network: the stem, a stage, the top layer or the classifier.

    Attributes:
        asked_size, size: side of the map that comes in, in pixels, exact and as rounded.
        asked_channels, channels: that go out.
        asked_repeats, repeats: blocks of a stage; 1 for the other parts.
        asked_macs, macs: multiply-adds of one image; those asked for are of the exact numbers, a fraction of a block
            counting as such.
    """

    part: str
    asked_size: float
    size: int
    asked_channels: float
    channels: int
    asked_repeats: float
    repeats: int
    asked_macs: float
    macs: int

    @property
    def effect(self) -> float:
        """By how much rounding changed the multiply-adds, relative to what was asked."""
        return self.macs / self.asked_macs - 1.0


def roundings(variant: Variant, image_size: int | None = None, num_classes: int = 1000) -> list[Rounding]:
    """What rounding did to each part of a variant, from the stem to the classifier.

    The `macs` are exact, and those of all parts together are what `torch.utils.flop_counter` counts (half its FLOPs).

    Args:
        image_size: side of the image in pixels; None takes the variant's resolution.
        num_classes: of the classifier.
    """
    asked = _parts(variant, image_size, num_classes, rounded=False)
    built = _parts(variant, image_size, num_classes, rounded=True)
    return [
        Rounding(
            part=ours.name,
            asked_size=exact.size,
            size=round(ours.size),
            asked_channels=exact.channels,
            channels=round(ours.channels),
            asked_repeats=exact.repeats,
            repeats=round(ours.repeats),
            asked_macs=exact.macs,
            macs=round(ours.macs),
        )
        for exact, ours in zip(asked, built, strict=True)
    ]


def count_macs(variant: Variant | FunctionVariant, image_size: int | None = None, num_classes: int = 1000) -> int:
    """Multiply-adds of convolutions and classifier for one image, exactly; arguments as in `roundings`.

    Those of a function's network are counted by `torch.utils.flop_counter`, matrix products among them.
    """
    if isinstance(variant, FunctionVariant):
        return count_function_macs(variant, image_size or variant.resolution, num_classes)
    return sum(row.macs for row in roundings(variant, image_size, num_classes))


class _Part(NamedTuple):
    name: str
    size: float
    channels: float
    repeats: float
    macs: float


def _parts(variant: Variant, image_size: int | None, num_classes: int, rounded: bool) -> list[_Part]:
    baseline = variant.baseline
    if image_size is not None:
        size = float(image_size)
    elif variant.origin is None or variant.scale is None or rounded:
        size = float(variant.resolution)
    else:
        size = variant.origin.resolution * variant.scale.resolution
    stages = variant.stages
    width = variant.width_coefficient
    end_width = width if baseline.scale_ends else 1.0
    halve: Callable[[float], float] = _half_up if rounded else _half

    channels = variant.stem_channels if rounded else baseline.stem_channels * end_width
    after = halve(size)
    parts = [_Part("stem", size, channels, 1.0, baseline.stem_kernel_size**2 * 3 * channels * after**2)]
    size = halve(after) if baseline.stem_pool else after
    for index, row in enumerate(baseline.stages):
        if rounded:
            out: float = stages[index].out_channels
            repeats: float = stages[index].repeats
        else:
            out = row.out_channels * width
            repeats = row.repeats * (variant.depth_coefficient if variant.scaled_repeats[index] else 1.0)
        after = halve(size) if row.stride == 2 else size
        macs = block_macs(row, channels, out, size, after, rounded)
        macs += (repeats - 1) * block_macs(row, out, out, after, after, rounded)
        parts.append(_Part(f"stage {index + 1}", size, out, repeats, macs))
        channels, size = out, after
    if baseline.top_channels is not None:
        out = variant.num_features if rounded else baseline.top_channels * end_width
        parts.append(_Part("top", size, out, 1.0, channels * out * size**2))
        channels = out
    return [*parts, _Part("classifier", 1.0, num_classes, 1.0, channels * num_classes)]


def block_macs(row: StageRow, channels: float, out: float, size: float, after: float, rounded: bool) -> float:
    """Multiply-adds of one block from maps of `channels` and side `size` to `out` and `after`, exact ones or fractions.

    Args:
        rounded: squeeze-excitation's channels are whole, at least one.
    """
    kernel, expand, area, area_after = row.kernel_size**2, row.expand_ratio, size**2, after**2
    if row.operator == "separable":
        return (kernel + out) * channels * area_after
    if row.operator == "bottleneck":
        inside = out / expand
        projects = channels != out or size != after
        shortcut = channels * out * area_after if projects else 0.0
        return channels * inside * area + (kernel * inside + out) * inside * area_after + shortcut
    inside = channels * expand
    if row.operator == "fused":
        if expand == 1:
            return kernel * channels * out * area_after
        return (kernel * channels + out) * inside * area_after
    gate = channels * row.se_ratio
    if rounded and row.se_ratio:
        gate = max(1, int(gate))
    widening = channels * inside * area if expand != 1 else 0.0
    return widening + (kernel + out) * inside * area_after + 2 * inside * gate


def _half(size: float) -> float:
    return size / 2


def _half_up(size: float) -> float:
    return float(-(-int(size) // 2))
