"""How much memory a training step or inference will take, before it is taken."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from transfer import meta_calls
from transfer.errors import UserError

Precision = Literal["32-true", "bf16-mixed"]

# Images of the batch that is followed: a prime that divides no network's own sizes, so that the bytes it divides are
# those that grow with the batch.
_BATCH = 1009
# What torch.autocast computes in bfloat16, and the losses that it leaves in float32; it knows no meta device.
_LOW_PRECISION = (torch.conv2d, F.conv2d, F.linear, torch._C._nn.linear, torch.matmul, Tensor.matmul, torch.bmm)
_FULL_PRECISION = (F.cross_entropy,)
# Which argument is the weight, of which the library makes a copy in a layout of its own while it computes.
_CONVOLUTIONS = {torch.ops.aten.convolution.default: 1, torch.ops.aten.convolution_backward.default: 2}


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of a training step at its peak.

    Attributes:
        fixed: parameters, their gradients, the optimizer's state and buffers.
        per_image: what each image of a large batch adds: itself, what autograd keeps of it, what is being computed.
        moments: (bytes of any batch, bytes for each image) at the moments of the step that are the peak for some batch
            size: with few images it may be another than with many.
    """

    fixed: int
    per_image: int
    moments: tuple[tuple[int, int], ...]

    def total(self, batch_size: int) -> int:
        """Bytes at the peak of a step of so many images."""
        return max(fixed + batch_size * per_image for fixed, per_image in self.moments)


def training_memory(network: nn.Module, image_size: int, *, precision: Precision = "32-true") -> TrainingMemory:
    """The peak of a training step: cross entropy, SGD with momentum, gradients set to None before the backward pass.

    The step is taken on the meta device, where tensors have shapes and no memory; the network stays as it is.

    Args:
        network: gives logits (N, num_classes, ...) of images (N, 3, S, S); on any device.
        image_size: S, in pixels.

    Raises:
        UserError: the network gives something else.
    """
    stand_ins = _stand_ins(network)
    gradients = sum(tensor.nbytes for tensor in stand_ins.values() if tensor.requires_grad)
    live = _LiveBytes()
    live.add(stand_ins.values())
    live.fixed += gradients  # momentum
    state = live.fixed + gradients
    with _mode(network, training=True), torch.device("meta"), live:
        live.fixed += gradients  # of the step before
        loss = F.cross_entropy(*_logits(network, stand_ins, _BATCH, image_size, precision))
        live.fixed -= gradients
        if loss.requires_grad:
            torch.autograd.backward(loss)
    moments = live.peaks()
    return TrainingMemory(state, moments[0][1], moments)


def inference_memory(network: nn.Module, image_size: int, batch_size: int, precision: Precision = "32-true") -> int:
    """Bytes at the peak of inference: parameters, buffers, the images and the maps that are alive at a time.

    Args and Raises: as `training_memory`.
    """
    stand_ins = _stand_ins(network)
    live = _LiveBytes()
    live.add(stand_ins.values())
    with _mode(network, training=False), torch.device("meta"), torch.no_grad(), live:
        _logits(network, stand_ins, _BATCH, image_size, precision)
    return max(fixed + batch_size * per_image for fixed, per_image in live.peaks())


@dataclass(frozen=True)
class PartMemory:
    """Bytes for each image in one part of a network.

    Attributes:
        training: what the part keeps for the backward pass.
        inference: the most that is alive at a time while the part runs, the maps that come in among them.
    """

    training: int
    inference: int


def part_memory(
    network: nn.Module,
    parts: Mapping[str, Sequence[nn.Module]],
    image_size: int,
    *,
    precision: Precision = "32-true",
) -> dict[str, PartMemory]:
    """The memory of each part: submodules that run one after another and lie in no other part.

    Args and Raises: as `training_memory`.
    """
    training = _follow_parts(network, parts, image_size, precision, training=True)
    inference = _follow_parts(network, parts, image_size, precision, training=False)
    return {name: PartMemory(training[name][0], inference[name][1]) for name in parts}


