"""The part of a network whose outputs a probe is fitted to."""

from __future__ import annotations

import hashlib

from torch import Tensor, nn

from transfer.networks.classifier import Classifier

# What decides what a layer computes in evaluation, besides its class and its tensors.
_LAYER = ("kernel_size", "stride", "padding", "dilation", "groups", "eps", "static_size")


class PooledFeatures(nn.Module):
    """A classifier without its head. (N, 3, S, S) -> (N, num_features)."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.backbone = classifier.backbone

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.backbone(images)
        return features.mean((2, 3))


def backbone_digest(classifier: Classifier) -> str:
    """Return 128 bits, in hex, of everything that the backbone computes with."""
    backbone = classifier.backbone
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr(backbone.num_features).encode())
    for name, module in backbone.named_modules():
        layer = [(fact, getattr(module, fact)) for fact in _LAYER if hasattr(module, fact)]
        digest.update(repr((name, type(module).__name__, layer)).encode())
    for name, tensor in backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
