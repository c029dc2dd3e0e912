"""A classifier whose logits an engine computes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from transfer.inference.engines import Engine, EngineRecord, choose_engine, is_compared
from transfer.networks.classifier import Classifier, LogitsAndFeatures


class EngineClassifier(Classifier):
    """A classifier in eval mode whose outputs an engine computes, chosen when the first images come.

    It computes logits, and the pooled features too once they are asked for. Its backbone and head are the classifier's
    own, so that maps, features and tensors are there as before.

    Attributes:
        engine: the engine; None before the first images.
        record: which engine it is, and how close it comes to float32; None before the first images.

    Args:
        classifier: the classifier; it stays as it is.
        name: `auto` or an engine; see `choose_engine`.
        num_images: how many images will be computed.
        threshold: probability from which a label is given, if an image may have several.
        examples: returns normalised images from all over, on which engines are compared; None: the first that come.
    """

    def __init__(
        self,
        classifier: Classifier,
        name: str,
        num_images: int,
        threshold: float | None = None,
        examples: Callable[[], Tensor] | None = None,
    ) -> None:
        super().__init__(
            classifier.backbone,
            classifier.head,
            classifier.num_classes,
            preprocessing=classifier.preprocessing,
            class_names=classifier.class_names,
        )
        self.eval()
        self.threshold, self.build_arguments = classifier.threshold, classifier.build_arguments
        self.engine: Engine | None = None
        self.record: EngineRecord | None = None

        def choose(images: Tensor, network: nn.Module) -> tuple[Engine, EngineRecord]:
            if examples is not None and is_compared(name, num_images, images.shape[-1]):
                found = examples()
                images = found.to(images.device) if len(found) else images
            return choose_engine(name, network, images, num_images, threshold)

        self._choose = choose
        self._networks: tuple[nn.Module, nn.Module] = classifier, LogitsAndFeatures(classifier)
        self._has_features = False

    def forward(self, images: Tensor) -> Tensor:
        return self._compute(images, self._has_features)[:, : self.num_classes]

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self._compute(images, True)
        return outputs[:, : self.num_classes], outputs[:, self.num_classes :]

    def _compute(self, images: Tensor, with_features: bool) -> Tensor:
        if self.engine is None or with_features != self._has_features:
            with torch.inference_mode(False):
                self.engine, self.record = self._choose(images, self._networks[with_features])
            self._has_features = with_features
        return self.engine(images)
