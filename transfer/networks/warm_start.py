"""Start a network from another one's tensors, as close to that one's function as its shape allows.

The rule: each tensor is copied from the tensor of the same name, stage by stage and block by block, as far as the
leading channels overlap. Where the network has more channels than the source, kernels that would carry new channels
into the source's start at zero; the rest of the new channels is random. A block beyond the source's is a copy of the
stage's last one, with the scale and shift of its projection's BatchNorm at zero: at first it passes its input on
unchanged. (A plain copy would apply that block's change twice; starting from the same function follows Chen et al.
2015, Net2Net.) Where the source has a single block in a stage, whose shape does not repeat, further blocks start at
random with the same zeros. In evaluation, therefore, a network that is nowhere smaller than the source has the source's
maps among the leading channels of its own. Where it is smaller, the source's last channels and blocks are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from transfer.networks.backbone import StagedBackbone
from transfer.networks.rows import Variant

# The last BatchNorm of a residual branch, in every block with a skip that has published weights.
LAST_NORM = ("project.norm.weight", "project.norm.bias")


@dataclass(frozen=True)
class WarmStart:
    """Where a backbone's parameters come from, as shares in [0, 1] that sum to 1.

    Attributes:
        source: name of the backbone that they were taken from.
        taken: share copied from the tensor of the same name.
        copied: share copied from the last block of the source's stage.
        fresh: share that is zero or random.
    """

    source: str
    taken: float
    copied: float
    fresh: float

    def __str__(self) -> str:
        return (
            f"of the backbone's parameters {self.taken:.1%} are {self.source}'s, {self.copied:.1%} copied into further"
            f" blocks, {self.fresh:.1%} new"
        )


def same_blocks(variant: Variant, source: Variant) -> bool:
    """Return whether the two have the same kind of block in every stage."""

    def kinds(of: Variant) -> list[tuple[object, ...]]:
        return [(r.operator, r.expand_ratio, r.kernel_size, r.stride, r.se_ratio) for r in of.baseline.stages]

    return (
        kinds(variant) == kinds(source) and variant.baseline.settings.activation == source.baseline.settings.activation
    )


def is_within(source: Variant, variant: Variant) -> bool:
    """Return whether the source has no more channels or blocks anywhere; then `take_over` preserves its function."""
    pairs = [(source.stem_channels, variant.stem_channels), (source.num_features, variant.num_features)]
    for theirs, ours in zip(source.stages, variant.stages, strict=True):
        pairs += [(theirs.out_channels, ours.out_channels), (theirs.repeats, ours.repeats)]
    return all(theirs <= ours for theirs, ours in pairs)


def measure(backbone: StagedBackbone, source: StagedBackbone) -> WarmStart:
    """Return what `take_over` would take, from shapes alone; both networks may be on the meta device."""
    shapes = {name: tensor.shape for name, tensor in source.state_dict().items()}
    total = taken = copied = 0
    for name, parameter in backbone.named_parameters():
        total += parameter.numel()
        origin, extra = _origin(name, source.variant)
        if origin is None or (extra and name.endswith(LAST_NORM)):
            continue
        overlap = 1
        for ours, theirs in zip(parameter.shape, shapes[origin], strict=True):
            overlap *= min(ours, theirs)
        taken, copied = (taken, copied + overlap) if extra else (taken + overlap, copied)
    return WarmStart(source.variant.name, taken / total, copied / total, (total - taken - copied) / total)


@torch.no_grad()
def take_over(backbone: StagedBackbone, state: Mapping[str, Tensor], source: Variant) -> None:
    """Fill a fresh backbone with the tensors of a source with the same blocks, by the rule above.

    Args:
        backbone: network to fill, in place.
        state: tensors of the source, under their names in `StagedBackbone`.
        source: variant of the source.
    """
    for name, tensor in backbone.state_dict().items():
        origin, extra = _origin(name, source)
        if origin is not None:
            _fill_leading(tensor, state[origin])
        if extra and name.endswith(LAST_NORM):
            tensor.zero_()


def _origin(name: str, source: Variant) -> tuple[str | None, bool]:
    """Return the name of the source's tensor, None for a fresh one, and whether the block is beyond the source's."""
    part, *path = name.split(".")
    if part != "stages":
        return name, False
    stage, block, *rest = path
    repeats = source.stages[int(stage)].repeats
    if int(block) < repeats:
        return name, False
    return (".".join((part, stage, str(repeats - 1), *rest)) if repeats > 1 else None), True


def _fill_leading(tensor: Tensor, theirs: Tensor) -> None:
    """Copy their leading channels, and let no new channel feed into them."""
    leading = tuple(slice(min(a, b)) for a, b in zip(tensor.shape, theirs.shape, strict=True))
    if tensor.ndim > 1:
        tensor[leading[0], theirs.shape[1] :] = 0
    tensor[leading] = theirs[leading].to(tensor.dtype)
