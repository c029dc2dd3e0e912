"""Build networks from a backbone's name (`transfer.networks.registry`) and its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, overload

import torch
from torch import nn

from transfer.errors import BadValue
from transfer.networks.backbone import Backbone, StagedBackbone
from transfer.networks.classifier import Classifier
from transfer.networks.feature_maps import FeatureMaps
from transfer.networks.function import FunctionBackbone, FunctionVariant
from transfer.networks.heads import HeadFactory, build_head, pooled_stages
from transfer.networks.layers import LayerSettings
from transfer.networks.registry import FAMILIES, get_variant
from transfer.networks.rows import Variant
from transfer.networks.warm_start import WarmStart, measure, take_over
from transfer.weights.files import check_fit, strict_load
from transfer.weights.reading import adapt_stem, read_weights
from transfer.weights.start import Start, resolve_start


def build_network(
    variant: Variant,
    settings: LayerSettings,
    in_channels: int = 3,
    stochastic_depth_prob: float = 0.2,
    grad_checkpointing: bool = False,
    output_stride: int = 32,
) -> StagedBackbone:
    """Return a network of the variant with random weights, of its family's class; arguments as in `Backbone`."""
    network = next(network for table, network in FAMILIES if variant.row.name in table)
    return network(variant, settings, in_channels, stochastic_depth_prob, grad_checkpointing, output_stride)


@overload
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
    output_stride: int = 32,
    features_only: Literal[False] = False,
) -> Backbone: ...


@overload
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
    output_stride: int = 32,
    features_only: Literal[True],
) -> FeatureMaps: ...


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
    output_stride: int = 32,
    features_only: bool = False,
) -> Backbone | FeatureMaps:
    """Return a network without its classifier: (N, in_channels, H, W) -> (N, num_features, ceil(H / 32), ceil(W / 32)).

    The network works with `torch.compile`, `torch.export`, `torch.jit.trace`, `torch.fx.symbolic_trace` and both ONNX
    exporters, each with a dynamic batch, height and width. With padding `static`, maps can be one pixel smaller if the
    parity of the input size differs from that of the variant's resolution.

    Args:
        name: one of `list_backbones()` or the import path of a function, either of them also scaled; see
            `get_backbone`. A function's network starts from random weights, takes 3 channels, has no `forward_stages`,
            cannot be checkpointed, and handles stochastic depth itself.
        phi: compound coefficient that scales the backbone: `build_backbone("b0", phi=1.5)` is `b0@phi=1.5`.
        pretrained: False: random weights. True: the default weights (see `rows.select_weights`). `paper`, or the name
            of a row: that row. The name of a family: how the file `weights` was trained. It determines padding,
            BatchNorm constants and activation. A scaled network has no pretrained weights.
        init_from: backbone (for its default weights) or row whose tensors to start from as far as they overlap, in
            place of `pretrained`; it needs the same blocks (see `transfer.networks.warm_start`).
        weights: local file to read in place of the row's own source: safetensors, PyTorch, or an `.npz` of
            TensorFlow's variables.
        load_weights: False builds what `pretrained` or `init_from` describes but leaves the tensors random, to be
            filled from a checkpoint of the whole classifier; nothing is read or downloaded.
        in_channels: number of image channels. If it is not 3, the stem's pretrained kernels are repeated over the
            channels (R, G, B, R, ...) and scaled by 3 / in_channels; for 1 channel they are summed, which is equivalent
            to feeding the grey image three times.
        stochastic_depth_prob: probability of dropping the last residual branch, in [0, 1); linearly less before it.
        grad_checkpointing: whether to recompute activations in the backward pass: less memory, more time.
        output_stride: 8, 16 or 32; below 32 the last strides become dilations, with the same weights.
        features_only: whether to return the stages without the top convolution, as a module that returns the list of
            their maps, finest first; see `FeatureMaps`.

    Raises:
        UserError: a name is unknown, a download fails, or a file does not fit.
    """
    start = resolve_start(name, pretrained, init_from, weights, phi=phi)
    backbone = backbone_from(
        start,
        load_weights=load_weights,
        in_channels=in_channels,
        stochastic_depth_prob=stochastic_depth_prob,
        grad_checkpointing=grad_checkpointing,
        output_stride=output_stride,
    )
    if not features_only:
        return backbone
    if not isinstance(backbone, StagedBackbone):
        raise BadValue(f"`features_only`=True with a function of your own, {name} (allowed: False)")
    return FeatureMaps(backbone)


