"""EfficientNet b0-b8, l2, lite and V2: tables of rows, and the class that builds their blocks.

Sources: Tan & Le 2019 (arXiv 1905.11946) Table 1; coefficients and construction from tensorflow/tpu
models/official/efficientnet (efficientnet_builder.py, efficientnet_lite_builder.py); Tan & Le 2021 (arXiv 2104.00298)
and google/automl efficientnetv2.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from transfer.networks.backbone import StagedBackbone
from transfer.networks.layers import FusedMBConv, LayerSettings, MBConv
from transfer.networks.rows import Baseline, Operator, StageRow, Variant

# Paper Table 1 (strides from the released code): stages 2 to 8.
B0 = Baseline(
    32,
    (
        StageRow(1, 3, 1, 32, 16, 1),
        StageRow(6, 3, 2, 16, 24, 2),
        StageRow(6, 5, 2, 24, 40, 2),
        StageRow(6, 3, 2, 40, 80, 3),
        StageRow(6, 5, 1, 80, 112, 3),
        StageRow(6, 5, 2, 112, 192, 4),
        StageRow(6, 3, 1, 192, 320, 1),
    ),
)
# tensorflow/tpu efficientnet_lite_builder.py: no squeeze-excitation, relu6, fixed ends.
LITE0 = replace(
    B0,
    stages=tuple(replace(row, se_ratio=0.0) for row in B0.stages),
    settings=LayerSettings(activation="relu6"),
    scale_ends=False,
)


def _v2(stem_channels: int, *stages: tuple[int, int]) -> Baseline:
    """Return an EfficientNetV2 from the (repeats, channels) of its stages; the rest is common to all of them.

    Source: google/automl efficientnetv2 (effnetv2_configs.py, effnetv2_model.py).
    """
    rows = []
    in_channels = stem_channels
    expand_ratios_strides = ((1, 1), (4, 2), (4, 2), (4, 2), (6, 1), (6, 2), (6, 1))
    for index, ((repeats, channels), (expand_ratio, stride)) in enumerate(
        zip(stages, expand_ratios_strides, strict=False)
    ):
        operator: Operator = "fused" if index < 3 else "mbconv"
        se_ratio = 0.0 if operator == "fused" else 0.25
        rows.append(StageRow(expand_ratio, 3, stride, in_channels, channels, repeats, se_ratio, operator))
        in_channels = channels
    return Baseline(stem_channels, tuple(rows), settings=LayerSettings(bn_momentum=0.1), keep=0.0)


V2_B0 = _v2(32, (1, 16), (2, 32), (2, 48), (3, 96), (5, 112), (8, 192))
V2_S = _v2(24, (2, 24), (4, 48), (4, 64), (6, 128), (9, 160), (15, 256))
V2_M = _v2(24, (3, 24), (5, 48), (5, 80), (7, 160), (14, 176), (18, 304), (5, 512))
V2_L = _v2(32, (4, 32), (7, 64), (7, 96), (10, 192), (19, 224), (25, 384), (7, 640))
V2_XL = _v2(32, (4, 32), (8, 64), (8, 96), (16, 192), (24, 256), (32, 512), (8, 640))


# Coefficients: tensorflow/tpu efficientnet_builder.py and efficientnet_lite_builder.py, google/automl
# effnetv2_configs.py. Counts: efficientnet-pytorch 0.7.1 and efficientnet-lite-pytorch 0.1.0, equal to torchvision's
# and timm's; V2 torchvision 0.28.0 and timm 1.0.31.
# name, width, depth, resolution, dropout, parameters, multiply-adds
VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("b0", 1.0, 1.0, 224, 0.2, 5_288_548, 385_814_752, B0),
        Variant("b1", 1.0, 1.1, 240, 0.2, 7_794_184, 686_802_832, B0),
        Variant("b2", 1.1, 1.2, 260, 0.3, 9_109_994, 993_561_872, B0),
        Variant("b3", 1.2, 1.4, 300, 0.3, 12_233_232, 1_827_141_392, B0),
        Variant("b4", 1.4, 1.8, 380, 0.4, 19_341_616, 4_393_771_024, B0),
        Variant("b5", 1.6, 2.2, 456, 0.4, 30_389_784, 10_266_384_752, B0),
        Variant("b6", 1.8, 2.6, 528, 0.5, 43_040_704, 19_067_593_536, B0),
        Variant("b7", 2.0, 3.1, 600, 0.5, 66_347_960, 37_745_884_192, B0),
        Variant("b8", 2.2, 3.6, 672, 0.5, 87_413_142, 62_597_461_568, B0),
        Variant("l2", 4.3, 5.3, 800, 0.5, 480_309_308, 475_703_653_280, B0),
        Variant("lite0", 1.0, 1.0, 224, 0.2, 4_652_008, 385_187_552, LITE0),
        Variant("lite1", 1.0, 1.1, 240, 0.2, 5_416_680, 600_185_232, LITE0),
        Variant("lite2", 1.1, 1.2, 260, 0.3, 6_092_072, 859_736_272, LITE0),
        Variant("lite3", 1.2, 1.4, 280, 0.3, 8_197_096, 1_383_321_872, LITE0),
        Variant("lite4", 1.4, 1.8, 300, 0.3, 13_006_568, 2_553_034_336, LITE0),
        Variant("v2-b0", 1.0, 1.0, 224, 0.2, 7_139_704, 718_086_176, V2_B0),
        Variant("v2-b1", 1.0, 1.1, 240, 0.2, 8_141_052, 1_196_819_360, V2_B0),
        Variant("v2-b2", 1.1, 1.2, 260, 0.3, 10_096_086, 1_697_542_832, V2_B0),
        Variant("v2-b3", 1.2, 1.4, 300, 0.3, 14_358_406, 3_011_458_816, V2_B0),
        Variant("v2-s", 1.0, 1.0, 384, 0.2, 21_458_488, 8_365_617_152, V2_S),
        Variant("v2-m", 1.0, 1.0, 480, 0.3, 54_139_356, 24_582_460_384, V2_M),
        Variant("v2-l", 1.0, 1.0, 480, 0.4, 118_515_272, 56_079_699_008, V2_L),
        Variant("v2-xl", 1.0, 1.0, 512, 0.4, 208_119_808, 93_353_451_520, V2_XL),
    )
}


class EfficientNet(StagedBackbone):
    """A network of MBConv and fused blocks; see `StagedBackbone`."""

    def build_block(
        self, row: StageRow, in_channels: int, stride: int, drop_prob: float, settings: LayerSettings
    ) -> nn.Module:
        if row.fused:
            return FusedMBConv(
                in_channels,
                row.out_channels,
                kernel_size=row.kernel_size,
                stride=stride,
                expand_ratio=row.expand_ratio,
                drop_prob=drop_prob,
                settings=settings,
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
