"""Layers whose backward pass avoids detours of torch and oneDNN. Outputs are torch's own, bit for bit, and gradients
the same up to rounding.

ONEDNN_VERBOSE=1 names the kernels of oneDNN that run; `python -m benchmarks cpu_training` measures a training step.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[int, int]

COLUMNS = 3  # of the widest kernel whose weight gradient oneDNN computes fast


def runs_eagerly(input: Tensor) -> bool:
    """Whether operations on `input` run now with gradients, rather than being recorded by a compiler or an exporter."""
    recorded = torch.compiler.is_compiling() or type(input) is not Tensor or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return not recorded and torch.is_grad_enabled()


class SiLU(nn.SiLU):
    """`nn.SiLU`, in place only where no gradients are wanted: they need the input, which torch would first copy."""

    def forward(self, input: Tensor) -> Tensor:
        return F.silu(input, inplace=self.inplace and not runs_eagerly(input))


def spatial_mean(input: Tensor) -> Tensor:
    """Return the mean over H and W, (N, C, H, W) -> (N, C, 1, 1)."""
    if runs_eagerly(input):
        return _SpatialMean.apply(input)  # type: ignore[no-untyped-call]
    return input.mean((2, 3), keepdim=True)


class _SpatialMean(torch.autograd.Function):
    """A mean whose gradient is a view of one number per map. Torch's is as large as the maps, and contiguous."""

    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor) -> Tensor:
        return input.mean((2, 3), keepdim=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return (grads[0] / math.prod(ctx.shape[2:])).expand(ctx.shape)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _SpatialMean.forward(*tangents)


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` with a group per input channel, whose backward pass on a CPU takes oneDNN's fast kernels.

    On other devices, without gradients, with dilation, and wherever operations are recorded it is `nn.Conv2d` itself.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if runs_eagerly(input) and input.device.type == "cpu" and self.dilation == (1, 1):
            return _DepthwiseConvolution.apply(input, weight, bias, self.stride, self.padding)  # type: ignore[no-untyped-call]
        return super()._conv_forward(input, weight, bias)


class _DepthwiseConvolution(torch.autograd.Function):
    """`conv2d` whose backward pass avoids two kernels of oneDNN that are many times slower than its others.

    - The weight gradient of a kernel of more than three columns is that of narrower kernels side by side, each on the
      part of the padded input that it sees.
    - The input gradient of a strided convolution in bfloat16 is computed in float32.

    The fast kernel is `jit_dw`; the slow ones are `jit`, `jit_bf16` and `brgconv_strided`.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
        return F.conv2d(input, weight, bias, stride, padding, groups=input.shape[1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, weight, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(input, weight)
        ctx.save_for_forward(input, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        input, weight = (saved.to(grad.dtype) for saved in ctx.saved_tensors)  # the output's type, which autocast chose
        needs_input, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        return (
            _input_gradient(grad, input, weight, ctx.stride, ctx.padding) if needs_input else None,
            _weight_gradient(grad, input, weight, ctx.stride, ctx.padding) if needs_weight else None,
            grad.sum((0, 2, 3)) if needs_bias else None,
            *(None, None),
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        input, weight = ctx.saved_tensors
        input_tangent, weight_tangent, bias_tangent, *_ = tangents
        settings = {"stride": ctx.stride, "padding": ctx.padding, "groups": input.shape[1]}
        return F.conv2d(input_tangent, weight, **settings) + F.conv2d(input, weight_tangent, bias_tangent, **settings)


def _input_gradient(grad: Tensor, input: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    dtype = torch.float32 if grad.dtype == torch.bfloat16 and stride != (1, 1) else grad.dtype
    like_input = torch.empty_like(input, dtype=dtype)  # only its shape matters
    return _gradients(grad.to(dtype), like_input, weight.to(dtype), stride, padding, (True, False))[0].to(grad.dtype)


def _weight_gradient(grad: Tensor, input: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    if weight.shape[-1] <= COLUMNS:
        return _gradients(grad, input, weight, stride, padding, (False, True))[1]
    padded = F.pad(input, (padding[1], padding[1], padding[0], padding[0])) if any(padding) else input
    reach = (grad.shape[-1] - 1) * stride[1]  # from the first position of a kernel's column to its last
    blocks = []
    for first in range(0, weight.shape[-1], COLUMNS):
        block = weight[..., first : first + COLUMNS]
        seen = padded[..., first : first + reach + block.shape[-1]]
        blocks.append(_gradients(grad, seen, block, stride, (0, 0), (False, True))[1])
    return torch.cat(blocks, -1)


def _gradients(
    grad: Tensor, input: Tensor, weight: Tensor, stride: Pair, padding: Pair, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """Return the gradients of `conv2d` with respect to its input and weight; those not wanted are undefined."""
    return torch.ops.aten.convolution_backward(
        grad, input, weight, None, stride, padding, (1, 1), False, (0, 0), input.shape[1], (*wanted, False)
    )[:2]