def backbone_from(
    start: Start,
    *,
    load_weights: bool = True,
    in_channels: int = 3,
    stochastic_depth_prob: float = 0.2,
    grad_checkpointing: bool = False,
    output_stride: int = 32,
) -> Backbone:
    """Return the backbone of a start; the other arguments are those of `build_backbone`.

    Raises:
        UserError: a download fails, or a file does not fit.
    """
    variant, row = start.variant, start.row
    if isinstance(variant, FunctionVariant):
        for option, given, allowed in (
            ("in_channels", in_channels, 3),
            ("grad_checkpointing", grad_checkpointing, False),
            ("output_stride", output_stride, 32),
        ):
            if given != allowed:
                raise BadValue(f"`{option}`={given} with a function of your own, {variant.name} (allowed: {allowed})")
        return FunctionBackbone(variant)
    settings = row.settings if row else variant.settings
    backbone = build_network(variant, settings, in_channels, stochastic_depth_prob, grad_checkpointing, output_stride)
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
    """Return how much of the backbone comes from `init_from`; None without it."""
    if not start.is_warm:
        return None
    assert isinstance(start.variant, Variant) and start.row is not None
    settings = start.row.settings
    with torch.device("meta"):
        origin = build_network(get_variant(start.row.backbone), settings)
        return measure(build_network(start.variant, settings), origin)


def build_classifier(
    backbone: str,
    num_classes: int | None = None,
    *,
    class_names: Sequence[str] | None = None,
    pretrained: bool | str = False,
    init_from: str | None = None,
    weights: str | Path | None = None,
    load_weights: bool = True,
    head: str | HeadFactory | nn.Module = "linear",
    dropout: float | None = None,
    in_channels: int = 3,
    stochastic_depth_prob: float = 0.2,
    grad_checkpointing: bool = False,
    output_stride: int = 32,
) -> Classifier:
    """Return a backbone with a new head or, with `num_classes=None`, the checkpoint's own classifier.

    Args:
        backbone: name of the backbone; see `build_backbone`, also for pretrained, init_from, weights, load_weights,
            in_channels, stochastic_depth_prob, grad_checkpointing and output_stride.
        num_classes: number of classes of the new head, at least 1; None keeps the classes of the weights (usually
            ImageNet's 1000).
        class_names: names of the classes, in the order of the logits.
        head: `linear`, `mlp`, `cosine`, `stages`, or your own as an import path, a class or a module; see `build_head`.
        dropout: dropout before the last layer, in [0, 1); None takes the variant's published rate.

    Raises:
        UserError: a name is unknown, a download fails, or a file does not fit.
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
        output_stride=output_stride,
    )


def classifier_from(
    start: Start,
    num_classes: int | None,
    *,
    class_names: Sequence[str] | None = None,
    load_weights: bool = True,
    head: str | HeadFactory | nn.Module = "linear",
    dropout: float | None = None,
    in_channels: int = 3,
    stochastic_depth_prob: float = 0.2,
    grad_checkpointing: bool = False,
    output_stride: int = 32,
) -> Classifier:
    """Return the classifier of a start; the other arguments are those of `build_classifier`.

    Raises:
        UserError: a download fails, or a file does not fit.
    """
    row = start.row
    keep_head = num_classes is None and load_weights
    if keep_head and (row is None or start.is_warm or head != "linear" or in_channels != 3):
        raise BadValue(
            "`num_classes`=None keeps the checkpoint's own classifier: it needs pretrained weights, head='linear' and"
            f" in_channels=3 (given: weights {row.name if row else None}, head={head!r}, in_channels={in_channels})"
        )
    backbone = backbone_from(
        start,
        load_weights=load_weights and not keep_head,
        in_channels=in_channels,
        stochastic_depth_prob=stochastic_depth_prob,
        grad_checkpointing=grad_checkpointing,
        output_stride=output_stride,
    )
    backbone.set_pooled_stages(pooled_stages(head))
    state = read_weights(row, start.weights, start.row_was_named) if keep_head and row else {}
    if num_classes is None:
        num_classes = len(state["head.fc.bias"]) if "head.fc.bias" in state else (row.num_classes if row else 1000)
    rate = start.variant.dropout_rate if dropout is None else dropout
    classifier = Classifier(
        backbone,
        build_head(head, backbone.num_features, num_classes, rate),
        num_classes,
        preprocessing=start.preprocessing.grey() if in_channels == 1 else start.preprocessing,
        class_names=class_names,
    )
    if isinstance(head, str):
        classifier.build_arguments = {
            "backbone": start.variant.name,
            "pretrained": row.name if row and not start.is_warm else False,
            "init_from": row.name if row and start.is_warm else None,
            "head": head,
            "dropout": dropout,
            "in_channels": in_channels,
            "stochastic_depth_prob": stochastic_depth_prob,
            "grad_checkpointing": grad_checkpointing,
            "output_stride": output_stride,
        }
    if state:
        strict_load(classifier, state, source=str(start.weights or (row and row.name)))
    return classifier
