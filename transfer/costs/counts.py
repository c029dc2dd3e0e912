"""What rounding does to a scaled network: the network asked for and the one built, part by part, and their costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transfer.networks.rows import StageRow, Variant


@dataclass(frozen=True)
class Rounding:
    """One part of a network: the stem, a stage, the top layer or the classifier.

    Attributes:
        part: name of the part.
        asked_size, size: side of the map that comes in, in pixels, exact and rounded.
        asked_channels, channels: output channels.
        asked_repeats, repeats: blocks of a stage; 1 for the other parts.
        asked_macs, macs: multiply-adds for one image; those asked for come from the exact numbers, with fractions of
            blocks.
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
        """Change of the multiply-adds by rounding, relative to what was asked for."""
        return self.macs / self.asked_macs - 1.0


def roundings(variant: Variant, image_size: int | None = None, num_classes: int = 1000) -> list[Rounding]:
    """Return what rounding did to each part of a variant, from the stem to the classifier.

    The `macs` are exact; their sum is what `torch.utils.flop_counter` counts (half its FLOPs).

    Args:
        variant: the variant.
        image_size: side of the image in pixels; None takes the variant's resolution.
        num_classes: classes of the classifier.
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
            asked_macs=_macs(exact),
            macs=round(_macs(ours)),
        )
        for exact, ours in zip(asked, built, strict=True)
    ]


@dataclass(frozen=True)
class Counts:
    """Exact costs of a network with a linear classifier.

    Attributes:
        num_parameters: number of parameters.
        macs: multiply-adds of convolutions and classifier for one image.
        activations: number of their output values for one image (as in Radosavovic et al. 2020).
    """

    num_parameters: int
    macs: int
    activations: int


def count(variant: Variant, image_size: int | None = None, num_classes: int = 1000) -> Counts:
    """Count parameters, multiply-adds and activations without building the network; arguments as in `roundings`."""
    num_parameters, macs, activations = _count(_parts(variant, image_size, num_classes, rounded=True))
    return Counts(round(num_parameters), round(macs), round(activations))


def count_macs(variant: Variant, image_size: int | None = None, num_classes: int = 1000) -> int:
    """Count the multiply-adds of convolutions and classifier for one image; arguments as in `roundings`."""
    return count(variant, image_size, num_classes).macs


class Conv(NamedTuple):
    """A convolution, or the classifier; its numbers are fractions in a network as it was asked for.

    Attributes:
        fan_in: weights of each output channel.
        channels: output channels.
        area: pixels of the output map.
        extras: further parameters of each output channel: BatchNorm's two, or a bias.
    """

    fan_in: float
    channels: float
    area: float
    extras: int = 2


class _Part(NamedTuple):
    """The stem, a stage, the top layer or the classifier: its first block, and the others `repeats` - 1 times."""

    name: str
    size: float
    channels: float
    repeats: float
    first: list[Conv]
    others: Sequence[Conv] = ()


def _count(parts: Sequence[_Part]) -> tuple[float, float, float]:
    """Count parameters, multiply-adds and activations of parts."""
    num_parameters: float = 0
    macs: float = 0
    activations: float = 0
    for part in parts:
        for convs, times in ((part.first, 1), (part.others, part.repeats - 1)):
            for fan_in, channels, area, extras in convs:
                num_parameters += times * (fan_in + extras) * channels
                macs += times * fan_in * channels * area
                activations += times * channels * area
    return num_parameters, macs, activations


def _macs(part: _Part) -> float:
    return _count([part])[1]


def _parts(variant: Variant, image_size: int | None, num_classes: int, rounded: bool) -> list[_Part]:
    baseline = variant.baseline
    if image_size is not None:
        size: float = image_size
    elif variant.origin is None or variant.scale is None or rounded:
        size = variant.resolution
    else:
        size = variant.origin.resolution * variant.scale.resolution
    stages = variant.stages
    width = variant.width_coefficient
    end_width = width if baseline.scale_ends else 1.0
    halve: Callable[[float], float] = _half_up if rounded else _half

    channels = variant.stem_channels if rounded else baseline.stem_channels * end_width
    after = halve(size)
    parts = [_Part("stem", size, channels, 1, [Conv(baseline.stem_kernel_size**2 * 3, channels, after**2)])]
    size = halve(after) if baseline.stem_pool else after
    for index, row in enumerate(baseline.stages):
        if rounded:
            out: float = stages[index].out_channels
            repeats: float = stages[index].repeats
        else:
            out = row.out_channels * width
            repeats = row.repeats * (variant.depth_coefficient if variant.scaled_repeats[index] else 1.0)
        after = halve(size) if row.stride == 2 else size
        first = block_convs(row, channels, out, size, after, rounded)
        others = block_convs(row, out, out, after, after, rounded)
        parts.append(_Part(f"stage {index + 1}", size, out, repeats, first, others))
        channels, size = out, after
    if baseline.top_channels is not None:
        out = variant.num_features if rounded else baseline.top_channels * end_width
        parts.append(_Part("top", size, out, 1, [Conv(channels, out, size**2)]))
        channels = out
    return [*parts, _Part("classifier", 1, num_classes, 1, [Conv(channels, num_classes, 1, extras=1)])]


def block_convs(row: StageRow, channels: float, out: float, size: float, after: float, rounded: bool) -> list[Conv]:
    """Return the convolutions of one block.

    Args:
        row: the block's stage.
        channels, out: channels of its input and output.
        size, after: side of its input and output in pixels.
        rounded: whether squeeze-excitation has a whole number of channels, at least one.
    """
    kernel, expand, area, area_after = row.kernel_size**2, row.expand_ratio, size**2, after**2
    if row.operator == "separable":
        return [Conv(kernel, channels, area_after), Conv(channels, out, area_after)]
    if row.operator == "bottleneck":
        inside = out // expand if rounded else out / expand
        convs = [Conv(channels, inside, area), Conv(kernel * inside, inside, area_after), Conv(inside, out, area_after)]
        projects = channels != out or size != after
        return [*convs, Conv(channels, out, area_after)] if projects else convs
    inside = channels * expand
    if row.operator == "fused":
        if expand == 1:
            return [Conv(kernel * channels, out, area_after)]
        return [Conv(kernel * channels, inside, area_after), Conv(inside, out, area_after)]
    convs = [Conv(channels, inside, area)] if expand != 1 else []
    convs.append(Conv(kernel, inside, area_after))
    if row.se_ratio:
        gate = max(1, int(channels * row.se_ratio)) if rounded else channels * row.se_ratio
        convs += [Conv(inside, gate, 1, extras=1), Conv(gate, inside, 1, extras=1)]
    return [*convs, Conv(inside, out, area_after)]


def _half(size: float) -> float:
    return size / 2


def _half_up(size: float) -> float:
    return -(-size // 2)
