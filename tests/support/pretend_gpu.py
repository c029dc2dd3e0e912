"""A pretended GPU: finds on a processor what would make it wait for a device.

The tensors of the pretended GPU say that they are on the device `meta`, and hold their values in the processor's
memory. Work on them goes on as on any device; noted is what waits for all the work that a real device has in its queue.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from transfer.lightning import pl

DEVICE = torch.device("meta")
_READS_VALUES = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_COPIES = (torch.ops.aten._to_copy, torch.ops.aten.copy_)
_INDEXING = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)
_NOT_THE_CALLER = (__file__, "/torch/", "/functools.py", "/contextlib.py")


class DeviceTensor(Tensor):
    """A tensor of the pretended GPU.

    Attributes:
        values: its values, in the processor's memory.
    """

    values: Tensor

    @staticmethod
    def __new__(cls: type[DeviceTensor], values: Tensor) -> DeviceTensor:
        own: DeviceTensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]  # missing in its types
            cls, values.shape, values.stride(), values.storage_offset(), dtype=values.dtype, device=DEVICE
        )
        own.values = values
        return own

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor({tuple(self.shape)})"

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(function, args, kwargs or {})


@contextmanager
def pretend_gpu() -> Iterator[list[str]]:
    """Let `DEVICE` be a GPU; yield what waited for it so far, each as `operator at file:line code`."""
    waits = _Waits()
    with waits, _FromPython():
        yield waits.found


class PretendGPU(pl.accelerators.CPUAccelerator):
    """Lightning's accelerator for the pretended GPU."""

    def setup_device(self, device: torch.device) -> None:
        """Do nothing: the device is there."""


class _Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]  # missing in its types
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if _waits(function, args, kwargs or {}):
            place = [f for f in traceback.extract_stack() if not any(part in f.filename for part in _NOT_THE_CALLER)][
                -1
            ]
            self.found.append(f"{function} at {place.filename}:{place.lineno} {place.line}")
        return _run(function, args, kwargs or {})


class _FromPython(TorchFunctionMode):
    """Takes apart what torch does between Python's numbers and a device without a word to the dispatcher."""

    def __torch_function__(
        self, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = torch.device(kwargs.pop("device"))
            return function(*args, **kwargs).to(device)
        if function in (Tensor.tolist, Tensor.numpy) and isinstance(args[0], DeviceTensor):
            args = (args[0].cpu(), *args[1:])
        return function(*args, **kwargs)


def _waits(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    on_device = [isinstance(each, DeviceTensor) for each in tensors]
    if function.overloadpacket in _COPIES:
        crosses = on_device[0] != on_device[-1] or on_device[0] != _goes_to_device(kwargs, on_device[0])
        return crosses and not (kwargs.get("non_blocking") or True in args[2:])
    if not any(on_device):
        return False
    if any(each.ndim and not on for on, each in zip(on_device, tensors, strict=True)):
        return True  # a tensor of the processor is copied first
    if function.overloadpacket in _INDEXING:
        return any(each.dtype in (torch.bool, torch.uint8) for each in tree_leaves(args[1]) if each is not None)
    return not _READS_VALUES.isdisjoint(function.tags)


def _goes_to_device(kwargs: dict[str, Any], otherwise: bool) -> bool:
    return otherwise if kwargs.get("device") is None else torch.device(kwargs["device"]) == DEVICE


def _run(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what an operator gives, on the pretended GPU if it is asked for there or an argument is there."""
    owners = {id(each.values): each for each in tree_leaves((args, kwargs)) if isinstance(each, DeviceTensor)}
    is_on_device = _goes_to_device(kwargs, bool(owners))
    if kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}

    def unwrap(value: Any) -> Any:
        return value.values if isinstance(value, DeviceTensor) else value

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return owners[id(value)] if id(value) in owners else DeviceTensor(value)

    result = function(*tree_map(unwrap, args), **tree_map(unwrap, kwargs))
    if function.overloadpacket is torch.ops.aten.copy_:
        return args[0]
    return tree_map(wrap, result) if is_on_device else result
