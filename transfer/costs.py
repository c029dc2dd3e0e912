"""What a scaled network costs: parameters, multiply-adds and memory, found out without running it; its latency."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from transfer.backbones import get_backbone
from transfer.backbones.roundings import count
from transfer.backbones.rows import Variant
from transfer.classifier import build_classifier
from transfer.errors import UserError
from transfer.memory_estimate import Precision, inference_memory, training_memory
from transfer.scalable import NetworkFunction, ScalableNetwork, get_scalable
from transfer.scaling import Scale


@dataclass(frozen=True)
class Use:
    """What memory is predicted for.

    Attributes:
        batch_size: images in memory at a time.
        inference: instead of training.
    """

    batch_size: int = 32
    inference: bool = False
    precision: Precision = "32-true"


@dataclass(frozen=True)
class ScaledNetwork(ABC):
    """A baseline at one scale, which `transfer.scaling` can choose.

    Attributes:
        name: as that of a backbone.
        factors: of the baseline.
        baseline_size: side of the baseline's images, in pixels.
        counted: costs that take no time to find out.
    """

    name: str
    factors: Scale
    baseline_size: int
    counted: ClassVar[tuple[str, ...]] = ()

    @property
    def image_size(self) -> int:
        """Side of its images, in pixels."""
        return self.factors.pixels(self.baseline_size)

    @property
    @abstractmethod
    def identity(self) -> Hashable:
        """Equal for scales that make the same network and image size."""

    @abstractmethod
    def scaled(self, name: str, scale: Scale) -> Self:
        """See `transfer.scaling.scale`."""

    @abstractmethod
    def build(self) -> nn.Module:
        """The network with its classifier, on the default device.

        Raises:
            UserError: the user's function fails.
        """

    @abstractmethod
    def count(self) -> tuple[int, int]:
        """Parameters, and multiply-adds of one image.

        Raises:
            UserError: the user's function or its network fails.
        """

    def growth(self, batch_size: int) -> float:
        """About proportional to memory and latency."""
        return self.factors.flops_factor


@dataclass(frozen=True)
class ScaledBackbone(ScaledNetwork):
    """A backbone with a linear classifier; parameters and multiply-adds by formula."""

    variant: Variant
    num_classes: int
    counted: ClassVar[tuple[str, ...]] = ("num_params", "macs")

    @property
    def identity(self) -> Hashable:
        return self.variant.stages, self.variant.stem_channels, self.variant.num_features, self.image_size

    def scaled(self, name: str, scale: Scale) -> Self:
        return replace(self, name=name, factors=scale, variant=self.variant.scaled(name, scale))

    def build(self) -> nn.Module:
        return build_classifier(self.name, self.num_classes)

    def count(self) -> tuple[int, int]:
        counts = count(self.variant, self.image_size, self.num_classes)
        return counts.num_params, counts.macs

    def growth(self, batch_size: int) -> float:
        """Bytes of a training step, roughly: gradients and momentum too, and of each value that a convolution puts out
        what BatchNorm and activation make of it.
        """
        counts = count(self.variant, self.image_size, self.num_classes)
        return 12 * counts.num_params + 13 * batch_size * counts.activations


@dataclass(frozen=True)
class ScaledFunction(ScaledNetwork):
    """What a function of the user's own gives; counted on the meta device."""

    function: ScalableNetwork

    @property
    def identity(self) -> Hashable:
        return self.factors

    def scaled(self, name: str, scale: Scale) -> Self:
        return replace(self, name=name, factors=scale)

    def build(self) -> nn.Module:
        try:
            return self.function.build(self.factors)
        except UserError:
            raise
        except Exception as error:
            arguments = ", ".join(f"{each:.6g}" for each in vars(self.factors).values())
            raise UserError(f"{self.function.name}({arguments}) {_what_happened(error)}") from error

    def count(self) -> tuple[int, int]:
        size = self.image_size
        with torch.device("meta"):
            network = self.build().eval()
            try:
                with FlopCounterMode(display=False) as counter, torch.no_grad():
                    network(torch.empty(1, 3, size, size))
            except Exception as error:
                raise UserError(f"{self.name} on an image of {size} px {_what_happened(error)}") from error
        return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops() // 2


def _what_happened(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"raised {type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"


def scaled_network(
    baseline: str | NetworkFunction, num_classes: int = 1000, image_size: int | None = None
) -> ScaledBackbone | ScaledFunction:
    """A baseline, not scaled yet; arguments as in `get_scalable`.

    Raises:
        UserError: no such baseline.
    """
    scalable = get_scalable(baseline, num_classes, image_size)
    if isinstance(baseline, str) and "." not in baseline.partition("@")[0]:
        variant = get_backbone(scalable.name)
        return ScaledBackbone(variant.name, Scale(), scalable.image_size, variant, num_classes)
    return ScaledFunction(scalable.name, Scale(), scalable.image_size, scalable)


class Costs:
    """Costs of scaled networks for a use, each found out once."""

    def __init__(self, use: Use) -> None:
        self.use = use
        self._found: dict[tuple[Hashable, str], float] = {}

    def __call__(self, network: ScaledNetwork, quantity: str) -> float:
        """A cost by its name in `transfer.fit.QUANTITIES`; memory is in bytes.

        Raises:
            UserError: the user's function or its network fails.
        """
        identity = network.identity
        if (identity, quantity) not in self._found:
            found = {"memory": self._memory(network)} if quantity == "memory" else self._counts(network)
            self._found |= {(identity, name): value for name, value in found.items()}
        return self._found[identity, quantity]

    def _counts(self, network: ScaledNetwork) -> dict[str, int]:
        return dict(zip(("num_params", "macs"), network.count(), strict=True))

    def _memory(self, network: ScaledNetwork) -> int:
        self(network, "macs")  # tells what is wrong with a user's function
        with torch.device("meta"):
            module = network.build()
        size, use = network.image_size, self.use
        if use.inference:
            return inference_memory(module, size, use.batch_size, use.precision)
        return training_memory(module, size, precision=use.precision).total(use.batch_size)
