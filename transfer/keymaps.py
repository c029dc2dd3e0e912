"""Key schemes of public EfficientNet checkpoints, and their translation to the names in `Classifier`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from transfer.errors import UserError

if TYPE_CHECKING:
    from transfer.backbones.efficientnet import Variant


@dataclass(frozen=True)
class KeyScheme:
    """How a code base names the tensors of an EfficientNet; blocks by their slots in our order.

    Args:
        block: pattern of a block's prefix, from its flat index, its stage and its index in the stage.
        slots: names of the slots of BLOCK_SLOTS in a block with an expansion convolution.
        slots_without_expand: the same in a block without, where numbering may shift.
    """

    stem_conv: str
    stem_norm: str
    block: str
    slots: tuple[str, ...]
    slots_without_expand: tuple[str, ...]
    top_conv: str
    top_norm: str
    classifier: str


# fmt: off
BLOCK_SLOTS = (
    "expand.conv", "expand.norm", "depthwise.conv", "depthwise.norm",
    "se.reduce", "se.expand", "project.conv", "project.norm",
)
# Sources: efficientnet-pytorch 0.7.1 (and the lite packages, which follow it); timm 1.0.31 efficientnet.py.
SCHEMES = {
    "lukemelas": KeyScheme(
        "_conv_stem", "_bn0", "_blocks.{flat}",
        ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_se_reduce", "_se_expand", "_project_conv", "_bn2"),
        ("", "", "_depthwise_conv", "_bn1", "_se_reduce", "_se_expand", "_project_conv", "_bn2"),
        "_conv_head", "_bn1", "_fc",
    ),
    "timm": KeyScheme(
        "conv_stem", "bn1", "blocks.{stage}.{index}",
        ("conv_pw", "bn1", "conv_dw", "bn2", "se.conv_reduce", "se.conv_expand", "conv_pwl", "bn3"),
        ("", "", "conv_dw", "bn1", "se.conv_reduce", "se.conv_expand", "conv_pw", "bn2"),
        "conv_head", "bn2", "classifier",
    ),
}
# fmt: on


def module_names(scheme: KeyScheme, variant: Variant) -> dict[str, str]:
    """Their name -> our name of every module that holds tensors, in our order; ours as in `Classifier`."""
    names = {scheme.stem_conv: "backbone.stem.conv", scheme.stem_norm: "backbone.stem.norm"}
    flat = 0
    for stage, row in enumerate(variant.stages):
        slots = scheme.slots if row.expand_ratio != 1 else scheme.slots_without_expand
        for index in range(row.repeats):
            theirs = scheme.block.format(flat=flat, stage=stage, index=index)
            for slot, name in zip(BLOCK_SLOTS, slots, strict=True):
                if name and (row.se_ratio or not slot.startswith("se.")):
                    names[f"{theirs}.{name}"] = f"backbone.stages.{stage}.{index}.{slot}"
            flat += 1
    names[scheme.top_conv] = "backbone.top.conv"
    names[scheme.top_norm] = "backbone.top.norm"
    names[scheme.classifier] = "head.fc"
    return names


def to_own_keys(state: Mapping[str, Tensor], variant: Variant) -> dict[str, Tensor]:
    """The tensors under the names that `Classifier` gives them, from any known scheme or from our own checkpoints.

    The scheme is recognised by its stem; keys that it does not know keep their names, for the strict load to report.

    Raises:
        UserError: no known scheme.
    """
    if "classifier.backbone.stem.conv.weight" in state:  # a TransferModule's checkpoint
        prefix = "classifier."
        return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    if "backbone.stem.conv.weight" in state:
        return dict(state)
    for scheme in SCHEMES.values():
        if f"{scheme.stem_conv}.weight" in state:
            names = module_names(scheme, variant)
            own = {}
            for key, tensor in state.items():
                module, _, leaf = key.rpartition(".")
                own[f"{names[module]}.{leaf}" if module in names else key] = tensor
            return own
    raise UserError(
        f"unknown key scheme: {', '.join(list(state)[:3])}, ... (known: {', '.join(SCHEMES)}, and this project's own)"
    )
