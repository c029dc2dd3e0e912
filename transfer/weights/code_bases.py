"""What other code bases can build of a network, and the lines of Python that load it there with the same outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from transfer.errors import BadValue, UserError, unknown_name
from transfer.networks.rows import Variant
from transfer.weights.key_names import from_own_keys
from transfer.weights.portable import PortableNetwork
from transfer.weights.rows import family_settings, list_weights

PADDINGS = {
    "same": "TensorFlow's SAME, computed from each input's size",
    "symmetric": "kernel_size // 2 on every side",
    "static": "TensorFlow's SAME as it comes out at the variant's own resolution, for inputs of any size",
}
TORCHVISION_VARIANTS = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "v2-s", "v2-m", "v2-l")


def convert(network: PortableNetwork, to: str, allow_other_padding: bool = False) -> dict[str, Tensor]:
    """Return the network's tensors under the names of another code base, which can build it.

    Args:
        to: one of TARGETS.
        allow_other_padding: convert even if the code base can only pad otherwise, which changes the outputs.

    Raises:
        BadValue: unknown target, or its code base has no such network, head, input or padding.
    """
    if to not in TARGETS:
        raise unknown_name("`to`", to, TARGETS)
    if to != "own":
        _check_support(network, to)
    tensors = from_own_keys(network.state, network.variant, to)
    other = other_padding(network, to)
    if other is not None and not allow_other_padding:
        suited = [name for name in TARGETS if name != to and _suits(network, name)]
        raise BadValue(
            f"{describe_other_padding(network, to, other)}\n`allow_other_padding` converts anyway; the same outputs"
            f" give `to`={', '.join(suited)}"
        )
    return {key: t.detach().clone(memory_format=torch.contiguous_format) for key, t in tensors.items()}


def _suits(network: PortableNetwork, to: str) -> bool:
    try:
        if to != "own":
            _check_support(network, to)
    except UserError:
        return False
    return other_padding(network, to) is None


def _check_support(network: PortableNetwork, to: str) -> None:
    name = network.variant.name
    if not list_weights(name):
        raise BadValue(f"`to`={to}: nobody else builds a {name}; `to`=own keeps every tensor")
    lite, v2 = name.startswith("lite"), name.startswith("v2")
    if network.head not in (None, "linear"):
        raise BadValue(
            f"`to`={to}: its networks end in one linear layer; this one has the head {network.head!r}:"
            " `to`=own keeps every tensor"
        )
    if network.head is None and to != "timm":
        raise BadValue(f"`to`={to}: the source has no classifier; `to`=own and `to`=timm convert a backbone alone")
    missing = {
        "torchvision": name not in TORCHVISION_VARIANTS,
        "lukemelas": v2,
        "transformers": lite or v2,
    }
    if missing.get(to, False):
        offered = {
            "torchvision": "b0 to b7, v2-s, v2-m, v2-l",
            "lukemelas": "b0 to b8, l2, lite0 to lite4",
            "transformers": "b0 to b8, l2",
        }
        raise BadValue(f"`to`={to}: it has no {name} (it has {offered[to]}); `to`=timm has all")
    if to == "torchvision" and network.in_channels != 3:
        raise BadValue(
            f"`to`=torchvision: its networks take 3 channels, this one {network.in_channels}; `to`=timm takes any"
        )


def odd_depthwise_blocks(variant: Variant, size: int) -> list[int]:
    """Return the flat indices of the stride-2 blocks whose input has an odd side, for images of `size` pixels.

    There, and only there, TensorFlow's SAME pads both sides alike (transformers' `depthwise_padding`).
    """
    found, block, side = [], 0, -(-size // 2)
    for row in variant.stages:
        if row.stride == 2:
            found += [block] * (side % 2)
            side = -(-side // 2)
        block += row.repeats
    return found


def _same_is_static(variant: Variant, size: int) -> bool:
    """Return whether `same` at `size` pixels pads as it does at the variant's own resolution."""
    own = variant.resolution
    return size % 2 == own % 2 and odd_depthwise_blocks(variant, size) == odd_depthwise_blocks(variant, own)


def other_padding(network: PortableNetwork, to: str) -> str | None:
    """Return the other padding that the code base's network has at the size of `preprocessing`; None for the same."""
    padding, size = network.like.settings.padding, network.preprocessing.image_size
    if to == "torchvision":
        return None if padding == "symmetric" else "symmetric"
    if to == "timm":
        return "same" if padding == "static" and not _same_is_static(network.variant, size) else None
    if to == "lukemelas":
        return "same" if padding == "symmetric" else None
    if to == "transformers" and padding != "static":
        # Its stem pads for an even input; the blocks' padding can be set for any one size.
        return None if padding == "same" and size % 2 == 0 else "static"
    return None


def agrees_at_one_size(network: PortableNetwork, to: str) -> bool:
    """Return whether the outputs are the same at the size of `preprocessing`, but not at every other."""
    pair = (network.like.settings.padding, to)
    return pair in (("static", "timm"), ("same", "transformers")) and other_padding(network, to) is None


def describe_other_padding(network: PortableNetwork, to: str, other: str) -> str:
    """Return what the code base's padding does to the outputs."""
    own = network.like.settings.padding
    return (
        f"`to`={to}: this network was trained with padding {own!r} ({PADDINGS[own]}); {to}'s pads {other!r}"
        f" ({PADDINGS[other]}). Its strided convolutions would see the image shifted: every output changes, without an"
        " error, and accuracy falls."
    )


