"""Maps of where in an image the evidence for a class lies: CAM for the linear head, Grad-CAM for all others.

Both are maps over the cells of the backbone's last features. They show what the network used, at a stride of 32 and
with receptive fields of hundreds of pixels; they do not show that it was right to use it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from transfer.errors import BadValue
from transfer.networks.classifier import Classifier
from transfer.networks.function import FunctionBackbone
from transfer.networks.heads import LinearHead, StagesHead


@dataclass(frozen=True)
class ClassMaps:
    """Maps of one class per image, and the logits they explain.

    Attributes:
        maps: class maps (N, h, w) at the size of the backbone's features. CAM is signed; its mean over the cells plus
            the class's bias is the logit. Grad-CAM is at least 0.
        classes: class of each map, (N,).
        logits: logits of the images, (N, num_classes).
        method: `CAM` or `Grad-CAM`.
    """

    maps: Tensor
    classes: Tensor
    logits: Tensor
    method: str


def explain_class(classifier: Classifier, images: Tensor, class_index: int | None = None) -> ClassMaps:
    """Return the maps of one class, or of each image's most probable class.

    Args:
        classifier: classifier in eval mode.
        images: normalised images (N, C, H, W), on the classifier's device.
        class_index: index of the class; None takes the class with the largest logit for each image.

    Raises:
        UserError: the head is not the linear one and its logits have no gradient, or a backbone function of the user
            returns pooled features.
    """
    with torch.no_grad():
        features = classifier.forward_features(images)
        if isinstance(classifier.backbone, FunctionBackbone) and features.shape[2:] == (1, 1):
            raise BadValue(
                f"{classifier.backbone.variant.name} returns features of the whole image: the place of the evidence can"
                " be computed from maps (N, F, h, w) only"
            )
        logits = classifier.forward_head(features)
    classes = logits.argmax(1) if class_index is None else torch.full_like(logits[:, 0], class_index, dtype=torch.long)
    head = classifier.head
    if isinstance(head, LinearHead) and type(head) in (LinearHead, StagesHead):  # a subclass may compute something else
        placed = classifier.backbone.num_map_channels  # the means of earlier stages are the same in every cell
        maps = class_activation_map(features[:, :placed], head.fc.weight[classes, :placed].detach())
        method = "CAM"
    else:
        maps, method = grad_cam(head, features, classes), "Grad-CAM"
    return ClassMaps(maps, classes, logits, method)


def class_activation_map(features: Tensor, weight: Tensor) -> Tensor:
    """Return the CAM: the dot product of each cell's features and the class's weights.

    Source: Zhou et al. 2016 (arXiv 1512.04150), section 2; with mean pooling the map's mean plus the bias is the logit.

    Shape:
        features (N, F, h, w), weight (N, F) -> (N, h, w).
    """
    return torch.einsum("nfhw,nf->nhw", features, weight)


def grad_cam(head: nn.Module, features: Tensor, classes: Tensor) -> Tensor:
    """Return the Grad-CAM: like CAM, with the mean gradient of the class's logit as weights, clipped at zero.

    Source: Selvaraju et al. 2017 (arXiv 1610.02391), equations 1 and 2.

    Args:
        head: maps pooled features (N, F) to logits (N, num_classes), each image independently (eval mode).
        features: the backbone's features.
        classes: class of each image.

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
        raise BadValue(f"head {type(head).__name__}: its logits have no gradient, which Grad-CAM needs")
    return class_activation_map(features.detach(), gradient.mean((2, 3))).relu()
