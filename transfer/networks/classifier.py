"""Backbone + pooling + head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from transfer.errors import BadValue
from transfer.networks.backbone import Backbone, FeatureInfo, StagedBackbone
from transfer.networks.backward import spatial_mean
from transfer.networks.heads import HeadFactory, build_head, pooled_stages
from transfer.preprocessing import Preprocessing


class Classifier(nn.Module):
    """A backbone, global average pooling and a replaceable head. (N, C, H, W) -> (N, num_classes).

    Attributes:
        backbone: the network without its classifier.
        head: pooled features (N, num_features) -> logits (N, num_classes).
        num_features: channels of the backbone's map, and so the head's inputs.
        num_classes: outputs of the head.
        preprocessing: how images must be prepared for the backbone; None where nobody said.
        class_names: names of the outputs, in their order; None where nobody said.
        threshold: probability from which on a label is given, if an image may have several; None where nobody said.
        build_arguments: arguments of `build_classifier` that build a network of this form again, as plain types; None
            if it was not built by name.

    Raises:
        UserError: as many names as there are no classes.
    """

    def __init__(
        self,
        backbone: Backbone,
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
        self.class_names = _checked_names(class_names, num_classes)
        self.threshold: float | None = None
        self.build_arguments: dict[str, Any] | None = None

    @property
    def num_features(self) -> int:
        return self.backbone.num_features

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.forward_head(self.forward_features(images), pre_logits=True))

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, num_classes) and the pooled features (N, num_features) that the head makes them of."""
        features = self.forward_head(self.forward_features(images), pre_logits=True)
        return self.head(features), features

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the backbone's map. (N, C, H, W) -> (N, num_features, h, w)."""
        return self.backbone(images)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool the backbone's map and classify it.

        Args:
            features: map of `forward_features`. Shape: (N, num_features, h, w)
            pre_logits: stop before the head.

        Returns:
            Logits (N, num_classes), or pooled features (N, num_features).
        """
        pooled = spatial_mean(features).flatten(1)
        return pooled if pre_logits else self.head(pooled)

    @property
    def feature_info(self) -> list[FeatureInfo]:
        """The backbone's maps as timm describes them.

        Raises:
            UserError: the backbone is a function of the user's own, whose stages are unknown here.
        """
        if not isinstance(self.backbone, StagedBackbone):
            raise BadValue(f"{self.backbone.variant.name} is a function of your own: its stages are unknown here")
        return self.backbone.feature_info

    def get_classifier(self) -> nn.Module:
        """Return the head (timm's word)."""
        return self.head

    def reset_classifier(self, num_classes: int, class_names: Sequence[str] | None = None) -> None:
        """Replace the head by a fresh linear one (timm's word); see `reset_head`."""
        self.reset_head(num_classes, class_names=class_names)

    def reset_head(
        self,
        num_classes: int,
        head: str | HeadFactory | nn.Module = "linear",
        dropout: float | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        """Replace the head by a fresh one on the backbone's device, for another set of classes.

        Args:
            num_classes: outputs of the new head, at least 1.
            head: `linear`, `mlp`, `cosine`, `stages`, an import path, or a class or module of your own (`build_head`).
            dropout: probability in [0, 1) before the last layer; None takes the variant's published rate.
            class_names: names of the new classes.

        Raises:
            UserError: see `build_head`, or as many names as there are no classes.
        """
        names = _checked_names(class_names, num_classes)
        rate = self.backbone.variant.dropout_rate if dropout is None else dropout
        self.backbone.set_pooled_stages(pooled_stages(head))
        new = build_head(head, self.num_features, num_classes, rate)
        parameter = next(self.backbone.parameters())
        self.head = new.to(parameter.device, parameter.dtype)
        self.num_classes = num_classes
        self.class_names = names
        self.threshold = None
        if self.build_arguments is not None:
            known = isinstance(head, str)
            self.build_arguments = {**self.build_arguments, "head": head, "dropout": dropout} if known else None

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory while training; see `Backbone.set_grad_checkpointing`.

        Raises:
            UserError: the backbone is a function of the user's own.
        """
        self.backbone.set_grad_checkpointing(enable)

    def freeze(self) -> None:
        """Let only the head learn: the backbone's parameters get no gradient and its BatchNorm statistics stay.

        The statistics stay as long as the backbone is in eval mode: after `classifier.train()` call `freeze()` again,
        or use the `FreezeBackbone` callback, which does.
        """
        self.backbone.requires_grad_(False)
        self.backbone.eval()

    def unfreeze(self) -> None:
        """Let everything learn again."""
        self.backbone.requires_grad_(True)
        self.backbone.train(self.training)


class LogitsAndFeatures(nn.Module):
    """A classifier as a network of one output: its logits and its pooled features, (N, num_classes + num_features)."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.num_classes = classifier.num_classes

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat(self.classifier.forward_with_features(images), 1)


def _checked_names(class_names: Sequence[str] | None, num_classes: int) -> tuple[str, ...] | None:
    if class_names is None:
        return None
    if isinstance(class_names, str) or len(class_names) != num_classes:
        given = f"the text {class_names!r}" if isinstance(class_names, str) else f"{len(class_names)} names"
        raise BadValue(f"`class_names`: {given} with `num_classes`={num_classes} (allowed: one name for each class)")
    return tuple(class_names)
