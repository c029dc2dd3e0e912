"""Operations on the meta device, each worked out once: torch does it in Python, and a deep network repeats itself."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor


class _Tensor(NamedTuple):
    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


class _Plain(NamedTuple):
    kind: type  # for 1, 1.0 and True are equal
    value: Any


def call(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return what an operator of torch returns for tensors on the meta device.

    Args:
        function: the operator that `TorchDispatchMode` hands over. One that changes its arguments, or returns views of
            them, is called each time.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """
    if not _is_functional(function):
        return function(*args, **kwargs)
    return _restored(_result(function, _key(args), tuple((name, _key(value)) for name, value in kwargs.items())))


@cache
def _is_functional(function: Any) -> bool:
    schema = function._schema
    return not schema.is_mutable and all(output.alias_info is None for output in schema.returns)


@lru_cache(maxsize=10_000)
def _result(function: Any, args: Any, kwargs: tuple[tuple[str, Any], ...]) -> Any:
    return _key(function(*_restored(args), **{name: _restored(value) for name, value in kwargs}))


def _key(value: Any) -> Any:
    """Return a key that is equal where operators do the same."""
    if isinstance(value, Tensor):
        return _Tensor(value.shape, value.stride(), value.dtype)
    if isinstance(value, list | tuple):
        return tuple(_key(each) for each in value)
    return _Plain(type(value), value)


def _restored(key: Any) -> Any:
    if isinstance(key, _Tensor):
        return torch.empty_strided(key.size, key.stride, dtype=key.dtype, device="meta")
    return key.value if isinstance(key, _Plain) else tuple(_restored(each) for each in key)
