"""A network's tensors without memory, and how many bytes of them would be alive at a time."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from transfer.costs import meta_calls
from transfer.errors import BadValue

Precision = Literal["32-true", "bf16-mixed"]

# Images of the batch that is followed: a prime that divides no network's own sizes, so that the bytes it divides are
# those that grow with the batch.
BATCH = 1009
# What torch.autocast computes in bfloat16; it knows no meta device.
_LOW_PRECISION = (torch.conv2d, F.conv2d, F.linear, torch._C._nn.linear, torch.matmul, Tensor.matmul, torch.bmm)
# Which argument is the weight, of which the library makes a copy in a layout of its own while it computes.
_CONVOLUTIONS = {torch.ops.aten.convolution.default: 1, torch.ops.aten.convolution_backward.default: 2}


@contextmanager
def without_memory(network: nn.Module, training: bool) -> Iterator[list[Tensor]]:
    """Yield a network's new tensors on the meta device, in training or evaluation mode; afterwards restore it."""
    modes = {module: module.training for module in network.modules()}
    own: list[tuple[dict[str, Any], str, Tensor]] = []
    stand_ins: dict[int, Tensor] = {}
    for module in modes:
        both: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for tensors in both:
            for name, tensor in tensors.items():
                if tensor is not None:
                    own.append((tensors, name, tensor))
                    stand_ins.setdefault(id(tensor), _stand_in(tensor))
    try:
        for tensors, name, tensor in own:
            tensors[name] = stand_ins[id(tensor)]
        network.train(training)
        with torch.device("meta"):
            yield list(stand_ins.values())
    finally:
        for tensors, name, tensor in own:
            tensors[name] = tensor
        for module, was_training in modes.items():
            module.training = was_training


def _stand_in(tensor: Tensor) -> Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def run_without_memory(
    network: nn.Module, batch_size: int, image_size: int, precision: Precision
) -> tuple[Tensor, Tensor]:
    """Return the logits of a network that is `without_memory`, and labels for them.

    Raises:
        UserError: the network gives something else.
    """
    images = torch.empty(batch_size, 3, image_size, image_size)
    with _Autocast() if precision == "bf16-mixed" else nullcontext():
        logits = network(images)
    if not isinstance(logits, Tensor) or logits.ndim < 2:
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise BadValue(f"the network gave {given} for {batch_size} images, not logits (N, num_classes)")
    return logits.float(), torch.empty(logits.shape[0], *logits.shape[2:], dtype=torch.long)


class _Autocast(TorchFunctionMode):
    """bfloat16 for what torch.autocast computes in it."""

    def __torch_function__(
        self, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function in _LOW_PRECISION:
            args = tuple(_to_bfloat16(argument) for argument in args)
            kwargs = {name: _to_bfloat16(argument) for name, argument in (kwargs or {}).items()}
        return function(*args, **(kwargs or {}))


def _to_bfloat16(argument: Any) -> Any:
    floating = isinstance(argument, Tensor) and argument.dtype == torch.float32
    return argument.to(torch.bfloat16) if floating else argument


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # missing in its types
    """Follows which storages live: bytes of any batch, and bytes for each image."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.fixed = self.per_image = 0
        self._moments: set[tuple[int, int]] = set()
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Count the tensors' storages until they are freed."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._alive:
                self._alive[storage._cdata] = weakref.ref(storage, self._count(storage))
        self._moments.add((self.fixed, self.per_image))

    def forget(self) -> None:
        """Forget the peaks so far."""
        self._moments = {(self.fixed, self.per_image)}

    def peaks(self) -> tuple[tuple[int, int], ...]:
        """Return the moments that no other exceeds in both numbers, those with most bytes per image first."""
        peaks: list[tuple[int, int]] = []
        for fixed, per_image in sorted(self._moments, key=lambda moment: (moment[1], moment[0]), reverse=True):
            if not peaks or fixed > peaks[-1][0]:
                peaks.append((fixed, per_image))
        return tuple(peaks)

    def _count(self, storage: torch.UntypedStorage) -> Callable[[Any], None]:
        key, size = storage._cdata, storage.nbytes()
        fixed, per_image = (0, size // BATCH) if size % BATCH == 0 else (size, 0)
        self.fixed += fixed
        self.per_image += per_image

        def free(_: Any) -> None:
            del self._alive[key]
            self.fixed -= fixed
            self.per_image -= per_image

        return free

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = meta_calls.call(function, args, kwargs or {})
        outputs = result if isinstance(result, (tuple, list)) else (result,)
        self.add(output for output in outputs if isinstance(output, Tensor))
        if (weight := _CONVOLUTIONS.get(function)) is not None:
            self._moments.add((self.fixed + args[weight].nbytes, self.per_image))
        return result
