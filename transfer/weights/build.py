"""From a backbone's name (`transfer.networks.registry`) and its weights to the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from transfer.errors import UserError
from transfer.networks.backbone import Backbone
from transfer.networks.classifier import Classifier
from transfer.networks.efficientnet import VARIANTS
from transfer.networks.function import FunctionBackbone, FunctionVariant
from transfer.networks.heads import build_head
from transfer.networks.layers import LayerSettings
from transfer.networks.registry import ALL_VARIANTS as ALL_VARIANTS
from transfer.networks.registry import FAMILIES, get_variant
from transfer.networks.registry import is_without_weights as is_without_weights
from transfer.networks.registry import list_backbones as list_backbones
from transfer.networks.rows import Variant
from transfer.networks.warm_start import WarmStart, measure, take_over
from transfer.weights.downloads import fetch_weights
from transfer.weights.files import check_fit, identify_file, read_state_dict, strict_load
from transfer.weights.key_names import find_scheme, own_modules, to_own_keys
from transfer.weights.rows import WeightsRow
from transfer.weights.start import Start, resolve_start


def build_network(
    variant: Variant,
    settings: LayerSettings,
    in_channels: int = 3,
    stochastic_depth_prob: float = 0.2,
    grad_checkpointing: bool = False,
) -> Backbone:
    """The variant with random weights, of its family's class; arguments as in `Backbone`."""
    network = next(network for table, network in FAMILIES if variant.row.name in table)
    return network(variant, settings, in_channels, stochastic_depth_prob, grad_checkpointing)


def build_backbone(
    name: str,
    *,
    phi: float | None = None,
    pretrained: bool | str = False,
    init_from: str | None = None,
    weights: str | Path | None = None,
    load_weights: bool = True,
    in_channels: int = 3,
    stochastic_depth_prob: float = 0.2,
    grad_checkpointing: bool = False,
) -> Backbone | FunctionBackbone:
    """A network without classifier, (N, in_channels, H, W) -> (N, num_features, ceil(H / 32), ceil(W / 32)).

    It has `num_features`, and `forward_stages` with `stage_channels` and `stage_strides`. Works under `torch.compile`,
    `torch.export` (with a dynamic batch; height and width are fixed), channels_last, bf16 autocast and DDP. Sizes with
    padding `static` can be one pixel smaller where the input's parity is not that of the variant's resolution.

    Args:
        name: one of `list_backbones()` or the import path of a function, as it is or scaled; see `get_backbone`. A
            function's network starts at random, takes 3 channels, has no `forward_stages`, cannot be checkpointed, and
            decides on stochastic depth itself.
        phi: scales the backbone by the paper's rule: `build_backbone("b0", phi=1.5)` is `b0@phi=1.5`.
        pretrained: False: random. True: the default weights (see `rows.select_weights`). `paper`, or the
            name of a row: that row. The name of a family: what `weights` was trained like. It sets padding, BatchNorm
            constants and activation. A scaled network has none.
        init_from: start from the tensors of another network of the same blocks as far as they overlap (see
            `transfer.networks.warm_start`), in place of `pretrained`: a backbone, for its default weights, or a row.
        weights: a local file to read in place of the row's own source: safetensors, PyTorch, or an `.npz` of
            TensorFlow's variables.
        load_weights: False builds what `pretrained` or `init_from` describes but leaves the tensors random, for a
            checkpoint of the whole classifier to fill: nothing is read or downloaded.
        in_channels: of the images. With pretrained weights and another number than 3, the stem's kernels are repeated
            over the channels (R, G, B, R, ...) and scaled by 3 / in_channels; for 1 channel they are summed, which
            equals feeding the grey image three times.
        stochastic_depth_prob: probability of dropping the last residual branch (linearly less before it).
        grad_checkpointing: less memory for more time while training.

    Raises:
        UserError: unknown names, no network, or a file that does not fit.
    """
    start = resolve_start(name, pretrained, init_from, weights, phi=phi)
    return backbone_from(
        start,
        load_weights=load_weights,
        in_channels=in_channels,
        stochastic_depth_prob=stochastic_depth_prob,
        grad_checkpointing=grad_checkpointing,
    )


def backbone_from(
    start: Start,
    *,
    load_weights: bool = True,
    in_channels: int = 3,
    stochastic_depth_prob: float = 0.2,
    grad_checkpointing: bool = False,
) -> Backbone | FunctionBackbone:
    """Return the backbone of a start; the other arguments are those of `build_backbone`.

    Raises:
        UserError: no network, or a file that does not fit.
    """
    variant, row = start.variant, start.row
    if isinstance(variant, FunctionVariant):
        for option, given, allowed in (
            ("in_channels", in_channels, 3),
            ("grad_checkpointing", grad_checkpointing, False),
        ):
            if given != allowed:
                raise UserError(f"`{option}`={given} with a function of your own, {variant.name} (allowed: {allowed})")
        return FunctionBackbone(variant)
    backbone = build_network(
        variant, row.settings if row else variant.settings, in_channels, stochastic_depth_prob, grad_checkpointing
    )
    if row is not None and load_weights:
        state = read_weights(row, start.weights, start.row_was_named)
        prefix = "backbone."
        tensors = {key.removeprefix(prefix): t for key, t in state.items() if not key.startswith("head.")}
        tensors["stem.conv.weight"] = adapt_stem(tensors["stem.conv.weight"], in_channels)
        source = str(start.weights or row.name)
        if not start.is_warm:
            strict_load(backbone, tensors, source)
        else:
            origin = get_variant(row.backbone)
            with torch.device("meta"):
                check_fit(build_network(origin, row.settings, in_channels), tensors, source)
            take_over(backbone, tensors, origin)
    return backbone


