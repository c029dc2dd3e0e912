"""A backbone for detectors and segmentation: the maps of its stages, without the top convolution."""

from __future__ import annotations

from torch import Tensor, nn

from transfer.networks.backbone import FeatureInfo, StagedBackbone


class FeatureMaps(nn.Module):
    """The stages of a backbone as a module: (N, C, H, W) -> a list of maps, finest first.

    Every parameter takes part in every map's computation or in that of a later map, so that DistributedDataParallel
    works as it is (`find_unused_parameters=False`) where the loss uses the last map.

    Attributes:
        backbone: the backbone; its `top`, which no map needs, is taken out, so that `num_features` are the last map's.
        stage_channels: channels of each map.
        stage_strides: stride of each map.
    """

    def __init__(self, backbone: StagedBackbone) -> None:
        super().__init__()
        backbone.top = nn.Identity()
        backbone.num_features = backbone.stage_channels[-1]
        self.backbone = backbone
        self.stage_channels = backbone.stage_channels
        self.stage_strides = backbone.stage_strides

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.backbone.forward_stages(images)

    @property
    def feature_info(self) -> list[FeatureInfo]:
        """The maps as timm describes them; see `StagedBackbone.feature_info`."""
        return [{**info, "module": f"backbone.{info['module']}"} for info in self.backbone.feature_info]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory while training; see `StagedBackbone.set_grad_checkpointing`."""
        self.backbone.set_grad_checkpointing(enable)
