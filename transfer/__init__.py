"""EfficientNet backbones, heads and a LightningModule for transfer learning.

The names below are imported on first use, so that `import transfer` costs nothing and pulls in no optional package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transfer.backbones import build_backbone as build_backbone
    from transfer.backbones import get_backbone as get_backbone
    from transfer.backbones import list_backbones as list_backbones
    from transfer.classifier import Classifier as Classifier
    from transfer.classifier import build_classifier as build_classifier
    from transfer.errors import UserError as UserError
    from transfer.heads import list_heads as list_heads
    from transfer.module import TransferModule as TransferModule
    from transfer.runs import load_run as load_run
    from transfer.weights import get_weights as get_weights
    from transfer.weights import list_weights as list_weights

_HOME = {
    "build_backbone": "backbones",
    "get_backbone": "backbones",
    "list_backbones": "backbones",
    "Classifier": "classifier",
    "build_classifier": "classifier",
    "UserError": "errors",
    "list_heads": "heads",
    "TransferModule": "module",
    "load_run": "runs",
    "get_weights": "weights",
    "list_weights": "weights",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'transfer' has no attribute {name!r}")
    return getattr(importlib.import_module(f"transfer.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
