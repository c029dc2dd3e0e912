"""MobileNetV1 and V2, further baselines of the paper (Tan & Le 2019, Table 3): their rows, and V1's block.

Sources: Howard et al. 2017 (arXiv 1704.04861) Table 1, whose last depthwise layer has stride 1 in the released code;
Sandler et al. 2018 (arXiv 1801.04381) Table 2; relu6 and TensorFlow's padding and BatchNorm epsilon from the released
code (tensorflow/models research/slim/nets/mobilenet), BatchNorm momentum as in EfficientNet's.
"""

from __future__ import annotations

from torch import Tensor, nn

from transfer.networks.backbone import StagedBackbone
from transfer.networks.layers import ConvNormAct, LayerSettings, MBConv
from transfer.networks.rows import Baseline, StageRow, Variant

RELU6 = LayerSettings(activation="relu6")
V1 = Baseline(
    32,
    (
        StageRow(1, 3, 1, 32, 64, 1, 0.0, "separable"),
        StageRow(1, 3, 2, 64, 128, 2, 0.0, "separable"),
        StageRow(1, 3, 2, 128, 256, 2, 0.0, "separable"),
        StageRow(1, 3, 2, 256, 512, 6, 0.0, "separable"),
        StageRow(1, 3, 2, 512, 1024, 2, 0.0, "separable"),
    ),
    top_channels=None,
    settings=RELU6,
)
V2 = Baseline(
    32,
    (
        StageRow(1, 3, 1, 32, 16, 1, 0.0),
        StageRow(6, 3, 2, 16, 24, 2, 0.0),
        StageRow(6, 3, 2, 24, 32, 3, 0.0),
        StageRow(6, 3, 2, 32, 64, 4, 0.0),
        StageRow(6, 3, 1, 64, 96, 3, 0.0),
        StageRow(6, 3, 2, 96, 160, 3, 0.0),
        StageRow(6, 3, 1, 160, 320, 1, 0.0),
    ),
    settings=RELU6,
)
# Counts: transformers 5.23.0. Dropout as EfficientNet-B0's, with which Table 3 compares them.
# name, width, depth, resolution, dropout, parameters, multiply-adds
VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("mobilenet-v1", 1.0, 1.0, 224, 0.2, 4_231_976, 568_740_352, V1),
        Variant("mobilenet-v2", 1.0, 1.0, 224, 0.2, 3_504_872, 300_774_272, V2),
    )
}


class SeparableConv(nn.Module):
    """Depthwise and 1x1 convolution, each with norm and activation; no skip. (N, C, H, W) -> (N, C', H/s, W/s)."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int, stride: int, settings: LayerSettings
    ) -> None:
        super().__init__()
        self.depthwise = ConvNormAct(in_channels, in_channels, settings, kernel_size, stride, groups=in_channels)
        self.project = ConvNormAct(in_channels, out_channels, settings)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.depthwise(x))


class MobileNet(StagedBackbone):
    """V1, of separable convolutions, and V2, of MBConv blocks without squeeze-excitation; see `StagedBackbone`."""

    def build_block(
        self, row: StageRow, in_channels: int, stride: int, drop_prob: float, settings: LayerSettings
    ) -> nn.Module:
        if row.operator == "separable":
            return SeparableConv(
                in_channels, row.out_channels, kernel_size=row.kernel_size, stride=stride, settings=settings
            )
        return MBConv(
            in_channels,
            row.out_channels,
            kernel_size=row.kernel_size,
            stride=stride,
            expand_ratio=row.expand_ratio,
            se_ratio=row.se_ratio,
            drop_prob=drop_prob,
            settings=settings,
        )
