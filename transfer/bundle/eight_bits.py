"""What of a network goes into 8 bits: its weights, and its activations where that costs little."""

from __future__ import annotations

from typing import Literal

from torch import nn

from transfer.networks.backward import SiLU
from transfer.networks.layers import SqueezeExcitation

Parts = Literal["weights", "weights and activations"]


def parts_in_8_bits(network: nn.Module) -> Parts:
    """Return what 8 bits hold of a network: the weights alone where a backbone in it has SiLU or squeeze-excitation.

    SiLU's outputs are unbounded above and close to 0 below, and gates scale whole channels, so that 256 values for
    all channels of a layer are too coarse: EfficientNet-B0 falls from 76.97% to 71.71% on ImageNet (TensorRT 8.4's
    quantisation toolkit). Weights alone are as small a file; arithmetic, and so the time, is float32's.
    """
    gated = any(isinstance(module, SiLU | SqueezeExcitation) for module in network.modules())
    return "weights" if gated else "weights and activations"
