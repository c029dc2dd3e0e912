"""All backbones by name. A family is a file with a table of rows and a class; this merges the tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from transfer.backbones.efficientnet import VARIANTS, EfficientNet, Variant
from transfer.checkpoints import identify_file, read_state_dict, strict_load
from transfer.downloads import fetch_weights
from transfer.errors import UserError, unknown_name
from transfer.keymaps import find_scheme, own_modules, to_own_keys
from transfer.weights import WeightsRow, select_weights


def list_backbones() -> list[str]:
    """Short names of all variants, in the tables' order."""
    return list(VARIANTS)


def get_backbone(name: str) -> Variant:
    """The variant's row. Long names (`efficientnet_b0`, `efficientnet-b0`, `tf_efficientnetv2_s`) are accepted.

    Raises:
        UserError: no such backbone.
    """
    short = name.lower().replace("_", "-").removeprefix("tf-").removeprefix("efficientnet").removeprefix("-")
    if short not in VARIANTS:
        raise unknown_name("backbone", short, list_backbones())
    return VARIANTS[short]


def build_backbone(
    name: str,
    *,
    pretrained: bool | str = False,
    weights: str | Path | None = None,
    load_weights: bool = True,
    in_channels: int = 3,
    stochastic_depth_prob: float = 0.2,
    grad_checkpointing: bool = False,
) -> EfficientNet:
    """A network without classifier, (N, in_channels, H, W) -> (N, num_features, ceil(H / 32), ceil(W / 32)).

    It has `num_features`, and `forward_stages` with `stage_channels` and `stage_strides`. Works under `torch.compile`,
    `torch.export` (with a dynamic batch; height and width are fixed), channels_last, bf16 autocast and DDP. Sizes with
    padding `static` can be one pixel smaller where the input's parity is not that of the variant's resolution.

    Args:
        name: `b0` ... `b8`, `l2`, `lite0` ... `lite4`, `v2-b0` ... `v2-b3`, `v2-s` ... `v2-xl`, or the long name.
        pretrained: False: random. True: the default weights (see `transfer.weights.select_weights`). `paper`, or the
            name of a row: that row. The name of a family: what `weights` was trained like. It sets padding, BatchNorm
            constants and activation.
        weights: a local file to read in place of the row's own source: safetensors, PyTorch, or an `.npz` of
            TensorFlow's variables.
        load_weights: False builds what `pretrained` describes but leaves the tensors random, for a checkpoint of the
            whole classifier to fill: nothing is read or downloaded.
        in_channels: of the images. With pretrained weights and another number than 3, the stem's kernels are repeated
            over the channels (R, G, B, R, ...) and scaled by 3 / in_channels; for 1 channel they are summed, which
            equals feeding the grey image three times.
        stochastic_depth_prob: probability of dropping the last residual branch (linearly less before it).
        grad_checkpointing: less memory for more time while training.

    Raises:
        UserError: unknown names, no network, or a file that does not fit.
    """
    variant = get_backbone(name)
    row = select_weights(variant, pretrained)
    backbone = EfficientNet(
        variant,
        row.settings if row else variant.settings,
        in_channels=in_channels,
        stochastic_depth_prob=stochastic_depth_prob,
        grad_checkpointing=grad_checkpointing,
    )
    if row is None:
        if weights is not None:
            raise UserError(f"weights={str(weights)!r} with pretrained=False: name what the file was trained like")
    elif load_weights:
        state = read_weights(row, weights, row_was_named=pretrained is not True)
        prefix = "backbone."
        tensors = {key.removeprefix(prefix): t for key, t in state.items() if not key.startswith("head.")}
        tensors["stem.conv.weight"] = adapt_stem(tensors["stem.conv.weight"], in_channels)
        strict_load(backbone, tensors, source=str(weights or row.name))
    return backbone


def read_weights(row: WeightsRow, weights: str | Path | None, row_was_named: bool) -> dict[str, Tensor]:
    """Tensors of a row under the names of `Classifier`, from its own source or from the file `weights`.

    Raises:
        UserError: no network, or the file is not what the row says.
    """
    variant = VARIANTS[row.backbone]
    path = fetch_weights(row) if weights is None else Path(weights)
    state = read_state_dict(path)
    try:
        found = infer_variant(state)
    except UserError:
        found = variant  # the strict load tells what differs
    if found != variant:
        raise UserError(f"{path} holds a {found.name}, not a {variant.name}: give backbone {found.name!r}")
    if weights is not None:
        identify_file(path, row, variant, row_was_named)
    return to_own_keys(state, variant)


def infer_variant(state: Mapping[str, Tensor]) -> Variant:
    """The variant whose tensors these are, under any known key scheme, with a classifier or without.

    Tensors beyond the variant's are for the strict load to report.

    Raises:
        UserError: no known key scheme, or no variant has these tensors.
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
    raise UserError(
        f"these are the tensors of no backbone known here ({', '.join(list(state)[:3])}, ...; {len(state)} in all;"
        f" allowed: {', '.join(VARIANTS)})"
    )


def adapt_stem(weight: Tensor, in_channels: int) -> Tensor:
    """Stem kernels (out, 3, k, k) for another number of input channels: repeated, and scaled by 3 / in_channels.

    Kernels that have this number of channels, or not 3, stay as they are.
    """
    if weight.ndim != 4 or weight.shape[1] != 3 or in_channels == 3:
        return weight
    index = torch.arange(in_channels) % 3
    return weight.sum(1, keepdim=True) if in_channels == 1 else weight[:, index] * (3.0 / in_channels)
