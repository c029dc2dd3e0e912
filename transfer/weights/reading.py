"""Read the tensors of a row or a file under our names, and infer the variant that tensors belong to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from transfer.errors import BadValue, DamagedFile, UserError
from transfer.files import expanded
from transfer.networks.efficientnet import VARIANTS
from transfer.networks.registry import get_variant, is_without_weights
from transfer.networks.rows import Variant
from transfer.weights.downloads import fetch_weights
from transfer.weights.files import identify_file, read_state_dict
from transfer.weights.integrity import check_numbers
from transfer.weights.key_names import find_scheme, own_modules, to_own_keys
from transfer.weights.rows import WeightsRow


def read_weights(row: WeightsRow, weights: str | Path | None, row_was_named: bool) -> dict[str, Tensor]:
    """Return the tensors of a row under the names of `Classifier`, from its own source or from the file `weights`.

    Args:
        row: the row.
        weights: local file to read in place of the row's source.
        row_was_named: whether the user named the row instead of taking a default.

    Raises:
        UserError: a download fails, or the file does not match the row.
    """
    variant = get_variant(row.backbone)
    path = fetch_weights(row) if weights is None else expanded(weights)
    state = read_state_dict(path)
    check_numbers(state, path)
    try:
        # For a network that is in no table, the tensors do not show how it was scaled.
        found = variant if is_without_weights(variant.name) else infer_variant(state)
    except UserError:
        found = variant  # the strict load reports the differences
    if found != variant:
        raise BadValue(f"{path} holds a {found.name}, not a {variant.name}: use backbone {found.name!r}")
    if weights is not None:
        identify_file(path, row, variant, row_was_named)
    return to_own_keys(state, variant)


def infer_variant(state: Mapping[str, Tensor]) -> Variant:
    """Return the variant that has these tensors, under any known key scheme, with or without a classifier.

    Additional tensors are ignored here; the strict load reports them.

    Raises:
        UserError: the key scheme is unknown, or no variant has these tensors.
    """
    fitting: list[Variant] = []
    for variant in VARIANTS.values():
        try:
            own = to_own_keys(state, variant)
        except UserError:
            if find_scheme(state) is None:
                raise
            continue  # the scheme's code base cannot build this variant
        modules = {key.rpartition(".")[0] for key in own}
        width = (variant.num_features, variant.stages[-1].out_channels, 1, 1)
        if modules >= own_modules(variant) and tuple(own["backbone.top.conv.weight"].shape) == width:
            fitting.append(variant)
    if fitting:  # b1 holds all modules of b0
        return max(fitting, key=lambda variant: len(own_modules(variant)))
    raise DamagedFile(
        f"no known backbone has these tensors ({', '.join(list(state)[:3])}, ...; {len(state)} in all;"
        f" allowed: {', '.join(VARIANTS)})"
    )


def adapt_stem(weight: Tensor, in_channels: int) -> Tensor:
    """Return stem kernels (out, 3, k, k) for another number of input channels: repeated and scaled by 3 / in_channels.

    Kernels that already have that number of channels, or do not have 3, are returned unchanged.
    """
    if weight.ndim != 4 or weight.shape[1] != 3 or in_channels == 3:
        return weight
    index = torch.arange(in_channels) % 3
    return weight.sum(1, keepdim=True) if in_channels == 1 else weight[:, index] * (3.0 / in_channels)