def loading_lines(network: PortableNetwork, to: str, dest: Path) -> list[str]:
    """Return the lines of Python that leave the network in `model`, in eval mode, in the target's code base."""
    return TARGETS[to](network, json.dumps(str(dest), ensure_ascii=False))


def _load_own(network: PortableNetwork, dest: str) -> list[str]:
    like, name = json.dumps(network.like.name), json.dumps(network.variant.name)
    if network.head == "linear" and network.in_channels == 3:
        return [
            "from transfer import build_classifier",
            f"model = build_classifier({name}, pretrained={like}, weights={dest}).eval()",
        ]
    channels = "" if network.in_channels == 3 else f", in_channels={network.in_channels}"
    if network.head is None:
        return [
            "from safetensors.torch import load_file",
            "from transfer import build_backbone",
            f"model = build_backbone({name}, pretrained={like}, load_weights=False{channels}).eval()",
            f"state = load_file({dest})",
            'model.load_state_dict({key.removeprefix("backbone."): tensor for key, tensor in state.items()})',
        ]
    head = "" if network.head == "linear" else f", head={json.dumps(network.head)}"
    options = f"{name}, {network.num_classes}, pretrained={like}, load_weights=False{head}{channels}"
    return [
        "from safetensors.torch import load_file",
        "from transfer import build_classifier",
        f"model = build_classifier({options}).eval()",
        f"model.load_state_dict(load_file({dest}))",
    ]


def timm_name(backbone: str) -> str:
    """Return what timm calls a network; with `tf_` before it, the one with TensorFlow's padding."""
    return (
        f"efficientnetv2_{backbone.removeprefix('v2-')}" if backbone.startswith("v2-") else f"efficientnet_{backbone}"
    )


def _load_timm(network: PortableNetwork, dest: str) -> list[str]:
    settings, name = network.like.settings, network.variant.name
    symmetric = settings.padding == "symmetric"
    base = timm_name(name)
    # timm 1.0.31 has v2-b0 to v2-b3 under TensorFlow's names alone.
    tensorflow_name = not symmetric or name.startswith("v2-b")
    options = [json.dumps(f"tf_{base}" if tensorflow_name else base), f"num_classes={network.num_classes}"]
    if network.in_channels != 3:
        options.append(f"in_chans={network.in_channels}")
    if symmetric and tensorflow_name:
        options.append('pad_type=""')
    if settings.bn_eps != (1e-3 if tensorflow_name else 1e-5):
        options.append(f"bn_eps={settings.bn_eps}")
    return ["import timm", f"model = timm.create_model({', '.join(options)}, checkpoint_path={dest}).eval()"]


def _load_torchvision(network: PortableNetwork, dest: str) -> list[str]:
    settings, name = network.like.settings, network.variant.name
    lines = ["import torch", "import torchvision", "from safetensors.torch import load_file"]
    lines.append(
        f"model = torchvision.models.efficientnet_{name.replace('-', '_')}(num_classes={network.num_classes}).eval()"
    )
    if settings.bn_eps != family_settings("torchvision", name).bn_eps:
        # Its b5 to b7 and V2 builders set norm_layer themselves and take none.
        lines += [
            "for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):",
            f"    norm.eps, norm.momentum = {settings.bn_eps}, {settings.bn_momentum}",
        ]
    return [*lines, f"model.load_state_dict(load_file({dest}))"]


def _load_lukemelas(network: PortableNetwork, dest: str) -> list[str]:
    settings, name = network.like.settings, network.variant.name
    package = "efficientnet_lite_pytorch" if name.startswith("lite") else "efficientnet_pytorch"
    options = [json.dumps(f"efficientnet-{name}"), f"num_classes={network.num_classes}"]
    if settings.padding != "static":
        options.append("image_size=None")  # pads by the input's size; unset, by the variant's resolution
    if network.in_channels != 3:
        options.append(f"in_channels={network.in_channels}")
    if settings.bn_eps != 1e-3:
        options.append(f"batch_norm_epsilon={settings.bn_eps}")
    return [
        f"from {package} import EfficientNet",
        "from safetensors.torch import load_file",
        f"model = EfficientNet.from_name({', '.join(options)}).eval()",
        f"model.load_state_dict(load_file({dest}))",
    ]


def _load_transformers(network: PortableNetwork, dest: str) -> list[str]:
    settings, variant = network.like.settings, network.variant
    one_size = agrees_at_one_size(network, "transformers")
    size = network.preprocessing.image_size if one_size else variant.resolution
    options = [
        f"image_size={size}",
        f"width_coefficient={variant.width_coefficient}",
        f"depth_coefficient={variant.depth_coefficient}",
        f"hidden_dim={variant.num_features}",
        f"depthwise_padding={odd_depthwise_blocks(variant, size)}",
        f"batch_norm_eps={settings.bn_eps}",
        f"batch_norm_momentum={settings.bn_momentum}",
        f"dropout_rate={variant.dropout_rate}",
        f"num_labels={network.num_classes}",
    ]
    if network.in_channels != 3:
        options.append(f"num_channels={network.in_channels}")
    return [
        "from safetensors.torch import load_file",
        "from transformers import EfficientNetConfig, EfficientNetForImageClassification",
        "config = EfficientNetConfig(",
        *(f"    {option}," for option in options),
        ")",
        "model = EfficientNetForImageClassification(config).eval()",
        f"model.load_state_dict(load_file({dest}))",
    ]


TARGETS: dict[str, Callable[[PortableNetwork, str], list[str]]] = {
    "own": _load_own,
    "timm": _load_timm,
    "torchvision": _load_torchvision,
    "lukemelas": _load_lukemelas,
    "transformers": _load_transformers,
}
