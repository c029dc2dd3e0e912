"""All backbones by name. A family is a file with a table of rows and a class; this file merges the tables.

A name is a row's, which can be scaled (`scaling`) or given other blocks (`notation`), or the import path of a function
of the user's own (`function`), which can be scaled.
"""

from __future__ import annotations

from collections.abc import Mapping

from transfer.errors import unknown_name
from transfer.networks import mobilenet, resnet
from transfer.networks.backbone import StagedBackbone
from transfer.networks.efficientnet import VARIANTS, EfficientNet
from transfer.networks.function import FunctionVariant, function_variant
from transfer.networks.notation import BLOCKS, with_blocks
from transfer.networks.rows import Variant
from transfer.networks.scaling import scale_spec
from transfer.networks.user_code import import_callable, is_import_path

# Each family's rows and the class that builds them.
FAMILIES: tuple[tuple[Mapping[str, Variant], type[StagedBackbone]], ...] = (
    (VARIANTS, EfficientNet),
    (mobilenet.VARIANTS, mobilenet.MobileNet),
    (resnet.VARIANTS, resnet.ResNet),
)
ALL_VARIANTS = {name: variant for table, _ in FAMILIES for name, variant in table.items()}


def list_backbones() -> list[str]:
    """Return the short names of all variants in the tables' order. Each can be scaled (`b0@phi=1.5`)."""
    return list(ALL_VARIANTS)


def get_backbone(name: str) -> Variant | FunctionVariant:
    """Return the variant of that name; a function of the user's own is imported.

    Args:
        name: a row's name, see `get_variant`; or the import path of a function, see `transfer.networks.function`, which
            is scaled in the same ways: `my_net.build@phi=1`.

    Raises:
        UserError: no such backbone, or a scale that is not allowed.
    """
    path, at, spec = name.strip().partition("@")
    if not is_import_path(name):
        return get_variant(name)
    variant = function_variant(import_callable(path, "backbone", list_backbones()), path)
    return scale_spec(variant, spec.lower()) if at else variant


def get_variant(name: str) -> Variant:
    """Return the row of that name, changed as the part after an `@` says; nothing is imported.

    Args:
        name: a short name; long ones (`efficientnet_b0`, `efficientnet-b0`, `tf_efficientnetv2_s`) are accepted.
            `@phi=1.5` scales by the paper's rule, `@phi=1.5,alpha=1.3,beta=1.1,gamma=1.1` by other constants, and
            `@d=1.2,w=1.1,r=1.15` by these coefficients of depth, width and resolution (1 where left out).
            `@blocks=...`, alone or beside a scale, replaces the blocks: see `transfer.networks.notation`.

    Raises:
        UserError: no such backbone, or a scale or blocks that are not allowed.
    """
    baseline, at, spec = name.lower().partition("@")
    short = baseline.strip().replace("_", "-").removeprefix("tf-").removeprefix("efficientnet").removeprefix("-")
    if short not in ALL_VARIANTS:
        raise unknown_name("backbone", short, list_backbones())
    variant = ALL_VARIANTS[short]
    if not at:
        return variant
    parts = [part.strip() for part in spec.split(",")]
    if blocks := next((part for part in parts if part.startswith(BLOCKS)), None):
        variant = with_blocks(variant, blocks.removeprefix(BLOCKS))
        parts.remove(blocks)
    return scale_spec(variant, ",".join(parts)) if parts else variant


def is_without_weights(name: str) -> bool:
    """Return whether a network of the tables has no public checkpoint.

    That holds for scaled networks, for those with other blocks, and for the families beside EfficientNet.
    """
    return name.partition("@")[0] in ALL_VARIANTS and ("@" in name or name not in VARIANTS)
