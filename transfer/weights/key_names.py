"""Key schemes of public EfficientNet checkpoints, and their translation to and from the names in `Classifier`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from transfer.errors import BadValue, DamagedFile, unknown_name

if TYPE_CHECKING:
    from transfer.networks.rows import StageRow, Variant


@dataclass(frozen=True)
class KeyScheme:
    """How a code base names the modules of an EfficientNet.

    Names may refer to `{flat}`, a block's index in the network, to `{stage}`, `{stage1}` (from 1) and `{index}`, its
    place in its stage, and to `{stages1}`, one more than there are stages.

    Args:
        block: prefix of a block.
        slots: names of MBCONV_SLOTS in a block with an expansion convolution.
        slots_without_expand: names of the same slots but the first two in a block without, where numbering may shift.
        fused_slots: names of FUSED_SLOTS; None if the code base has no fused blocks.
        fused_slots_without_expand: names of the last two of FUSED_SLOTS in a block that has only these.
    """

    stem_conv: str
    stem_norm: str
    block: str
    slots: tuple[str, ...]
    slots_without_expand: tuple[str, ...]
    fused_slots: tuple[str, ...] | None
    fused_slots_without_expand: tuple[str, ...] | None
    top_conv: str
    top_norm: str
    classifier: str


# fmt: off
MBCONV_SLOTS = (
    "expand.conv", "expand.norm", "depthwise.conv", "depthwise.norm",
    "se.reduce", "se.expand", "project.conv", "project.norm",
)
FUSED_SLOTS = ("expand.conv", "expand.norm", "project.conv", "project.norm")
# Sources: efficientnet-pytorch 0.7.1 (and the lite packages, which follow it); timm 1.0.31 efficientnet.py; torchvision
# 0.28.0 models/efficientnet.py; transformers 5.23.0 modeling_efficientnet.py; tensorflow/tpu and google/automl as
# efficientnet-pytorch's converter and effnetv2_model.py name the variables.
SCHEMES = {
    "lukemelas": KeyScheme(
        "_conv_stem", "_bn0", "_blocks.{flat}",
        ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_se_reduce", "_se_expand", "_project_conv", "_bn2"),
        ("_depthwise_conv", "_bn1", "_se_reduce", "_se_expand", "_project_conv", "_bn2"),
        None, None,
        "_conv_head", "_bn1", "_fc",
    ),
    "timm": KeyScheme(
        "conv_stem", "bn1", "blocks.{stage}.{index}",
        ("conv_pw", "bn1", "conv_dw", "bn2", "se.conv_reduce", "se.conv_expand", "conv_pwl", "bn3"),
        ("conv_dw", "bn1", "se.conv_reduce", "se.conv_expand", "conv_pw", "bn2"),
        ("conv_exp", "bn1", "conv_pwl", "bn2"), ("conv", "bn1"),
        "conv_head", "bn2", "classifier",
    ),
    "torchvision": KeyScheme(
        "features.0.0", "features.0.1", "features.{stage1}.{index}.block",
        ("0.0", "0.1", "1.0", "1.1", "2.fc1", "2.fc2", "3.0", "3.1"),
        ("0.0", "0.1", "1.fc1", "1.fc2", "2.0", "2.1"),
        ("0.0", "0.1", "1.0", "1.1"), ("0.0", "0.1"),
        "features.{stages1}.0", "features.{stages1}.1", "classifier.1",
    ),
    "transformers": KeyScheme(
        "efficientnet.embeddings.convolution", "efficientnet.embeddings.batchnorm",
        "efficientnet.encoder.blocks.{flat}",
        (
            "expansion.expand_conv", "expansion.expand_bn", "depthwise_conv.depthwise_conv",
            "depthwise_conv.depthwise_norm", "squeeze_excite.reduce", "squeeze_excite.expand",
            "projection.project_conv", "projection.project_bn",
        ),
        (
            "depthwise_conv.depthwise_conv", "depthwise_conv.depthwise_norm", "squeeze_excite.reduce",
            "squeeze_excite.expand", "projection.project_conv", "projection.project_bn",
        ),
        None, None,
        "efficientnet.encoder.top_conv", "efficientnet.encoder.top_bn", "classifier",
    ),
    "tensorflow": KeyScheme(
        "stem/conv2d", "stem/tpu_batch_normalization", "blocks_{flat}",
        (
            "conv2d", "tpu_batch_normalization", "depthwise_conv2d", "tpu_batch_normalization_1",
            "se/conv2d", "se/conv2d_1", "conv2d_1", "tpu_batch_normalization_2",
        ),
        (
            "depthwise_conv2d", "tpu_batch_normalization", "se/conv2d", "se/conv2d_1",
            "conv2d", "tpu_batch_normalization_1",
        ),
        ("conv2d", "tpu_batch_normalization", "conv2d_1", "tpu_batch_normalization_1"),
        ("conv2d", "tpu_batch_normalization"),
        "head/conv2d", "head/tpu_batch_normalization", "head/dense",
    ),
}
# A TensorFlow variable's last name -> ours, and the order of its axes in ours, by their number (TensorFlow's are HWIO,
# HWC1 for depthwise kernels and IO).
TENSORFLOW_LEAVES: dict[str, tuple[str, dict[int, tuple[int, ...]]]] = {
    "kernel": ("weight", {4: (3, 2, 0, 1), 2: (1, 0)}),
    "depthwise_kernel": ("weight", {4: (2, 3, 0, 1)}),
    "bias": ("bias", {}),
    "gamma": ("weight", {}),
    "beta": ("bias", {}),
    "moving_mean": ("running_mean", {}),
    "moving_variance": ("running_var", {}),
}
# fmt: on
EMA = "ExponentialMovingAverage"


def module_names(scheme_name: str, variant: Variant) -> dict[str, str]:
    """Return their name -> our name of every module that holds tensors, in our order; ours as in `Classifier`.

    Args:
        scheme_name: one of SCHEMES.

    Raises:
        UserError: no such scheme, or its code base cannot build this variant.
    """
    if scheme_name not in SCHEMES:
        raise unknown_name("key scheme", scheme_name, SCHEMES)
    scheme = SCHEMES[scheme_name]
    separator = "/" if scheme_name == "tensorflow" else "."
    names = {scheme.stem_conv: "backbone.stem.conv", scheme.stem_norm: "backbone.stem.norm"}
    flat = 0
    for stage, row in enumerate(variant.stages):
        slots = _block_slots(scheme, row)
        if slots is None:
            raise BadValue(f"{scheme_name} has no fused blocks, of which {variant.name} is built")
        for index in range(row.repeats):
            block = scheme.block.format(flat=flat, stage=stage, stage1=stage + 1, index=index)
            for theirs, ours in slots.items():
                names[f"{block}{separator}{theirs}"] = f"backbone.stages.{stage}.{index}.{ours}"
            flat += 1
    stages1 = len(variant.stages) + 1
    names[scheme.top_conv.format(stages1=stages1)] = "backbone.top.conv"
    names[scheme.top_norm.format(stages1=stages1)] = "backbone.top.norm"
    names[scheme.classifier] = "head.fc"
    return names


def own_modules(variant: Variant) -> set[str]:
    """Return our names of the modules in a variant's backbone that hold tensors."""
    return {name for name in module_names("timm", variant).values() if name.startswith("backbone.")}


