"""Outputs, gradients and transformations of layers with their own backward pass against torch's; the kernels taken."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from transfer.networks.backward import DepthwiseConv2d, SiLU, spatial_mean
from transfer.networks.layers import SamePadConv2d, build_conv

SIZES = [(9, 9), (8, 8), (8, 11), (2, 3), (1, 1)]


class Plain(nn.Module):
    """`conv` as torch computes it."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        if isinstance(conv, SamePadConv2d):
            (top, bottom), (left, right) = conv._pads(x.shape[-2], 0), conv._pads(x.shape[-1], 1)
            x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def gradients(module: nn.Module, x: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    """Return the gradients of a sum with random weights with respect to the input and the parameters."""
    x = x.detach().requires_grad_()
    y = module(x)
    weights = torch.randn(y.shape, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    return list(torch.autograd.grad(y, (x, *parameters), weights.to(y.dtype, memory_format=torch.channels_last)))


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_outputs_and_gradients_are_those_of_torch(kernel: int, stride: int, padding: str, dilation: int) -> None:
    conv = build_conv(4, 4, kernel, stride, 4, padding).double()  # type: ignore[arg-type]
    assert isinstance(conv, DepthwiseConv2d)
    conv.dilation = (dilation, dilation)
    for height, width in SIZES:
        x = torch.randn(2, 4, height + 6 * (dilation - 1), width + 6 * (dilation - 1), dtype=torch.double)
        assert torch.equal(conv(x), Plain(conv)(x))
        pairs = zip(gradients(conv, x, [conv.weight]), gradients(Plain(conv), x, [conv.weight]), strict=True)
        for own, expected in pairs:
            torch.testing.assert_close(own, expected, rtol=0, atol=1e-12)


def test_a_bias_and_a_channel_multiplier_have_their_gradients() -> None:
    conv = DepthwiseConv2d(3, 6, 5, padding=2, groups=3).double()
    assert conv.bias is not None
    x, parameters = torch.randn(2, 3, 7, 6, dtype=torch.double), [conv.weight, conv.bias]
    for own, expected in zip(gradients(conv, x, parameters), gradients(Plain(conv), x, parameters), strict=True):
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_frozen_weight_and_an_input_without_gradients_have_none(stride: int) -> None:
    conv = build_conv(4, 4, 5, stride, 4, "same")
    conv(torch.randn(2, 4, 8, 8)).sum().backward()
    assert conv.weight.grad is not None
    conv.weight.requires_grad_(False).grad = None
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    conv(x).sum().backward()
    assert conv.weight.grad is None and x.grad is not None


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_under_autocast_gradients_are_as_exact_as_those_of_torch(kernel: int, stride: int) -> None:
    conv = build_conv(16, 16, kernel, stride, 16, "same")
    x = torch.randn(4, 16, 15, 15).to(memory_format=torch.channels_last)
    double = copy.deepcopy(conv).double()
    exact = gradients(Plain(double), x.double(), [double.weight])
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
        own, theirs = gradients(conv, x, [conv.weight]), gradients(Plain(conv), x, [conv.weight])
    for ours, torchs, expected in zip(own, theirs, exact, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - expected).norm() <= 1.1 * (torchs - expected).norm() <= 0.01 * expected.norm()


def test_it_has_second_derivatives_and_a_forward_mode() -> None:
    conv = build_conv(2, 2, 5, 2, 2, "symmetric").double()
    x = torch.randn(1, 2, 5, 4, dtype=torch.double, requires_grad=True)

    def convolve(x: Tensor, weight: Tensor) -> Tensor:
        return conv._conv_forward(x, weight, None)

    assert torch.autograd.gradcheck(convolve, (x, conv.weight), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(convolve, (x, conv.weight))


def test_function_transforms_go_through_it() -> None:
    conv = build_conv(4, 4, 5, 2, 4, "same").double()
    x = torch.randn(3, 4, 8, 7, dtype=torch.double)

    def loss(weight: Tensor, image: Tensor) -> Tensor:
        return torch.func.functional_call(conv, {"weight": weight}, (image[None],)).square().sum()

    per_image = torch.func.vmap(torch.func.grad(loss), (None, 0))(conv.weight.detach(), x)
    for own, image in zip(per_image, x, strict=True):
        expected = torch.autograd.grad(Plain(conv)(image[None]).square().sum(), conv.weight)[0]
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-12)


def trainable() -> nn.Module:
    return nn.Sequential(build_conv(4, 4, 5, 2, 4, "same"), build_conv(4, 4, 3, 1, 4, "symmetric"))


def test_recorded_it_is_the_convolution_of_torch() -> None:
    network, x = trainable(), torch.randn(2, 4, 9, 8)
    trace, program, graph = torch.jit.trace(network, x), torch.export.export(network, (x,)), fx.symbolic_trace(network)
    assert str(trace.inlined_graph).count("aten::_convolution") == 2
    assert sum(node.target is torch.ops.aten.conv2d.default for node in program.graph.nodes) == 2
    assert sum(node.target is torch.conv2d for node in graph.graph.nodes) == 2
    for recorded in (trace, program.module(), graph):
        torch.testing.assert_close(recorded(x), network(x), rtol=0, atol=1e-6)


def test_compiled_it_trains_in_one_graph_with_the_same_gradients() -> None:
    network, x = trainable(), torch.randn(2, 4, 9, 8)
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    expected = torch.autograd.grad(network(x).square().sum(), list(network.parameters()))
    own = torch.autograd.grad(compiled(x).square().sum(), list(network.parameters()))
    torch.testing.assert_close(own, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "size"), [(3, 15), (5, 15), (5, 2)])
def test_the_backward_pass_takes_the_fast_kernel(
    kernel: int, size: int, stride: int, padding: str, dtype: torch.dtype, capfd: pytest.CaptureFixture[str]
) -> None:
    native = {torch.float32: torch.backends.cpu.get_cpu_capability() == "AVX512",
              torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported()}  # fmt: skip
    if not native[dtype]:
        pytest.skip("the kernels of other processors have other names")
    conv = build_conv(32, 32, kernel, stride, 32, padding).to(dtype)  # type: ignore[arg-type]
    x = torch.randn(2, 32, size, size, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    y = conv(x)
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        y.sum().backward()
    calls = [line.split(",")[5:8] for line in capfd.readouterr().out.splitlines() if ",exec,cpu,convolution," in line]
    assert {kind for _, _, kind in calls} == {"backward_data", "backward_weights"}
    assert {implementation.split(":")[0] for _, implementation, _ in calls} == {"jit_dw"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_spatial_mean_has_the_output_and_gradient_of_torch_without_a_map_of_it(dtype: torch.dtype) -> None:
    x = torch.randn(2, 8, 5, 4).to(dtype, memory_format=torch.channels_last).requires_grad_()
    own, expected = spatial_mean(x), x.mean((2, 3), keepdim=True)
    assert torch.equal(own, expected)
    weights = torch.randn_like(own)
    (gradient,) = torch.autograd.grad(own, x, weights)
    assert torch.equal(gradient, torch.autograd.grad(expected, x, weights)[0])
    assert gradient.untyped_storage().nbytes() == own.nbytes


def test_a_spatial_mean_has_second_derivatives_a_forward_mode_and_transforms() -> None:
    x = torch.randn(2, 2, 3, 2, dtype=torch.double, requires_grad=True)

    def squared(x: Tensor) -> Tensor:
        return spatial_mean(x).square()

    assert torch.autograd.gradcheck(squared, (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(squared, (x,))
    per_image = torch.func.vmap(torch.func.grad(lambda image: squared(image[None]).sum()))(x.detach())
    torch.testing.assert_close(per_image, torch.autograd.grad(squared(x).sum(), x)[0])


def test_recorded_a_spatial_mean_is_that_of_torch() -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return spatial_mean(x)

    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    assert "aten::mean" in str(torch.jit.trace(Mean(), x).graph)
    assert torch.ops.aten.mean.dim in {node.target for node in torch.export.export(Mean(), (x,)).graph.nodes}
    assert "mean" in {node.target for node in fx.symbolic_trace(Mean()).graph.nodes}


class Operations(TorchDispatchMode):
    """Names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_silu_copies_nothing_for_gradients_and_works_in_place_without() -> None:
    x = torch.randn(2, 3, 4, 4)
    with Operations() as training:
        out = SiLU(inplace=True)(x.clone().requires_grad_() * 1)
    assert training.names == ["aten.clone.default", "aten.mul.Tensor", "aten.silu.default"]
    torch.testing.assert_close(out, F.silu(x), rtol=0, atol=0)
    with torch.no_grad():
        y = x.clone()
        assert SiLU(inplace=True)(y).data_ptr() == y.data_ptr()
