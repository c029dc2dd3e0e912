"""The building blocks of EfficientNet: convolution + norm + activation, squeeze-excitation, MBConv, fused MBConv.

Shapes: N batch, C channels, H and W height and width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from transfer.networks.backward import DepthwiseConv2d, SiLU, spatial_mean

Padding = Literal["same", "symmetric", "static"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": SiLU, "relu6": nn.ReLU6, "relu": nn.ReLU}


@dataclass(frozen=True)
class LayerSettings:
    """Settings that change a network's outputs but cannot be read from its checkpoint; a row of the weights sets them.

    Args:
        padding: `same` is TensorFlow's rule (an even input with stride 2 gets its extra pixel at the bottom and right);
            `symmetric` is `kernel_size // 2` on every side (torchvision and timm's own training); `static` applies to
            every input the padding that `same` yields at the variant's own resolution (Keras and transformers).
        bn_eps: epsilon of every BatchNorm.
        bn_momentum: weight of the new batch, as in torch (TensorFlow's momentum is one minus this).
        activation: `silu`, `relu6` or `relu`.
    """

    padding: Padding = "same"
    bn_eps: float = 1e-3
    bn_momentum: float = 0.01
    activation: str = "silu"


class SamePadConv2d(nn.Conv2d):
    """Convolution with TensorFlow's `SAME` padding: the output size is ceil(input size / stride).

    The total padding is (ceil(i / s) - 1) * s + k - i pixels, where k is the dilated kernel's size and at least s; the
    odd pixel goes to the bottom and right. It is arithmetic on the input's size without a branch, so that a trace or an
    export holds for every size.

    Attributes:
        static_size: height and width i in the formula for every input; None uses the input's own.
    """

    static_size: int | None = None

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        top, bottom = self._pads(self.static_size or input.shape[-2], axis=0)
        left, right = self._pads(self.static_size or input.shape[-1], axis=1)
        return super()._conv_forward(F.pad(input, (left, right, top, bottom)), weight, bias)

    def _pads(self, size: int, axis: int) -> tuple[int, int]:
        stride, kernel = self.stride[axis], self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
        total = (size - 1) // stride * stride + kernel - size  # positive operands: ONNX divides towards zero
        return total // 2, total - total // 2


class SamePadDepthwiseConv2d(SamePadConv2d, DepthwiseConv2d):
    """Both: it pads as the one and convolves as the other."""


def build_conv(
    in_channels: int, out_channels: int, kernel_size: int, stride: int, groups: int, padding: Padding
) -> nn.Conv2d:
    """Return a convolution without bias. With stride 1 and an odd kernel all padding rules agree."""
    depthwise = groups == in_channels > 1
    if padding != "symmetric" and 1 < stride <= kernel_size:
        same = SamePadDepthwiseConv2d if depthwise else SamePadConv2d
        return same(in_channels, out_channels, kernel_size, stride, groups=groups, bias=False)
    conv = DepthwiseConv2d if depthwise else nn.Conv2d
    return conv(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)


class ConvNormAct(nn.Module):
    """Convolution, BatchNorm and, unless `activate` is false, an activation. (N, C, H, W) -> (N, C', H/s, W/s).

    Attributes:
        fold_norm: see `fold_norms`.
    """

    fold_norm: bool = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        settings: LayerSettings,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        activate: bool = True,
    ) -> None:
        super().__init__()
        self.conv = build_conv(in_channels, out_channels, kernel_size, stride, groups, settings.padding)
        self.norm = nn.BatchNorm2d(out_channels, eps=settings.bn_eps, momentum=settings.bn_momentum)
        self.act = ACTIVATIONS[settings.activation](inplace=True) if activate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.fold_norm and not self.norm.training and torch.is_grad_enabled():
            return self.act(self.conv._conv_forward(x, *self._folded()))
        return self.act(self.norm(self.conv(x)))

    def _folded(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the convolution that does what `conv` and `norm` in evaluation mode do."""
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None and variance is not None
        scale = self.norm.weight * (variance + self.norm.eps).rsqrt()
        return self.conv.weight * scale[:, None, None, None], self.norm.bias - mean * scale


def fold_norms(module: nn.Module, fold: bool = True) -> None:
    """Let training compute each convolution and its BatchNorm in evaluation mode as one convolution, or stop that.

    The backward pass then keeps the folded weights in place of each convolution's output (arXiv 2305.11624). Weight,
    scale and shift get their gradients as before; outputs and gradients are the same to rounding, but hooks of the two
    modules are not called. Without gradients, as in evaluation, and with the batch's own statistics nothing changes.
    """
    for layer in module.modules():
        if isinstance(layer, ConvNormAct):
            layer.fold_norm = fold


class SqueezeExcitation(nn.Module):
    """Channel gate: mean over H and W, two 1x1 convolutions with bias, sigmoid. The shape is unchanged.

    As in the released code, `reduced_channels` is a share of the block's input before expansion, not rounded to 8.
    """

    def __init__(self, channels: int, reduced_channels: int, activation: str) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, reduced_channels, 1)
        self.act = ACTIVATIONS[activation](inplace=True)
        self.expand = nn.Conv2d(reduced_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = spatial_mean(x)
        return x * self.expand(self.act(self.reduce(gate))).sigmoid()


class StochasticDepth(nn.Module):
    """Drop a residual branch per sample while training and divide the survivors by the probability of keeping.

    `drop_prob`, in [0, 1), is TensorFlow's `drop_connect_rate`, timm's `drop_path_rate` and one minus the paper's
    survival probability.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_prob == 0.0:
            return x
        keep_prob = 1.0 - self.drop_prob
        mask = torch.empty((x.shape[0], 1, 1, 1), dtype=x.dtype, device=x.device).bernoulli_(keep_prob)
        return x * mask.div_(keep_prob)

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob:.4g}"


class MBConv(nn.Module):
    """Inverted residual block: 1x1 expand, depthwise, squeeze-excitation, 1x1 project; a skip where shapes allow.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the depthwise kernel.
        stride: stride of the depthwise convolution, 1 or 2.
        expand_ratio: inner channels relative to `in_channels`; 1 means no expansion convolution.
        se_ratio: squeeze-excitation's channels relative to `in_channels`, in [0, 1]; 0 means none (the lite family).
        drop_prob: probability of dropping this block's residual branch.
        settings: padding, BatchNorm constants and activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int,
        expand_ratio: int,
        se_ratio: float,
        drop_prob: float,
        settings: LayerSettings,
    ) -> None:
        super().__init__()
        channels = in_channels * expand_ratio
        self.expand = ConvNormAct(in_channels, channels, settings) if expand_ratio != 1 else nn.Identity()
        self.depthwise = ConvNormAct(channels, channels, settings, kernel_size, stride, groups=channels)
        self.se = (
            SqueezeExcitation(channels, max(1, int(in_channels * se_ratio)), settings.activation)
            if se_ratio
            else nn.Identity()
        )
        self.project = ConvNormAct(channels, out_channels, settings, activate=False)
        self.has_skip = stride == 1 and in_channels == out_channels
        self.drop = StochasticDepth(drop_prob)

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.se(self.depthwise(self.expand(x))))
        return self.drop(out) + x if self.has_skip else out


class FusedMBConv(nn.Module):
    """EfficientNetV2's block for early stages: a kxk convolution replaces expansion and depthwise; 1x1 project.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the kernel, k.
        stride: stride of the kxk convolution, 1 or 2.
        expand_ratio: inner channels relative to `in_channels`; 1 means a kxk convolution with an activation, and no
            projection.
        drop_prob: probability of dropping this block's residual branch.
        settings: padding, BatchNorm constants and activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int,
        expand_ratio: int,
        drop_prob: float,
        settings: LayerSettings,
    ) -> None:
        super().__init__()
        self.expand: nn.Module
        if expand_ratio == 1:
            self.expand = nn.Identity()
            self.project = ConvNormAct(in_channels, out_channels, settings, kernel_size, stride)
        else:
            channels = in_channels * expand_ratio
            self.expand = ConvNormAct(in_channels, channels, settings, kernel_size, stride)
            self.project = ConvNormAct(channels, out_channels, settings, activate=False)
        self.has_skip = stride == 1 and in_channels == out_channels
        self.drop = StochasticDepth(drop_prob)

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.expand(x))
        return self.drop(out) + x if self.has_skip else out


@contextmanager
def untracked_batch_norm(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of every BatchNorm in train mode fixed; it still normalises with the batch.

    Use it wherever a batch passes through the network a second time: gradient checkpointing, diagnostics.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    buffers = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        # Copies take the update. Without `track_running_stats` the backward pass would save other tensors, which
        # gradient checkpointing refuses, and SyncBatchNorm needs `num_batches_tracked`.
        norm._buffers.update({name: b if b is None else b.clone() for name, b in norm._buffers.items()})
    try:
        yield
    finally:
        for norm, own in zip(norms, buffers, strict=True):
            norm._buffers.update(own)
