"""Fold BatchNorm into the layer before it: in evaluation it only scales and shifts that layer's output channels."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_weights
from torch.nn.utils.parametrize import is_parametrized

# Of the largest output. Folding changes the last digits of float32.
_TOLERANCE = 1e-3


class _LayerTracer(fx.Tracer):
    """Follows a network down to its layers, subclasses of torch's included."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | nn.Linear | _BatchNorm) or super().is_leaf_module(m, module_qualified_name)


@torch.no_grad()
def folded(network: nn.Module, examples: Tensor) -> nn.Module:
    """Return a copy of the network in eval mode, with every BatchNorm folded that only one layer feeds.

    Args:
        network: any network; it stays as it is.
        examples: images (N, C, H, W) on the network's device. Where the copy's outputs differ, it stays unfolded.
    """
    copy = deepcopy(network).eval().requires_grad_(False)
    pairs = list(_pairs(deepcopy(copy)))
    expected = copy(examples[:2])
    for layer_name, norm_name in pairs:
        layer, norm = copy.get_submodule(layer_name), copy.get_submodule(norm_name)
        assert isinstance(norm, _BatchNorm)
        if isinstance(layer, nn.Linear):
            layer.weight, layer.bias = _fused_linear(layer, norm)
        else:
            assert isinstance(layer, nn.Conv2d)
            copy.set_submodule(layer_name, fuse_conv_bn_eval(layer, norm))
        copy.set_submodule(norm_name, nn.Identity())
    difference = (copy(examples[:2]) - expected).abs().max()
    if difference > _TOLERANCE * expected.abs().max():
        return deepcopy(network).eval().requires_grad_(False)
    return copy


def _fused_linear(layer: nn.Linear, norm: _BatchNorm) -> tuple[nn.Parameter, nn.Parameter]:
    assert norm.running_mean is not None and norm.running_var is not None
    scale = torch.ones_like(norm.running_mean) if norm.weight is None else norm.weight
    shift = torch.zeros_like(norm.running_mean) if norm.bias is None else norm.bias
    return fuse_linear_bn_weights(layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, scale, shift)


def _pairs(network: nn.Module, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the names of each layer and of the BatchNorm that alone takes its output.

    What cannot be traced, for a branch that depends on an image, is searched child by child.
    """
    try:
        graph = _LayerTracer().trace(network)
    except Exception:  # a network of the user's own raises what it likes
        for name, child in network.named_children():
            yield from _pairs(child, f"{prefix}{name}.")
        return
    calls = [node for node in graph.nodes if node.op == "call_module"]
    times = [node.target for node in calls]
    for node in calls:
        feeder = node.args[0] if node.args else None
        if not isinstance(feeder, fx.Node) or feeder not in calls or len(feeder.users) > 1:
            continue
        layer, norm = network.get_submodule(str(feeder.target)), network.get_submodule(str(node.target))
        if times.count(feeder.target) == times.count(node.target) == 1 and _fits(layer, norm):
            yield f"{prefix}{feeder.target}", f"{prefix}{node.target}"


def _fits(layer: nn.Module, norm: nn.Module) -> bool:
    if not isinstance(layer, nn.Conv2d | nn.Linear) or not isinstance(norm, _BatchNorm) or norm.running_mean is None:
        return False
    touched = is_parametrized(layer) or any(m._forward_hooks or m._forward_pre_hooks for m in (layer, norm))
    channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return not touched and channels == norm.num_features