def _block_slots(scheme: KeyScheme, row: StageRow) -> dict[str, str] | None:
    """Return their name -> our name of the modules in a block of this stage."""
    ours: tuple[str, ...] = FUSED_SLOTS if row.fused else MBCONV_SLOTS
    if row.expand_ratio == 1:
        ours = ours[2:]
        theirs = scheme.fused_slots_without_expand if row.fused else scheme.slots_without_expand
    else:
        theirs = scheme.fused_slots if row.fused else scheme.slots
    if theirs is None:
        return None
    pairs = zip(theirs, ours, strict=True)
    return {name: slot for name, slot in pairs if row.se_ratio or not slot.startswith("se.")}


# The attributes under which training modules keep a network, and what wrappers put before every name.
PREFIX_WORDS = ("net", "backbone", "encoder", "model", "module", "_orig_mod")
# The stem's kernels in a whole classifier, in a TransferModule's checkpoint and in a backbone.
OWN_STEMS = ("backbone.stem.conv.weight", "classifier.backbone.stem.conv.weight", "stem.conv.weight")


def find_prefix(keys: Iterable[str]) -> str:
    """Return what stands before the names of an EfficientNet in a larger module; empty if nothing, or none is found.

    The shortest chain of PREFIX_WORDS before a known name of the stem counts: `model.` of `model.conv_stem.weight`.
    """
    stems = (*OWN_STEMS, *(f"{scheme.stem_conv}.weight" for scheme in SCHEMES.values()))
    chain = re.compile(rf"(?:(?:{'|'.join(PREFIX_WORDS)})\.)*")
    prefixes = (key.removesuffix(stem) for key in keys for stem in stems if key.endswith(stem))
    return min(filter(chain.fullmatch, prefixes), key=len, default="")


