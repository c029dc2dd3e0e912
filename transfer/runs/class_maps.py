"""Maps of where in an image the evidence for a class lies.

Where the backbone's last features are a map of at least 7 x 7 cells, as at 224 px, they are explained: by CAM for the
linear head, by Grad-CAM for all others. Of smaller images these are few cells, each with a receptive field of the whole
image: a map of 2 x 2 cells tells no places apart. There HiResCAM explains the last stage with enough cells.

The maps show what the network used; they do not show that it was right to use it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from transfer.errors import BadValue
from transfer.networks.backbone import StagedBackbone
from transfer.networks.classifier import Classifier
from transfer.networks.function import FunctionBackbone
from transfer.networks.heads import LinearHead, StagesHead

# Cells on a side from which on a map tells places apart: those of the paper's Figure 7, 224 px at stride 32. Of smaller
# images, such a map of an earlier stage finds the evidence well (benchmarks/class_maps_64_cpu.json, ..._128_cpu.json).
ENOUGH_CELLS = 7


@dataclass(frozen=True)
class ClassMaps:
    """Maps of one class per image, and the logits they explain.

    Attributes:
        maps: class maps (N, h, w), whose cells tile the image. CAM is signed; its mean over the cells plus the class's
            bias is the logit. HiResCAM is signed. Grad-CAM is at least 0.
        classes: class of each map, (N,).
        logits: logits of the images, (N, num_classes).
        method: `CAM`, `Grad-CAM` or `HiResCAM`.
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
        UserError: the logits have no gradient where one is needed, or a backbone function of the user's returns pooled
            features.
    """
    stage = find_stage(classifier, min(images.shape[2:]))
    if stage is not None:
        return hi_res_cam(classifier, images, stage, class_index)
    with torch.no_grad():
        features = classifier.forward_features(images)
        if isinstance(classifier.backbone, FunctionBackbone) and features.shape[2:] == (1, 1):
            raise BadValue(
                f"{classifier.backbone.variant.name} returns features of the whole image: the place of the evidence can"
                " be computed from maps (N, F, h, w) only"
            )
        logits = classifier.forward_head(features)
    classes = _choose(logits, class_index)
    head = classifier.head
    if isinstance(head, LinearHead) and type(head) in (LinearHead, StagesHead):  # a subclass may compute something else
        placed = classifier.backbone.num_map_channels  # the means of earlier stages are the same in every cell
        maps = class_activation_map(features[:, :placed], head.fc.weight[classes, :placed].detach())
        method = "CAM"
    else:
        maps, method = grad_cam(head, features, classes), "Grad-CAM"
    return ClassMaps(maps, classes, logits, method)


def find_stage(classifier: Classifier, image_size: int) -> nn.Module | None:
    """Return the last stage whose map has `ENOUGH_CELLS` on a side; None where the last features have them.

    Args:
        classifier: a classifier; the stages of a function of the user's own are unknown.
        image_size: shorter side of its images, in pixels.
    """
    backbone = classifier.backbone
    if not isinstance(backbone, StagedBackbone) or -(-image_size // backbone.output_stride) >= ENOUGH_CELLS:
        return None
    fine = [row["module"] for row in backbone.feature_info if -(-image_size // row["reduction"]) >= ENOUGH_CELLS]
    return backbone.get_submodule(fine[-1]) if fine else None


def _choose(logits: Tensor, class_index: int | None) -> Tensor:
    return logits.argmax(1) if class_index is None else torch.full_like(logits[:, 0], class_index, dtype=torch.long)


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
        gradient = _gradient(head, head(features.mean((2, 3))), classes, features)
    return class_activation_map(features.detach(), gradient.mean((2, 3))).relu()


def hi_res_cam(classifier: Classifier, images: Tensor, stage: nn.Module, class_index: int | None = None) -> ClassMaps:
    """Return the HiResCAM of a stage: each cell's features times the gradient of the class's logit, summed.

    Source: Draelos & Carin 2020 (arXiv 2011.08891), equation 4; of the last features below a linear head it is CAM
    divided by the number of cells. Of an earlier stage it is the logit's first-order share of each cell.

    Args:
        classifier, images, class_index: see `explain_class`.
        stage: module of the backbone that returns a map (N, F, h, w).

    Raises:
        UserError: the logits have no gradient.
    """
    with torch.enable_grad(), _leaf(stage) as kept:
        logits = classifier(images)
        classes = _choose(logits, class_index)
        gradient = _gradient(classifier.head, logits, classes, kept[0])
    maps = (kept[0].detach() * gradient).sum(1)
    return ClassMaps(maps, classes, logits.detach(), "HiResCAM")


@contextmanager
def _leaf(stage: nn.Module) -> Iterator[list[Tensor]]:
    """Let the graph of the forward pass begin at the output of a module, which goes into the list that is yielded."""
    kept: list[Tensor] = []

    def cut(module: nn.Module, given: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    handle = stage.register_forward_hook(cut)
    try:
        yield kept
    finally:
        handle.remove()


def _gradient(head: nn.Module, logits: Tensor, classes: Tensor, features: Tensor) -> Tensor:
    chosen = logits.gather(1, classes[:, None]).sum()
    gradient = torch.autograd.grad(chosen, features, allow_unused=True)[0] if chosen.requires_grad else None
    if gradient is None:
        raise BadValue(f"head {type(head).__name__}: its logits have no gradient, which class maps need")
    return gradient
