"""ResNet-50, the third baseline of the paper's Table 3: its row and its block.

Source: He et al. 2015 (arXiv 1512.03385) Table 1, with the stride in the 3x3 convolution ("v1.5", as in torchvision,
timm and transformers), to which the paper's 4.1 billion multiply-adds refer. Padding and BatchNorm constants are
torch's.
"""

from __future__ import annotations

from torch import Tensor, nn

from transfer.networks.backbone import StagedBackbone
from transfer.networks.layers import ACTIVATIONS, ConvNormAct, LayerSettings, StochasticDepth
from transfer.networks.rows import Baseline, StageRow, Variant

RESNET50 = Baseline(
    64,
    (
        StageRow(4, 3, 1, 64, 256, 3, 0.0, "bottleneck"),
        StageRow(4, 3, 2, 256, 512, 4, 0.0, "bottleneck"),
        StageRow(4, 3, 2, 512, 1024, 6, 0.0, "bottleneck"),
        StageRow(4, 3, 2, 1024, 2048, 3, 0.0, "bottleneck"),
    ),
    top_channels=None,
    settings=LayerSettings("symmetric", bn_eps=1e-5, bn_momentum=0.1, activation="relu"),
    stem_kernel_size=7,
    stem_pool=True,
)
# Counts: transformers 5.23.0, equal to torchvision's.
# name, width, depth, resolution, dropout, parameters, multiply-adds
VARIANTS = {"resnet50": Variant("resnet50", 1.0, 1.0, 224, 0.0, 25_557_032, 4_089_184_256, RESNET50)}


class Bottleneck(nn.Module):
    """1x1 convolution down, kxk, 1x1 up; added to the input, or to its projection where shapes differ.

    (N, C, H, W) -> (N, C', H/s, W/s).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the middle kernel, k.
        stride: stride of the kxk convolution, 1 or 2.
        expand_ratio: output channels relative to the inner ones.
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
        channels = out_channels // expand_ratio
        self.reduce = ConvNormAct(in_channels, channels, settings)
        self.spatial = ConvNormAct(channels, channels, settings, kernel_size, stride)
        self.project = ConvNormAct(channels, out_channels, settings, activate=False)
        has_skip = stride == 1 and in_channels == out_channels
        self.shortcut = (
            nn.Identity()
            if has_skip
            else ConvNormAct(in_channels, out_channels, settings, stride=stride, activate=False)
        )
        self.drop = StochasticDepth(drop_prob)
        self.act = ACTIVATIONS[settings.activation](inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(self.project(self.spatial(self.reduce(x)))) + self.shortcut(x))


class ResNet(StagedBackbone):
    """A network of bottleneck blocks behind a 7x7 stem and a max pooling; see `StagedBackbone`."""

    def build_block(
        self, row: StageRow, in_channels: int, stride: int, drop_prob: float, settings: LayerSettings
    ) -> nn.Module:
        return Bottleneck(
            in_channels,
            row.out_channels,
            kernel_size=row.kernel_size,
            stride=stride,
            expand_ratio=row.expand_ratio,
            drop_prob=drop_prob,
            settings=settings,
        )
