"""What a scaled network costs: parameters, multiply-adds and memory, found out without running it; its latency."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from transfer.backbones import get_backbone
from transfer.backbones.roundings import count_macs, count_parameters
from transfer.backbones.rows import Variant
from transfer.classifier import build_classifier
from transfer.errors import UserError
from transfer.memory_estimate import Precision, inference_memory, training_memory
from transfer.scalable import NetworkFunction, ScalableNetwork, get_scalable
from transfer.scaling import Scale


@dataclass(frozen=True)
class Use:
    """What a network is to be used for.

    Attributes:
        batch_size: images in memory at a time.
        inference: instead of training.
    """

    batch_size: int = 32
    inference: bool = False
    precision: Precision = "32-true"


@dataclass(frozen=True)
class ScaledFunction:
    """A function of the user's own at one scale."""

    name: str
    factors: Scale = Scale()

    def scaled(self, name: str, scale: Scale) -> ScaledFunction:
        """See `transfer.scaling.scale`."""
        return replace(self, name=name, factors=scale)


Network = TypeVar("Network", Variant, ScaledFunction)


class Costs(ABC, Generic[Network]):
    """Costs of a baseline's scaled networks, each found out once.

    Attributes:
        baseline: what is scaled, by `transfer.scaling`.
        baseline_size: side of its images, in pixels.
        use: what memory is predicted for.
        counted: costs that take no time to find out.
    """

    counted: tuple[str, ...] = ()

    def __init__(self, baseline: Network, baseline_size: int, use: Use) -> None:
        self.baseline = baseline
        self.baseline_size = baseline_size
        self.use = use
        self._found: dict[tuple[Hashable, str], float] = {}

    @abstractmethod
    def factors(self, network: Network) -> Scale:
        """By which the baseline was scaled."""

    @abstractmethod
    def build(self, network: Network) -> nn.Module:
        """The network with a classifier and random weights.

        Raises:
            UserError: the user's function fails.
        """

    @abstractmethod
    def count(self, network: Network) -> tuple[int, int]:
        """Parameters, and multiply-adds of one image.

        Raises:
            UserError: the user's function or its network fails.
        """

    def identity(self, network: Network) -> Hashable:
        """Equal for networks that cost the same."""
        return network

    def image_size(self, network: Network) -> int:
        """Side of its images, in pixels."""
        return self.factors(network).pixels(self.baseline_size)

    def of(self, network: Network, quantity: str) -> float:
        """A cost, by its name in `transfer.fit.QUANTITIES`: `memory` in bytes, for the given use.

        Raises:
            UserError: the user's function or its network fails.
        """
        key = (self.identity(network), quantity)
        if key not in self._found:
            if quantity == "memory":
                self._found[key] = self._memory(network)
            else:
                for name, value in zip(("num_params", "macs"), self.count(network), strict=True):
                    self._found[key[0], name] = value
        return self._found[key]

    def _memory(self, network: Network) -> int:
        self.of(network, "macs")  # tells what is wrong with a user's function
        with torch.device("meta"):
            built = self.build(network)
        size, use = self.image_size(network), self.use
        if use.inference:
            return inference_memory(built, size, use.batch_size, use.precision)
        return training_memory(built, size, precision=use.precision).total(use.batch_size)


class BackboneCosts(Costs[Variant]):
    """Costs of a backbone with a linear classifier; parameters and multiply-adds by formula."""

    counted = ("num_params", "macs")

    def __init__(self, baseline: Variant, baseline_size: int, use: Use, num_classes: int) -> None:
        super().__init__(baseline, baseline_size, use)
        self.num_classes = num_classes

    def factors(self, network: Variant) -> Scale:
        return network.scale or Scale()

    def build(self, network: Variant) -> nn.Module:
        return build_classifier(network.name, self.num_classes)

    def count(self, network: Variant) -> tuple[int, int]:
        macs = count_macs(network, self.image_size(network), self.num_classes)
        return count_parameters(network, self.num_classes), macs

    def identity(self, network: Variant) -> Hashable:
        return network.stages, network.stem_channels, network.num_features, self.image_size(network)


class FunctionCosts(Costs[ScaledFunction]):
    """Costs of what a user's function gives, counted on the meta device."""

    def __init__(self, function: ScalableNetwork, use: Use) -> None:
        super().__init__(ScaledFunction(function.name), function.image_size, use)
        self.function = function

    def factors(self, network: ScaledFunction) -> Scale:
        return network.factors

    def build(self, network: ScaledFunction) -> nn.Module:
        factors = network.factors
        try:
            return self.function.build(factors)
        except UserError:
            raise
        except Exception as error:
            arguments = f"{factors.depth:.6g}, {factors.width:.6g}, {factors.resolution:.6g}"
            raise UserError(f"{self.function.name}({arguments}) {_what_happened(error)}") from error

    def count(self, network: ScaledFunction) -> tuple[int, int]:
        size = self.image_size(network)
        with torch.device("meta"):
            built = self.build(network).eval()
            try:
                with FlopCounterMode(display=False) as counter, torch.no_grad():
                    built(torch.empty(1, 3, size, size))
            except Exception as error:
                raise UserError(f"{network.name} on an image of {size} px {_what_happened(error)}") from error
        return sum(parameter.numel() for parameter in built.parameters()), counter.get_total_flops() // 2


def _what_happened(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"raised {type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"


def get_costs(
    baseline: str | NetworkFunction, use: Use, num_classes: int = 1000, image_size: int | None = None
) -> BackboneCosts | FunctionCosts:
    """The costs of a backbone by its name, or of a function; arguments as in `get_scalable`.

    Raises:
        UserError: no such baseline.
    """
    scalable = get_scalable(baseline, num_classes, image_size)
    if isinstance(baseline, str) and "." not in baseline.partition("@")[0]:
        return BackboneCosts(get_backbone(scalable.name), scalable.image_size, use, num_classes)
    return FunctionCosts(scalable, use)
