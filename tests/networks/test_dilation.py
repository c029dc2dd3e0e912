"""Finer maps from the same weights: strides that become dilations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from transfer.errors import UserError
from transfer.networks.backbone import StagedBackbone
from transfer.networks.efficientnet import LITE0, V2_B0, EfficientNet
from transfer.networks.layers import LayerSettings
from transfer.networks.mobilenet import V1, MobileNet
from transfer.networks.resnet import RESNET50, ResNet
from transfer.networks.rows import Baseline, Variant
from transfer.weights.build import build_backbone, build_classifier

# Without squeeze-excitation, whose means differ where there are more cells.
KINDS: dict[str, tuple[type[StagedBackbone], Baseline, str]] = {
    "lite": (EfficientNet, LITE0, "same"),
    "lite static": (EfficientNet, LITE0, "static"),
    "lite symmetric": (EfficientNet, LITE0, "symmetric"),
    "mobilenet": (MobileNet, V1, "same"),
    "resnet": (ResNet, RESNET50, "symmetric"),
}


def pair(kind: str, size: int, output_stride: int) -> tuple[StagedBackbone, StagedBackbone]:
    """The same weights with stride 32 and with another."""
    family, baseline, padding = KINDS[kind]
    settings = LayerSettings(padding, activation=baseline.settings.activation)  # type: ignore[arg-type]
    variant = Variant("tiny", 0.25, 0.5, size, 0.2, 0, 0, baseline)
    strided, dilated = family(variant, settings), family(variant, settings, output_stride=output_stride)
    dilated.load_state_dict(strided.state_dict())
    return strided.eval(), dilated.eval()


def cells_of_strides(size: int, strides: int, symmetric: bool) -> Tensor:
    """Where on an axis of `size` cells the centres of so many kernels with stride 2, one after another, stand.

    TensorFlow's rule puts them on the odd cells of an even axis, symmetric padding always on the even ones.
    """
    cells = torch.arange(size)
    for _ in range(strides):
        cells = cells[1::2] if len(cells) % 2 == 0 and not symmetric else cells[::2]
    return cells


@pytest.mark.parametrize(("output_stride", "removed"), [(16, 1), (8, 2)])
@pytest.mark.parametrize("size", [64, 65, 96, 104])
@pytest.mark.parametrize("kind", KINDS)
def test_the_strided_map_is_a_subset_of_the_dilated_ones_cells(
    kind: str, size: int, output_stride: int, removed: int
) -> None:
    strided, dilated = pair(kind, size, output_stride)
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected, finer = strided(x), dilated(x)
    cells = -(-size // output_stride)
    assert finer.shape == (2, strided.num_features, cells, cells)
    chosen = cells_of_strides(cells, removed, KINDS[kind][2] == "symmetric")
    assert expected.std() > 0
    torch.testing.assert_close(finer[:, :, chosen][:, :, :, chosen], expected, rtol=1e-4, atol=1e-5)


# timm's `output_stride`: the stage's first kernel keeps the dilation before it. b0's depthwise kernels by stage.
@pytest.mark.parametrize(
    ("output_stride", "expected"),
    [
        (32, [[1], [1, 1], [1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1, 1], [1]]),
        (16, [[1], [1, 1], [1, 1], [1, 1, 1], [1, 1, 1], [1, 2, 2, 2], [2]]),
        (8, [[1], [1, 1], [1, 1], [1, 2, 2], [2, 2, 2], [2, 4, 4, 4], [4]]),
    ],
)
def test_the_dilations_of_b0_are_timms(output_stride: int, expected: list[list[int]]) -> None:
    with torch.device("meta"):
        backbone = build_backbone("b0", output_stride=output_stride)
    assert [[block.depthwise.conv.dilation[0] for block in stage] for stage in backbone.stages] == expected
    strides = [stage[0].depthwise.conv.stride[0] for stage in backbone.stages]
    assert strides == [1, 2, 2, 2 if output_stride > 8 else 1, 1, 2 if output_stride > 16 else 1, 1]
    for stage in backbone.stages:
        for block in stage:
            conv = block.depthwise.conv
            if conv.padding != (0, 0):
                assert conv.padding[0] == conv.dilation[0] * (conv.kernel_size[0] // 2)


@pytest.mark.parametrize("output_stride", [16, 8])
@pytest.mark.parametrize("name", ["b0", "v2-s", "mobilenet-v2", "resnet50"])
def test_stages_say_their_strides(name: str, output_stride: int) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name, output_stride=output_stride).eval()
        maps = backbone.forward_stages(torch.empty(1, 3, 97, 160))
        top = backbone(torch.empty(1, 3, 97, 160))
    assert backbone.stage_strides == {16: (2, 4, 8, 16, 16), 8: (2, 4, 8, 8, 8)}[output_stride]
    assert [info["reduction"] for info in backbone.feature_info] == list(backbone.stage_strides)
    assert [m.shape[2:] for m in maps] == [(-(-97 // s), -(-160 // s)) for s in backbone.stage_strides]
    assert top.shape[2:] == maps[-1].shape[2:] and backbone.output_stride == output_stride


def test_pretrained_weights_fit() -> None:
    dilated = build_classifier("lite0", 5, pretrained=True, output_stride=16)
    plain = build_classifier("lite0", 5, pretrained=True)
    torch.testing.assert_close(dilated.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert dilated.eval().forward_features(torch.randn(1, 3, 64, 64)).shape == (1, 1280, 4, 4)


def test_a_block_whose_stride_went_gets_no_skip() -> None:
    """At this width stride-2 blocks keep their channels; a skip would change what pretrained weights compute."""
    variant = Variant("narrow", 0.05, 0.3, 32, 0.2, 0, 0, V2_B0)
    strided, dilated = (EfficientNet(variant, LayerSettings(), output_stride=stride) for stride in (32, 8))
    skips = [[m.has_skip for m in net.modules() if hasattr(m, "has_skip")] for net in (strided, dilated)]
    assert skips[0] == skips[1]
    assert any(row.stride == 2 and row.in_channels == row.out_channels for row in variant.stages)


@pytest.mark.parametrize("output_stride", [4, 12, 64])
def test_another_output_stride_is_refused(output_stride: int) -> None:
    with pytest.raises(UserError, match=rf"`output_stride`={output_stride} \(allowed: 8, 16, 32\)"):
        build_backbone("b0", output_stride=output_stride)


def test_an_undilated_network_is_as_it_was() -> None:
    convs = [m for m in build_backbone("b0").modules() if isinstance(m, nn.Conv2d)]
    assert {conv.dilation for conv in convs} == {(1, 1)} and sum(conv.stride == (2, 2) for conv in convs) == 5
