"""Whatever can be scaled: a backbone by name, or a function of the user's own."""

from __future__ import annotations

from dataclasses import dataclass

from transfer.errors import BadValue
from transfer.networks.backbone import Backbone
from transfer.networks.classifier import Classifier
from transfer.networks.function import FunctionBackbone, FunctionVariant, NetworkFunction, function_variant
from transfer.networks.heads import LinearHead
from transfer.networks.registry import get_backbone, list_backbones
from transfer.networks.rows import Variant
from transfer.networks.scaling import Scale, scale
from transfer.weights.build import build_network


@dataclass(frozen=True)
class ScalableNetwork:
    """A baseline that builds itself at any scale, with a linear classifier.

    Attributes:
        image_size: side of the baseline's input, in pixels.
        variant: the baseline's architecture.
        num_classes: number of classes of its classifier.
    """

    variant: Variant | FunctionVariant
    image_size: int
    num_classes: int

    @property
    def name(self) -> str:
        """Name of the backbone or of the function."""
        return self.variant.name

    def size(self, factors: Scale) -> int:
        """Return the side of the scaled network's input, in pixels."""
        return factors.pixels(self.image_size)

    def build(self, factors: Scale) -> Classifier:
        """Build the scaled network with random weights.

        Raises:
            UserError: the user's function returned no backbone.
        """
        return self.build_variant(scale(self.variant, factors.depth, factors.width, factors.resolution))

    def build_variant(self, variant: Variant | FunctionVariant) -> Classifier:
        """Build the baseline, or what it was scaled to, with random weights.

        Raises:
            UserError: the user's function gave no backbone.
        """
        backbone: Backbone
        if isinstance(variant, FunctionVariant):
            backbone = FunctionBackbone(variant)
        else:
            backbone = build_network(variant, variant.settings)
        head = LinearHead(backbone.num_features, self.num_classes, variant.dropout_rate)
        return Classifier(backbone, head, self.num_classes)


def get_scalable(
    baseline: str | NetworkFunction, num_classes: int = 1000, image_size: int | None = None
) -> ScalableNetwork:
    """Return the baseline of that name, or a function of the user's own.

    Args:
        baseline: a backbone's name (see `transfer.get_backbone`), or a function itself (see
            `transfer.networks.function`).
        num_classes: outputs of the classifier.
        image_size: side of the baseline's input, in pixels; None takes its own.

    Raises:
        UserError: no such backbone, or it is scaled already.
    """
    if isinstance(baseline, str):
        variant = get_backbone(baseline)
    else:
        variant = function_variant(baseline, getattr(baseline, "__qualname__", repr(baseline)))
    if variant.scale is not None:
        raise BadValue(f"baseline {variant.name} is scaled already (allowed: {', '.join(list_backbones())}, ...)")
    return ScalableNetwork(variant, image_size or variant.resolution, num_classes)
