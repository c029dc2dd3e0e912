"""Packages that an engine needs besides torch, how they are fed, and what they refuse."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from transfer.errors import BadValue, MissingData
from transfer.inference.names import ENGINES

CHUNK = 4  # images that are computed at a time: they stay in the cores' caches


def load_package(engine: str, package: str) -> Any:
    """Return a package that an engine needs.

    Raises:
        MissingData: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        extra = ENGINES[engine].extra
        raise MissingData(f"`engine`={engine}: {error}; run: pip install 'efficientnet-transfer[{extra}]'") from None


def refusal(engine: str, network: nn.Module, error: Exception) -> BadValue:
    """Return the error for a network that a library cannot compute, in one line."""
    return BadValue(
        f"`engine`={engine}: {type(network).__name__} cannot be converted: {' '.join(str(error).split())[:300]}"
    )
