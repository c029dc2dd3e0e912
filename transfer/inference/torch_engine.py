"""PyTorch: BatchNorm folded, channels_last, in float32 or bfloat16, on the network's device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from transfer.inference.folding import folded
from transfer.networks.backbone import Backbone


class TorchEngine:
    """A copy of a network that computes in one precision. (N, C, H, W) -> its outputs, float32.

    Args:
        name: `torch` or `torch-bf16`.
        network: the network; it stays as it is.
        examples: images as the network takes them. None uses the network itself, unfolded, as `torch`.
    """

    def __init__(self, name: str, network: nn.Module, examples: Tensor | None = None) -> None:
        self.name = name
        self.dtype = torch.bfloat16 if name == "torch-bf16" else torch.float32
        if examples is None:
            self.network = network
            return
        self.network = folded(network, examples).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its types
        if self.dtype == torch.bfloat16:
            _round(self.network)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        return self.network(images.to(self.dtype, memory_format=torch.channels_last)).float()


def _round(network: nn.Module) -> None:
    """Make the network compute in bfloat16; what follows a backbone of ours, pooling and head, stays float32."""
    backbones = [module for module in network.modules() if isinstance(module, Backbone)]
    if not backbones:
        network.to(torch.bfloat16)
    for backbone in backbones:
        backbone.to(torch.bfloat16).register_forward_hook(_to_float)


def _to_float(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.float()
