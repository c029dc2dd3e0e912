"""What a scaled network costs: parameters, multiply-adds and memory, found out without running it; its latency."""

from __future__ import annotations

import traceback
from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from transfer.costs.counts import Counts, count
from transfer.costs.latency import Latency, measure_latency
from transfer.costs.memory import Precision, inference_memory, training_memory, usable_memory
from transfer.costs.peak_memory import measure_peak
from transfer.costs.profile import count_module_macs
from transfer.costs.scalable import get_scalable
from transfer.errors import BadValue, UserError
from transfer.networks.function import FunctionVariant, NetworkFunction
from transfer.networks.rows import Variant
from transfer.networks.scaling import Scale

Network = Variant | FunctionVariant


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


class Costs:
    """Costs of a baseline's scaled networks with a linear classifier, each found out once.

    Attributes:
        baseline: what `transfer.networks.scaling` scales.
        baseline_size: side of its images, in pixels.
        counted: costs that take no time to find out.

    Args:
        baseline, num_classes, image_size: arguments of `transfer.costs.scalable.get_scalable`.
        use: the use for which memory is predicted; None takes the defaults of `Use`.

    Raises:
        UserError: no such baseline.
    """

    def __init__(
        self,
        baseline: str | NetworkFunction,
        use: Use | None = None,
        num_classes: int = 1000,
        image_size: int | None = None,
    ) -> None:
        self._scalable = get_scalable(baseline, num_classes, image_size)
        self.baseline: Network = self._scalable.variant
        self.baseline_size = self._scalable.image_size
        self.num_classes = num_classes
        self.use = use or Use()
        self.counted = ("num_parameters", "macs") if isinstance(self.baseline, Variant) else ()
        self._known: dict[str, tuple[Counts, Hashable]] = {}
        self._memory: dict[Hashable, int] = {}
        self._latency: dict[Hashable, Latency] = {}

    def image_size(self, network: Network) -> int:
        """Return the side of a scale's images, in pixels."""
        return (network.scale or Scale()).pixels(self.baseline_size)

    def of(self, network: Network, quantity: str) -> float:
        """Return a cost by its name in `transfer.costs.limits.QUANTITIES`; memory is in bytes.

        Raises:
            UserError: the user's function or its network fails.
        """
        if quantity == "memory":
            return self.memory(network)
        return self.latency(network).median_ms if quantity == "latency_ms" else getattr(self.counts(network), quantity)

    def counts(self, network: Network) -> Counts:
        """Return parameters and multiply-adds; for a function's network no activations.

        Raises:
            UserError: the user's function or its network fails.
        """
        return self._look(network)[0]

    def identity(self, network: Network) -> Hashable:
        """Return a key that is equal for scales that, rounded, make the same network and image size.

        Raises:
            UserError: the user's function or its network fails.
        """
        return self._look(network)[1], self.image_size(network)

    def memory(self, network: Network) -> int:
        """Predict the bytes at the peak, for the given use.

        Raises:
            UserError: the user's function or its network fails.
        """
        identity = self.identity(network)
        if identity not in self._memory:
            with torch.device("meta"):
                module = self.build(network)
            size, use = self.image_size(network), self.use
            self._memory[identity] = (
                inference_memory(module, size, use.batch_size, use.precision)
                if use.inference
                else training_memory(module, size, precision=use.precision).total(use.batch_size)
            )
        return self._memory[identity]

    def latency(self, network: Network) -> Latency:
        """Measure the latency of one image, on the GPU if there is one.

        Raises:
            UserError: the user's function or its network fails.
        """
        identity = self.identity(network)
        if identity not in self._latency:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            self._latency[identity] = measure_latency(
                self.build(network), self.image_size(network), device=device, precision=self.use.precision
            )
        return self._latency[identity]

    def peak(self, network: Network) -> int | None:
        """Measure the bytes at the peak, for the given use, on the GPU if there is one; None where that is impossible.

        Raises:
            UserError: this system does not tell the memory of a process.
        """
        room, _ = usable_memory()
        if room is not None and self.memory(network) > room:
            return None
        return measure_peak(
            partial(self.build, network),
            self.image_size(network),
            self.use.batch_size,
            training=not self.use.inference,
            precision=self.use.precision,
            on_gpu=torch.cuda.is_available(),
        )

    def growth(self, network: Network) -> float:
        """About proportional to memory and latency: of a backbone, what a training step takes in bytes, with gradients
        and momentum, and for each value that a convolution puts out what BatchNorm and activation make of it.
        """
        counts = self.counts(network)
        if not counts.activations:
            return (network.scale or Scale()).flops_factor
        return 12 * counts.num_parameters + 13 * self.use.batch_size * counts.activations

    def build(self, network: Network) -> nn.Module:
        """Build the network with random weights, on the default device.

        Raises:
            UserError: the user's function fails.
        """
        try:
            return self._scalable.build_variant(network)
        except UserError:
            raise
        except Exception as error:
            if isinstance(network, Variant):
                raise
            raise BadValue(f"{network.name}: the function {_what_happened(error)}") from error

    def _look(self, network: Network) -> tuple[Counts, Hashable]:
        """Return the counts of a network, and a key that is equal for equal networks."""
        if network.name not in self._known:
            if isinstance(network, FunctionVariant):
                self._known[network.name] = self._look_at_function(network)
            else:
                counts = count(network, self.image_size(network), self.num_classes)
                self._known[network.name] = counts, (network.stages, network.stem_channels, network.num_features)
        return self._known[network.name]

    def _look_at_function(self, network: FunctionVariant) -> tuple[Counts, Hashable]:
        """Return the same for the network of a user's function; its activations are not counted."""
        size = self.image_size(network)
        with torch.device("meta"):
            module = self.build(network)
        try:
            macs = count_module_macs(module, size)
        except UserError:
            raise
        except Exception as error:
            raise BadValue(f"{network.name} on an image of {size} px {_what_happened(error)}") from error
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in module.state_dict().items())
        num_parameters = sum(parameter.numel() for parameter in module.parameters())
        return Counts(num_parameters, macs[""], 0), (shapes, tuple(macs.items()))


def _what_happened(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(str(Path(torch.__file__).parent))]
    place = (own or frames)[-1]
    return f"raised {type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"
