"""Padding, gates, stochastic depth and skips of the building blocks."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transfer.networks.layers import (
    ConvNormAct,
    FusedMBConv,
    LayerSettings,
    MBConv,
    SamePadConv2d,
    SqueezeExcitation,
    StochasticDepth,
    build_conv,
    fold_norms,
    untracked_batch_norm,
)

# TensorFlow's SAME with stride 2: pixels before and after an axis of that size.
SAME_PADS = {(8, 3): (0, 1), (7, 3): (1, 1), (8, 5): (1, 2), (7, 5): (2, 2), (2, 3): (0, 1), (1, 5): (2, 2)}


def build_block(in_channels: int = 8, out_channels: int = 8, stride: int = 1, drop_prob: float = 0.0) -> MBConv:
    return MBConv(
        in_channels, out_channels, kernel_size=3, stride=stride, expand_ratio=6, se_ratio=0.25, drop_prob=drop_prob,
        settings=LayerSettings(),
    )  # fmt: skip


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 7), (8, 7), (7, 8)])
def test_same_padding_puts_the_odd_pixel_at_the_bottom_and_right(height: int, width: int, kernel: int) -> None:
    conv = build_conv(4, 4, kernel, 2, 4, "same")
    x = torch.randn(2, 4, height, width)
    padded = F.pad(x, (*SAME_PADS[width, kernel], *SAME_PADS[height, kernel]))
    torch.testing.assert_close(conv(x), F.conv2d(padded, conv.weight, stride=2, groups=4))


@pytest.mark.parametrize(("size", "kernel"), [(2, 3), (1, 5)])
def test_same_padding_of_inputs_smaller_than_the_kernel(size: int, kernel: int) -> None:
    conv = build_conv(1, 1, kernel, 2, 1, "same")
    x = torch.randn(1, 1, size, size)
    padded = F.pad(x, SAME_PADS[size, kernel] * 2)
    torch.testing.assert_close(conv(x), F.conv2d(padded, conv.weight, stride=2))


@pytest.mark.parametrize("size", [1, 2, 7, 8, 33])
def test_same_padding_gives_the_input_size_over_the_stride_rounded_up(size: int) -> None:
    assert build_conv(1, 1, 5, 2, 1, "same")(torch.zeros(1, 1, size, size)).shape[-2:] == ((size + 1) // 2,) * 2


@pytest.mark.parametrize(("static_size", "pads"), [(8, (1, 2)), (7, (2, 2))])
@pytest.mark.parametrize("size", [11, 12])
def test_a_static_size_decides_the_padding_of_every_input(size: int, static_size: int, pads: tuple[int, int]) -> None:
    conv = build_conv(4, 4, 5, 2, 4, "static")
    assert isinstance(conv, SamePadConv2d) and conv.static_size is None
    conv.static_size = static_size
    x = torch.randn(2, 4, size, size)
    torch.testing.assert_close(conv(x), F.conv2d(F.pad(x, pads * 2), conv.weight, stride=2, groups=4))


def test_without_a_static_size_static_padding_is_same() -> None:
    static, same = build_conv(1, 1, 3, 2, 1, "static"), build_conv(1, 1, 3, 2, 1, "same")
    static.load_state_dict(same.state_dict())
    for x in (torch.randn(1, 1, 8, 8), torch.randn(1, 1, 7, 7)):
        torch.testing.assert_close(static(x), same(x))


def test_symmetric_padding_differs_from_same_at_even_sizes_only() -> None:
    same, symmetric = build_conv(1, 1, 3, 2, 1, "same"), build_conv(1, 1, 3, 2, 1, "symmetric")
    symmetric.load_state_dict(same.state_dict())
    even, odd = torch.randn(1, 1, 8, 8), torch.randn(1, 1, 7, 7)
    torch.testing.assert_close(symmetric(even), F.conv2d(F.pad(even, (1, 1, 1, 1)), same.weight, stride=2))
    assert not torch.allclose(symmetric(even), same(even))
    torch.testing.assert_close(symmetric(odd), same(odd))


def test_settings_reach_batch_norm_and_activation() -> None:
    layer = ConvNormAct(3, 8, LayerSettings(bn_eps=1e-5, bn_momentum=0.3, activation="relu6"))
    assert (layer.norm.eps, layer.norm.momentum, type(layer.act)) == (1e-5, 0.3, nn.ReLU6)


def test_relu6_cuts_at_six() -> None:
    layer = ConvNormAct(1, 1, LayerSettings(activation="relu6")).eval()
    nn.init.constant_(layer.conv.weight, 100.0)
    assert layer(torch.ones(1, 1, 1, 1)).item() == 6.0


def test_the_gate_counts_its_channels_from_the_unexpanded_input_unrounded() -> None:
    # Paper table 1 with the released rule max(1, int(0.25 * input)): b0's stages, first and other blocks.
    for channels, reduced in ((32, 8), (16, 4), (24, 6), (40, 10), (80, 20), (112, 28), (192, 48), (2, 1)):
        block = build_block(channels, channels)
        assert block.se.reduce.weight.shape == (reduced, 6 * channels, 1, 1)
        assert block.se.expand.weight.shape == (6 * channels, reduced, 1, 1)


def test_squeeze_excitation_scales_channels_by_a_sigmoid_of_their_means() -> None:
    gate = SqueezeExcitation(4, 2, "silu")
    x = torch.randn(3, 4, 5, 5)
    hidden = F.silu(x.mean((2, 3)) @ gate.reduce.weight[:, :, 0, 0].T + gate.reduce.bias)
    scale = torch.sigmoid(hidden @ gate.expand.weight[:, :, 0, 0].T + gate.expand.bias)
    torch.testing.assert_close(gate(x), x * scale[:, :, None, None])


def test_stochastic_depth_drops_whole_samples_at_its_rate() -> None:
    out = StochasticDepth(0.3).train()(torch.ones(20_000, 2, 2, 2)).flatten(1)
    assert (out == out[:, :1]).all()
    assert (out[:, 0] == 0).float().mean().item() == pytest.approx(0.3, abs=0.013)  # four standard deviations


def test_stochastic_depth_divides_survivors_by_the_keep_probability() -> None:
    out = StochasticDepth(0.2).train()(torch.ones(500, 1, 1, 1))
    assert set(out.flatten().tolist()) == {0.0, 1.25}


def test_stochastic_depth_is_the_identity_in_evaluation() -> None:
    x = torch.randn(2, 1, 1, 1)
    assert StochasticDepth(0.9).eval()(x) is x


@pytest.mark.parametrize(
    ("in_channels", "out_channels", "stride", "skips"), [(8, 8, 1, True), (8, 8, 2, False), (8, 16, 1, False)]
)
def test_a_block_adds_its_input_only_where_shapes_allow(
    in_channels: int, out_channels: int, stride: int, skips: bool
) -> None:
    block = build_block(in_channels, out_channels, stride).eval()
    nn.init.zeros_(block.project.norm.weight)
    x = torch.randn(2, in_channels, 8, 8)
    expected = x if skips else torch.zeros(2, out_channels, 8 // stride, 8 // stride)
    torch.testing.assert_close(block(x), expected)


def test_a_dropped_block_passes_its_input_on() -> None:
    block = build_block(drop_prob=1.0 - 1e-9).train()
    x = torch.randn(4, 8, 8, 8)
    torch.testing.assert_close(block(x), x)


def test_a_block_does_not_write_into_its_input() -> None:
    x = torch.randn(2, 8, 8, 8)
    before = x.clone()
    build_block().eval()(x)
    torch.testing.assert_close(x, before, rtol=0, atol=0)


def test_the_projection_has_no_activation() -> None:
    block = build_block(8, 16).eval()
    nn.init.zeros_(block.project.norm.weight)
    nn.init.constant_(block.project.norm.bias, -1.0)
    assert (block(torch.randn(2, 8, 8, 8)) == -1.0).all()


def build_fused(
    expand_ratio: int, in_channels: int = 8, out_channels: int = 8, stride: int = 1, drop_prob: float = 0.0
) -> FusedMBConv:
    return FusedMBConv(
        in_channels, out_channels, kernel_size=3, stride=stride, expand_ratio=expand_ratio, drop_prob=drop_prob,
        settings=LayerSettings(),
    )  # fmt: skip


def test_a_fused_block_without_expansion_is_one_convolution_with_activation() -> None:
    block = build_fused(1, 8, 16).eval()
    assert [tuple(m.weight.shape) for m in block.modules() if isinstance(m, nn.Conv2d)] == [(16, 8, 3, 3)]
    x = torch.randn(2, 8, 9, 9)
    normed = F.conv2d(x, block.project.conv.weight, padding=1) / (1.0 + 1e-3) ** 0.5
    torch.testing.assert_close(block(x), F.silu(normed))


def test_a_fused_block_with_expansion_ends_in_a_linear_projection() -> None:
    block = build_fused(4, 8, 16, stride=2).eval()
    kernels = [(tuple(m.weight.shape), m.stride) for m in block.modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [((32, 8, 3, 3), (2, 2)), ((16, 32, 1, 1), (1, 1))]
    x = torch.randn(2, 8, 8, 8)
    scale = (1.0 + 1e-3) ** -0.5
    hidden = F.silu(F.conv2d(F.pad(x, (0, 1, 0, 1)), block.expand.conv.weight, stride=2) * scale)
    torch.testing.assert_close(block(x), F.conv2d(hidden, block.project.conv.weight) * scale)


@pytest.mark.parametrize("expand_ratio", [1, 4])
@pytest.mark.parametrize(
    ("in_channels", "out_channels", "stride", "skips"), [(8, 8, 1, True), (8, 8, 2, False), (8, 16, 1, False)]
)
def test_a_fused_block_adds_its_input_only_where_shapes_allow(
    in_channels: int, out_channels: int, stride: int, skips: bool, expand_ratio: int
) -> None:
    block = build_fused(expand_ratio, in_channels, out_channels, stride).eval()
    nn.init.zeros_(block.project.norm.weight)
    x = torch.randn(2, in_channels, 8, 8)
    expected = x if skips else torch.zeros(2, out_channels, 8 // stride, 8 // stride)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("expand_ratio", [1, 4])
def test_a_fused_block_drops_its_branch_for_whole_samples(expand_ratio: int) -> None:
    block = build_fused(expand_ratio, drop_prob=0.5).eval()
    x = torch.randn(64, 8, 4, 4)
    branch = block(x) - x
    block.drop.train()
    out = block(x)
    dropped = (out == x).flatten(1).all(1)
    assert 16 < dropped.sum() < 48
    torch.testing.assert_close(out[~dropped], (x + 2.0 * branch)[~dropped])


@pytest.mark.parametrize("expand_ratio", [1, 4])
def test_a_fused_block_does_not_write_into_its_input(expand_ratio: int) -> None:
    x = torch.randn(2, 8, 8, 8)
    before = x.clone()
    build_fused(expand_ratio).eval()(x)
    torch.testing.assert_close(x, before, rtol=0, atol=0)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(3), nn.BatchNorm1d(3), nn.SyncBatchNorm(3)], ids=["2d", "1d", "sync"])
def test_untracked_batch_norm_normalises_with_the_batch_but_keeps_its_statistics(norm: nn.Module) -> None:
    norm.train()
    x = 5.0 + 2.0 * torch.randn(16, 3, *([4, 4] if isinstance(norm, nn.BatchNorm2d) else []))
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    with untracked_batch_norm(norm):
        out = norm(x)
    torch.testing.assert_close(norm.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(out, norm(x))
    assert norm.num_batches_tracked == 1


def test_untracked_batch_norm_ends_also_after_an_error() -> None:
    norm = nn.BatchNorm2d(3)
    with pytest.raises(ZeroDivisionError), untracked_batch_norm(norm):
        raise ZeroDivisionError
    norm(torch.ones(2, 3, 4, 4))
    torch.testing.assert_close(norm.running_mean, torch.full((3,), 0.1))
    assert norm.num_batches_tracked == 1


def build_frozen(kernel: int = 1, stride: int = 1, depthwise: bool = False, **settings: str) -> ConvNormAct:
    """A layer in float64 whose norm is in evaluation mode, with statistics, scale and shift of its own."""
    channels = 4
    layer = ConvNormAct(4, channels, LayerSettings(**settings), kernel, stride, channels if depthwise else 1).double()
    with torch.no_grad():
        for tensor in (layer.norm.running_mean, layer.norm.running_var, layer.norm.weight, layer.norm.bias):
            tensor.copy_(0.5 + torch.rand(channels, dtype=torch.float64))
    layer.norm.eval()
    return layer


def value_and_gradients(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    out = network(x)
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    network_gradients = {name: p.grad for name, p in network.named_parameters()}
    return {"out": out.detach(), "x": x.grad, **network_gradients}


def kept_bytes(layer: nn.Module, x: Tensor) -> int:
    """Bytes of maps that the backward pass keeps."""
    maps: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.ndim == 4 and tensor.shape[0] == len(x):
            maps[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = layer(x)
    assert out.requires_grad
    return sum(maps.values())


@pytest.mark.parametrize("settings", [{}, {"padding": "symmetric", "activation": "relu6"}], ids=["same", "symmetric"])
@pytest.mark.parametrize(
    ("kernel", "stride", "depthwise"), [(1, 1, False), (3, 2, False), (3, 1, True), (5, 2, True), (5, 1, True)]
)
def test_a_folded_norm_gives_the_same_output_and_gradients(
    kernel: int, stride: int, depthwise: bool, settings: dict[str, str]
) -> None:
    layer = build_frozen(kernel, stride, depthwise, **settings)
    x = torch.randn(3, 4, 9, 8, dtype=torch.float64)
    folded = copy.deepcopy(layer)
    fold_norms(folded)
    expected, found = value_and_gradients(layer, x), value_and_gradients(folded, x)
    assert found.keys() == expected.keys() == {"out", "x", "conv.weight", "norm.weight", "norm.bias"}
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert folded.state_dict().keys() == layer.state_dict().keys()


def test_a_folded_norm_keeps_one_map_less_for_the_backward_pass() -> None:
    layer = build_frozen(activation="relu6")
    x = torch.randn(3, 4, 9, 8, dtype=torch.float64)
    assert kept_bytes(layer, x) == 3 * x.nbytes  # the input, the convolution's output and the activation's
    fold_norms(layer)
    assert kept_bytes(layer, x) == 2 * x.nbytes


def test_without_gradients_or_with_the_batchs_statistics_no_norm_is_folded() -> None:
    layer = build_frozen()
    x = torch.randn(3, 4, 9, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = layer(x)
        fold_norms(layer)
        assert torch.equal(layer(x), expected)
    layer.norm.train()
    out = layer.conv(x)
    mean, variance = out.mean((0, 2, 3), keepdim=True), out.var((0, 2, 3), correction=0, keepdim=True)
    scale, shift = (p[:, None, None] for p in (layer.norm.weight, layer.norm.bias))
    torch.testing.assert_close(layer(x), nn.functional.silu((out - mean) / (variance + 1e-3).sqrt() * scale + shift))


def test_a_folded_layer_compiles_in_one_graph() -> None:
    layer = build_frozen(3, 2)
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    expected = layer(x)
    fold_norms(layer)
    torch.testing.assert_close(torch.compile(layer, backend="eager", fullgraph=True)(x), expected)
