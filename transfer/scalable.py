"""Whatever can be scaled: a backbone by name, or a function of the user's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from transfer.backbones import get_backbone, list_backbones
from transfer.classifier import build_classifier
from transfer.errors import UserError, unknown_name
from transfer.scaling import Scale, scale

# Of depth, width and resolution, as factors of the baseline; gives a network for images (N, 3, S, S), where S is the
# baseline's size times the resolution.
NetworkFunction = Callable[[float, float, float], nn.Module]
DEFAULT_IMAGE_SIZE = 224


@dataclass(frozen=True)
class ScalableNetwork:
    """A baseline that builds itself at any scale.

    Attributes:
        name: of the backbone, or of the function.
        image_size: side of the baseline's input, in pixels.
        function: see `NetworkFunction`.
    """

    name: str
    image_size: int
    function: NetworkFunction

    def size(self, factors: Scale) -> int:
        """Side of the scaled network's input, in pixels."""
        return factors.pixels(self.image_size)

    def build(self, factors: Scale) -> nn.Module:
        """The scaled network with random weights.

        Raises:
            UserError: the user's function gave no network.
        """
        network = self.function(factors.depth, factors.width, factors.resolution)
        if not isinstance(network, nn.Module):
            raise UserError(f"{self.name}(depth, width, resolution) gave {type(network).__name__}, not an nn.Module")
        return network


def get_scalable(
    baseline: str | NetworkFunction, num_classes: int = 1000, image_size: int | None = None
) -> ScalableNetwork:
    """The baseline of that name, or a function of the user's own.

    Args:
        baseline: a backbone; or a function, itself or by its import path (`package.module.function`), which is called
            as `function(depth, width, resolution)` and gives an `nn.Module`.
        num_classes: of a backbone's classifier; a function decides for itself.
        image_size: of the baseline, in pixels; None takes the backbone's resolution, the function's attribute
            `image_size` if it has one, or else 224.

    Raises:
        UserError: no such backbone, or the import fails.
    """
    if isinstance(baseline, str) and "." not in baseline.partition("@")[0]:
        variant = get_backbone(baseline)
        if variant.scaled_from is not None:
            raise UserError(f"baseline {variant.name} is scaled already (allowed: {', '.join(list_backbones())})")

        def build(depth: float, width: float, resolution: float) -> nn.Module:
            return build_classifier(scale(variant, depth, width, resolution).name, num_classes)

        return ScalableNetwork(variant.name, image_size or variant.resolution, build)
    function = _import(baseline) if isinstance(baseline, str) else baseline
    name = baseline if isinstance(baseline, str) else getattr(baseline, "__qualname__", repr(baseline))
    own_size: int = getattr(function, "image_size", DEFAULT_IMAGE_SIZE)
    return ScalableNetwork(name, image_size or own_size, function)


def _import(path: str) -> NetworkFunction:
    module, _, attribute = path.rpartition(".")
    if not module:
        raise unknown_name("baseline", path, [*list_backbones(), "your.module.your_function"])
    try:
        function: NetworkFunction = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"baseline {path!r}: {error} (allowed: {', '.join(list_backbones())} or an import path)"
        ) from None
    if not callable(function):
        raise UserError(f"baseline {path!r} is no function of depth, width and resolution")
    return function
