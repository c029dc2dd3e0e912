"""Where in an image the evidence for a class lies: CAM for the linear head, Grad-CAM for every other.

Both are maps over the cells of the backbone's last features. They say what the network used, at a resolution of
stride 32 and with receptive fields of hundreds of pixels; they do not say that it was right to.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from transfer.errors import UserError
from transfer.networks.classifier import Classifier
from transfer.networks.function import FunctionBackbone
from transfer.networks.heads import LinearHead


@dataclass(frozen=True)
class ClassMaps:
    """Maps of one class per image, and the logits they explain.

    Attributes:
        maps: (N, h, w), h and w those of the backbone's features. CAM: signed, its mean over the cells plus the class's
            bias is the logit. Grad-CAM: at least 0.
        classes: (N,), the class of each map.
        logits: (N, num_classes).
        method: `CAM` or `Grad-CAM`.
    """

    maps: Tensor
    classes: Tensor
    logits: Tensor
    method: str


def explain_class(classifier: Classifier, images: Tensor, class_index: int | None = None) -> ClassMaps:
    """Maps for one class, or for each image's most probable one.

    Args:
        classifier: in eval mode.
        images: normalised, (N, C, H, W), on the classifier's device.
        class_index: None takes the class with the largest logit of each image.

    Raises:
        UserError: the head is not the linear one, and its logits have no gradient; or a backbone of the user's own
            gives pooled features.
    """
    with torch.no_grad():
        features = classifier.forward_features(images)
        if isinstance(classifier.backbone, FunctionBackbone) and features.shape[2:] == (1, 1):
            raise UserError(
                f"{classifier.backbone.variant.name} gives features of the whole image: where in it the evidence lies"
                " can be told of maps (N, F, h, w) only"
            )
        logits = classifier.forward_head(features)
    classes = logits.argmax(1) if class_index is None else torch.full_like(logits[:, 0], class_index, dtype=torch.long)
    head = classifier.head
    if type(head) is LinearHead:  # one that derives from it may compute something else
        maps, method = class_activation_map(features, head.fc.weight[classes].detach()), "CAM"
    else:
        maps, method = grad_cam(head, features, classes), "Grad-CAM"
    return ClassMaps(maps, classes, logits, method)


def class_activation_map(features: Tensor, weight: Tensor) -> Tensor:
    """CAM: the features of each cell times the class's weights.

    Source: Zhou et al. 2016 (arXiv 1512.04150), section 2; with mean pooling the map's mean plus the bias is the logit.

    Shape:
        features (N, F, h, w), weight (N, F) -> (N, h, w).
    """
    return torch.einsum("nfhw,nf->nhw", features, weight)


def grad_cam(head: nn.Module, features: Tensor, classes: Tensor) -> Tensor:
    """Grad-CAM: as CAM, with the mean gradient of the class's logit in place of weights, and cut off at zero.

    Source: Selvaraju et al. 2017 (arXiv 1610.02391), equations 1 and 2.

    Args:
        head: pooled features (N, F) -> logits (N, num_classes), each image for itself (eval mode).

    Shape:
        features (N, F, h, w), classes (N,) -> (N, h, w).

    Raises:
        UserError: the head's logits have no gradient.
    """
    features = features.detach().requires_grad_()
    with torch.enable_grad():
        logits = head(features.mean((2, 3)))
        chosen = logits.gather(1, classes[:, None]).sum()
        gradient = torch.autograd.grad(chosen, features, allow_unused=True)[0] if chosen.requires_grad else None
    if gradient is None:
        raise UserError(f"head {type(head).__name__}: its logits have no gradient, which Grad-CAM needs")
    return class_activation_map(features.detach(), gradient.mean((2, 3))).relu()
