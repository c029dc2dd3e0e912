"""A backbone that is a function of the user's own: `my_net.build`, or scaled, `my_net.build@phi=1`.

The function is called as `f(depth, width, resolution)` with the factors of its baseline, all 1 for the baseline itself.
It returns a network with random weights and without a classifier: an `nn.Module` that turns normalised images
(N, 3, S, S) into a map (N, F, h, w) or pooled features (N, F), with F as its `num_features`. S is the baseline's size
times the resolution; the baseline's size is the function's attribute `image_size`, or 224.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Never, Self

from torch import Tensor, nn

from transfer.errors import BadValue
from transfer.networks.backbone import Backbone
from transfer.networks.scaling import Scale

NetworkFunction = Callable[[float, float, float], nn.Module]
DEFAULT_IMAGE_SIZE = 224


@dataclass(frozen=True)
class FunctionVariant:
    """A function at one scale, with what training asks of a variant; its blocks are unknown.

    Args:
        name: import path of the function, with its scale.
        function: the function itself.
        image_size: side of the baseline's input, in pixels.
        scale: factors with which the function is called; None for the baseline.
        dropout_rate: probability of dropout before the classifier; nothing is published.
    """

    name: str
    function: NetworkFunction = field(repr=False)
    image_size: int = DEFAULT_IMAGE_SIZE
    scale: Scale | None = None
    dropout_rate: float = 0.0

    @property
    def resolution(self) -> int:
        """Side of the input, in pixels."""
        return self.image_size if self.scale is None else self.scale.pixels(self.image_size)

    def scaled(self, name: str, scale: Scale) -> Self:
        """Return the function at another scale; see `transfer.networks.scaling.scale`."""
        return replace(self, name=name, scale=scale)


def function_variant(function: Callable[..., Any], name: str) -> FunctionVariant:
    """Return the function as an unscaled baseline.

    Args:
        function: callable that builds the network.
        name: name of the function, for scaled networks and messages.

    Raises:
        UserError: the function cannot be called with three numbers, or its `image_size` is not a size.
    """
    try:
        inspect.signature(function).bind(1.0, 1.0, 1.0)
    except (TypeError, ValueError) as error:
        raise BadValue(f"backbone {name}: it is called as {name}(depth, width, resolution), but: {error}") from None
    size = getattr(function, "image_size", DEFAULT_IMAGE_SIZE)
    if type(size) is not int or size < 1:
        raise BadValue(f"backbone {name}: its image_size is {size!r} (allowed: the side of its input in pixels)")
    return FunctionVariant(name, function, size)


class FunctionBackbone(Backbone):
    """The network of a user's function. (N, 3, H, W) -> (N, num_features, h, w); pooled features are maps of one cell.

    Attributes:
        num_features: channels of the output.

    Raises:
        UserError: the function returned no network, or one without `num_features`.
    """

    def __init__(self, variant: FunctionVariant) -> None:
        super().__init__()
        factors = variant.scale or Scale()
        network: Any = variant.function(factors.depth, factors.width, factors.resolution)
        called = f"{variant.name}: the function"
        if not isinstance(network, nn.Module):
            raise BadValue(f"{called} gave {type(network).__name__}, not an nn.Module")
        num_features = getattr(network, "num_features", None)
        if type(num_features) is not int or num_features < 1:
            raise BadValue(
                f"{called} gave a {type(network).__name__} whose num_features is {num_features!r} (needed: the F of its"
                " output, a map (N, F, h, w) or pooled features (N, F), without a classifier)"
            )
        self.variant = variant
        self.network = network
        self.num_features = self.num_map_channels = num_features

    def _refuse_stages(self) -> Never:
        raise BadValue(f"{self.variant.name} is a function of your own: its stages are unknown here (use `forward`)")

    output_stride: Any = property(_refuse_stages)
    stage_channels: Any = property(_refuse_stages)
    stage_strides: Any = property(_refuse_stages)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        self._refuse_stages()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        if enable:
            raise BadValue(f"grad_checkpointing with a function of your own, {self.variant.name} (allowed: False)")

    def set_pooled_stages(self, count: int) -> None:
        if count:
            self._refuse_stages()

    def forward(self, x: Tensor) -> Tensor:
        features = self.network(x)
        if not isinstance(features, Tensor) or features.ndim not in (2, 4) or features.shape[1] != self.num_features:
            given = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
            raise BadValue(
                f"{self.variant.name}: the network's output for images {tuple(x.shape)} is of {given} (needed: a map"
                f" (N, {self.num_features}, h, w) or pooled features (N, {self.num_features}))"
            )
        return features if features.ndim == 4 else features[:, :, None, None]
