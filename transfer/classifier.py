"""Backbone + pooling + head."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from transfer.backbones import build_backbone, get_backbone, read_weights, select_start
from transfer.backbones.function import FunctionBackbone
from transfer.backbones.network import Backbone
from transfer.checkpoints import strict_load
from transfer.errors import UserError
from transfer.heads import build_head


class Classifier(nn.Module):
    """A backbone, global average pooling and a replaceable head. (N, C, H, W) -> (N, num_classes).

    Attributes:
        backbone, head: the two parts; `num_features` joins them.
        num_classes: outputs of the head.
    """

    def __init__(self, backbone: Backbone | FunctionBackbone, head: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.num_classes = num_classes

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


def build_classifier(
    backbone: str,
    num_classes: int | None = None,
    *,
    pretrained: bool | str = False,
    init_from: str | None = None,
    weights: str | Path | None = None,
    load_weights: bool = True,
    head: str = "linear",
    dropout: float | None = None,
    in_channels: int = 3,
    stochastic_depth_prob: float = 0.2,
    grad_checkpointing: bool = False,
) -> Classifier:
    """A backbone with a fresh head, ready for transfer; or, with `num_classes=None`, the checkpoint's own classifier.

    Args:
        backbone: name, see `build_backbone`; so are pretrained, init_from, weights, load_weights,
            in_channels, stochastic_depth_prob and grad_checkpointing.
        num_classes: of the new head. None keeps the outputs that came with the weights (ImageNet's 1000, mostly).
        head: `linear`, `mlp`, `cosine` or the import path of your own.
        dropout: before the last layer; None takes the variant's published rate.

    Raises:
        UserError: unknown names, no network, or a file that does not fit.
    """
    variant = get_backbone(backbone)
    keep_head = num_classes is None and load_weights
    row = select_start(variant, pretrained, init_from)
    if keep_head and (row is None or init_from is not None or head != "linear" or in_channels != 3):
        raise UserError(
            "num_classes=None keeps the checkpoint's own classifier: it needs pretrained weights, head='linear' and"
            f" in_channels=3 (given: pretrained={pretrained!r}, head={head!r}, in_channels={in_channels})"
        )
    network = build_backbone(
        backbone,
        pretrained=pretrained,
        init_from=init_from,
        weights=weights,
        load_weights=load_weights and not keep_head,
        in_channels=in_channels,
        stochastic_depth_prob=stochastic_depth_prob,
        grad_checkpointing=grad_checkpointing,
    )
    state = read_weights(row, weights, row_was_named=pretrained is not True) if keep_head and row else {}
    if num_classes is None:
        given = row.num_classes if row else 1000
        num_classes = len(state["head.fc.bias"]) if "head.fc.bias" in state else given
    rate = variant.dropout_rate if dropout is None else dropout
    classifier = Classifier(network, build_head(head, network.num_features, num_classes, rate), num_classes)
    if state:
        strict_load(classifier, state, source=str(weights or pretrained))
    return classifier
