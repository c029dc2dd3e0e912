"""Datasets by name: `build_datamodule("cifar10", preprocessing=...)` gives train, val and test loaders.

Only the sheets are imported at once; what reads and loads images is imported on first use.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from datamodules.sheets import get_sheet, list_datasets

if TYPE_CHECKING:
    from datamodules.build import build_datamodule as build_datamodule
    from datamodules.build import load_dataset as load_dataset

__all__ = ["build_datamodule", "get_sheet", "list_datasets", "load_dataset"]

# Albumentations asks the network for its newest version on import; that stalls machines without one.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


def __getattr__(name: str) -> Any:
    if name not in ("build_datamodule", "load_dataset"):
        raise AttributeError(f"module 'datamodules' has no attribute {name!r}")
    return getattr(import_module("datamodules.build"), name)


def __dir__() -> list[str]:
    return __all__