def find_scheme(keys: Mapping[str, Tensor]) -> str | None:
    """Return the name of the scheme that the keys follow, `own` for this project's; None if unknown. The stem tells."""
    if any(stem in keys for stem in OWN_STEMS):
        return "own"
    if any(key.removesuffix(f"/{EMA}").endswith("/stem/conv2d/kernel") for key in keys):
        return "tensorflow"
    return next((name for name, scheme in SCHEMES.items() if f"{scheme.stem_conv}.weight" in keys), None)


def to_own_keys(state: Mapping[str, Tensor], variant: Variant) -> dict[str, Tensor]:
    """Return the tensors under their names in `Classifier`, from any known scheme or from our own checkpoints.

    Keys that the scheme does not know keep their names, for the strict load to report.

    Raises:
        UserError: no known scheme, or its code base cannot build this variant.
    """
    scheme = find_scheme(state)
    if scheme is None:
        raise DamagedFile(
            f"unknown key scheme: {', '.join(list(state)[:3])}, ..."
            f" (known: {', '.join(SCHEMES)}, and this project's own)"
        )
    if scheme == "own":
        whole, in_module, alone = OWN_STEMS
        if alone in state:
            return _with_counters({f"backbone.{key}": tensor for key, tensor in state.items()})
        if whole in state:
            return _with_counters(dict(state))
        prefix = in_module.removesuffix(whole)  # beside other tensors
        return _with_counters({key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)})
    names = module_names(scheme, variant)
    if scheme == "tensorflow":
        return _with_counters(_from_tensorflow(state, names))
    own = {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        own[f"{names[module]}.{leaf}" if module in names else key] = tensor
    return _with_counters(own)


def _with_counters(own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add BatchNorm's counters of batches as 0 where they are missing, as in older files and TensorFlow."""
    counters = {key.replace(".running_mean", ".num_batches_tracked") for key in own if key.endswith(".running_mean")}
    return {**own, **{key: torch.tensor(0) for key in sorted(counters - set(own))}}


def from_own_keys(state: Mapping[str, Tensor], variant: Variant, scheme: str) -> dict[str, Tensor]:
    """Return the tensors of a `Classifier` under the names of another code base; `own` leaves them.

    Args:
        scheme: `own`, or one of SCHEMES but `tensorflow`, which is only read.

    Raises:
        UserError: the code base has no place for a tensor: a head that is not linear, or fused blocks.
    """
    if scheme == "own":
        return dict(state)
    if scheme == "tensorflow":
        raise BadValue("tensorflow's checkpoints are only read; convert to another code base")
    theirs = {own: name for name, own in module_names(scheme, variant).items()}
    renamed = {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        if module not in theirs:
            raise BadValue(
                f"{scheme} has no place for {key}: only a backbone with a linear head can be converted;"
                " 'own' keeps every tensor"
            )
        renamed[f"{theirs[module]}.{leaf}"] = tensor
    return renamed


def _from_tensorflow(variables: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Rename variables `<model>/<module>/<leaf>`; moving averages replace what they average, as the released eval does.

    Optimizer slots and the step counter are left out.
    """
    own: dict[str, Tensor] = {}
    averaged = {key.removesuffix(f"/{EMA}"): tensor for key, tensor in variables.items() if key.endswith(f"/{EMA}")}
    for key, tensor in {**variables, **averaged}.items():
        module, _, leaf = key.partition("/")[2].rpartition("/")
        if leaf not in TENSORFLOW_LEAVES:
            continue
        name, axes = TENSORFLOW_LEAVES[leaf]
        if tensor.ndim in axes:
            tensor = tensor.permute(axes[tensor.ndim]).contiguous()
        own[f"{names[module]}.{name}" if module in names else key] = tensor
    return own