def measure_warm_start(start: Start) -> WarmStart | None:
    """Return how much of the backbone `init_from` takes over; None without one."""
    if not start.is_warm:
        return None
    assert isinstance(start.variant, Variant) and start.row is not None
    settings = start.row.settings
    with torch.device("meta"):
        origin = build_network(get_variant(start.row.backbone), settings)
        return measure(build_network(start.variant, settings), origin)


def read_weights(row: WeightsRow, weights: str | Path | None, row_was_named: bool) -> dict[str, Tensor]:
    """Tensors of a row under the names of `Classifier`, from its own source or from the file `weights`.

    Raises:
        UserError: no network, or the file is not what the row says.
    """
    variant = get_variant(row.backbone)
    path = fetch_weights(row) if weights is None else Path(weights)
    state = read_state_dict(path)
    try:
        # Tensors do not tell how a network that is in no table was scaled.
        found = variant if is_without_weights(variant.name) else infer_variant(state)
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


def build_classifier(
    backbone: str,
    num_classes: int | None = None,
    *,
    class_names: Sequence[str] | None = None,
    pretrained: bool | str = False,
    init_from: str | None = None,
    weights: str | Path | None = None,
    load_weights: bool = True,
    head: str = "linear",
    dropout: float | None = None,
    in_channels: int = 3,
    stochastic_depth_prob: float = 0.2,
    grad_checkpointing: bool = False,
) -> Classifier:
    """A backbone with a fresh head, ready for transfer; or, with `num_classes=None`, the checkpoint's own classifier.

    Args:
        backbone: name, see `build_backbone`; so are pretrained, init_from, weights, load_weights,
            in_channels, stochastic_depth_prob and grad_checkpointing.
        num_classes: of the new head. None keeps the outputs that came with the weights (ImageNet's 1000, mostly).
        class_names: names of the outputs, in their order.
        head: `linear`, `mlp`, `cosine` or the import path of your own.
        dropout: before the last layer; None takes the variant's published rate.

    Raises:
        UserError: unknown names, no network, or a file that does not fit.
    """
    start = resolve_start(backbone, pretrained, init_from, weights)
    return classifier_from(
        start,
        num_classes,
        class_names=class_names,
        load_weights=load_weights,
        head=head,
        dropout=dropout,
        in_channels=in_channels,
        stochastic_depth_prob=stochastic_depth_prob,
        grad_checkpointing=grad_checkpointing,
    )


def classifier_from(
    start: Start,
    num_classes: int | None,
    *,
    class_names: Sequence[str] | None = None,
    load_weights: bool = True,
    head: str = "linear",
    dropout: float | None = None,
    in_channels: int = 3,
    stochastic_depth_prob: float = 0.2,
    grad_checkpointing: bool = False,
) -> Classifier:
    """Return the classifier of a start; the other arguments are those of `build_classifier`.

    Raises:
        UserError: no network, or a file that does not fit.
    """
    row = start.row
    keep_head = num_classes is None and load_weights
    if keep_head and (row is None or start.is_warm or head != "linear" or in_channels != 3):
        raise UserError(
            "`num_classes`=None keeps the checkpoint's own classifier: it needs pretrained weights, head='linear' and"
            f" in_channels=3 (given: weights {row.name if row else None}, head={head!r}, in_channels={in_channels})"
        )
    backbone = backbone_from(
        start,
        load_weights=load_weights and not keep_head,
        in_channels=in_channels,
        stochastic_depth_prob=stochastic_depth_prob,
        grad_checkpointing=grad_checkpointing,
    )
    state = read_weights(row, start.weights, start.row_was_named) if keep_head and row else {}
    if num_classes is None:
        given = row.num_classes if row else 1000
        num_classes = len(state["head.fc.bias"]) if "head.fc.bias" in state else given
    rate = start.variant.dropout_rate if dropout is None else dropout
    classifier = Classifier(
        backbone,
        build_head(head, backbone.num_features, num_classes, rate),
        num_classes,
        preprocessing=start.preprocessing,
        class_names=class_names,
    )
    classifier.build_arguments = {
        "backbone": start.variant.name,
        "pretrained": row.name if row and not start.is_warm else False,
        "init_from": row.name if row and start.is_warm else None,
        "head": head,
        "dropout": dropout,
        "in_channels": in_channels,
        "stochastic_depth_prob": stochastic_depth_prob,
        "grad_checkpointing": grad_checkpointing,
    }
    if state:
        strict_load(classifier, state, source=str(start.weights or (row and row.name)))
    return classifier