def _follow_parts(
    network: nn.Module,
    parts: Mapping[str, Sequence[nn.Module]],
    image_size: int,
    precision: Precision,
    training: bool,
) -> dict[str, tuple[int, int]]:
    """Bytes for each image that each part of a forward pass adds and leaves, and the most that are alive within it."""
    stand_ins = _stand_ins(network)
    live = _LiveBytes()
    live.add(stand_ins.values())
    before: list[int] = []
    found = dict.fromkeys(parts, (0, 0))

    def enter(*_: Any) -> None:
        before.append(live.per_image)
        live.forget()

    def leave(*_: Any, name: str) -> None:
        left, most = found[name]
        found[name] = left + live.per_image - before.pop(), max(most, live.peaks()[0][1])

    with ExitStack() as stack:
        for name, modules in parts.items():
            for module in modules:
                stack.callback(module.register_forward_pre_hook(enter).remove)
                stack.callback(module.register_forward_hook(partial(leave, name=name)).remove)
        stack.enter_context(_mode(network, training))
        stack.enter_context(torch.device("meta"))
        stack.enter_context(torch.set_grad_enabled(training))
        stack.enter_context(live)
        _logits(network, stand_ins, _BATCH, image_size, precision)
    return found


def on_meta(network: nn.Module, image_size: int) -> Tensor:
    """What the network gives for one image in evaluation mode, on the meta device; for counters of what it does.

    Args and Raises: as `training_memory`.
    """
    with _mode(network, training=False), torch.device("meta"):
        return _logits(network, _stand_ins(network), 1, image_size, "32-true")[0]


def largest_batch(memory: int | None, needed: TrainingMemory) -> int | None:
    """Images of a training step that fit in so many bytes, at least 0; None if these are unknown."""
    if memory is None:
        return None
    fits = [(memory - fixed) // per_image if per_image else memory - fixed for fixed, per_image in needed.moments]
    return max(min(fits), 0)


def usable_memory() -> tuple[int | None, str | None]:
    """Bytes that training may take: 90% of the GPU's memory, else half of the machine's; None if unknown."""
    if torch.cuda.is_available():
        return int(0.9 * torch.cuda.get_device_properties(0).total_memory), "gpu"
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2, "ram"
    except (AttributeError, ValueError, OSError):
        return None, None


def _stand_ins(network: nn.Module) -> dict[str, Tensor]:
    """Tensors without memory in place of the network's own."""
    named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta").requires_grad_(tensor.requires_grad)
        for name, tensor in named.items()
    }


@contextmanager
def _mode(network: nn.Module, training: bool) -> Iterator[None]:
    """The network in training or evaluation mode; each module's own comes back."""
    modes = {module: module.training for module in network.modules()}
    network.train(training)
    try:
        yield
    finally:
        for module, was_training in modes.items():
            module.training = was_training


def _logits(
    network: nn.Module, stand_ins: Mapping[str, Tensor], batch_size: int, image_size: int, precision: Precision
) -> tuple[Tensor, Tensor]:
    """What the network gives on a batch, and labels for it."""
    images = torch.empty(batch_size, 3, image_size, image_size)
    with _Autocast() if precision == "bf16-mixed" else nullcontext():
        logits = torch.func.functional_call(network, dict(stand_ins), (images,))
    if not isinstance(logits, Tensor) or logits.ndim < 2:
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"the network gave {given} for {batch_size} images, not logits (N, num_classes)")
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


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # missing in its types
    """Follows which storages live: bytes of any batch, and bytes for each image."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.fixed = self.per_image = 0
        self._moments: set[tuple[int, int]] = set()
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def add(self, tensors: Any) -> None:
        """Counts the tensors' storages until they are freed."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._alive:
                self._alive[storage._cdata] = weakref.ref(storage, self._count(storage))
        self._moments.add((self.fixed, self.per_image))

    def forget(self) -> None:
        """What was before is no peak."""
        self._moments = {(self.fixed, self.per_image)}

    def peaks(self) -> tuple[tuple[int, int], ...]:
        """The moments that no other exceeds in both numbers, most bytes for each image first."""
        peaks: list[tuple[int, int]] = []
        for fixed, per_image in sorted(self._moments, key=lambda moment: (moment[1], moment[0]), reverse=True):
            if not peaks or fixed > peaks[-1][0]:
                peaks.append((fixed, per_image))
        return tuple(peaks)

    def _count(self, storage: torch.UntypedStorage) -> Callable[[Any], None]:
        key, size = storage._cdata, storage.nbytes()
        fixed, per_image = (0, size // _BATCH) if size % _BATCH == 0 else (size, 0)
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
