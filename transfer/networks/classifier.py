"""Backbone + pooling + head."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from transfer.networks.backbone import Backbone
from transfer.networks.function import FunctionBackbone
from transfer.networks.heads import build_head
from transfer.preprocessing import Preprocessing


class Classifier(nn.Module):
    """A backbone, global average pooling and a replaceable head. (N, C, H, W) -> (N, num_classes).

    Attributes:
        backbone, head: the two parts; `num_features` joins them.
        num_classes: outputs of the head.
    """

    def __init__(
        self,
        backbone: Backbone | FunctionBackbone,
        head: nn.Module,
        num_classes: int,
        *,
        preprocessing: Preprocessing | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.num_classes = num_classes
        self.preprocessing = preprocessing
        self.class_names = None if class_names is None else tuple(class_names)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """Pooled features (N, num_features)."""
        return self.backbone(images).mean((2, 3))

    def reset_head(self, num_classes: int, head: str = "linear", dropout: float | None = None) -> None:
        """Replaces the head by a fresh one on the backbone's device, for another set of classes.

        Args:
            num_classes: of the new head.
            head: `linear`, `mlp`, `cosine` or an import path.
            dropout: None takes the variant's published rate.
        """
        rate = self.backbone.variant.dropout_rate if dropout is None else dropout
        new = build_head(head, self.backbone.num_features, num_classes, rate)
        parameter = next(self.backbone.parameters())
        self.head = new.to(parameter.device, parameter.dtype)
        self.num_classes = num_classes

    def freeze(self) -> None:
        """Only the head learns: the backbone's parameters get no gradient and its BatchNorm statistics stay.

        The statistics stay as long as the backbone is in eval mode: after `classifier.train()` call `freeze()` again,
        or use the `FreezeBackbone` callback, which does.
        """
        self.backbone.requires_grad_(False)
        self.backbone.eval()

    def unfreeze(self) -> None:
        """Everything learns again."""
        self.backbone.requires_grad_(True)
        self.backbone.train(self.training)
