"""EfficientNet backbones, heads and a LightningModule for transfer learning.

The names below are imported on first use, so that `import transfer` costs nothing and pulls in no optional package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transfer.bundle.bundle import Bundle as Bundle
    from transfer.bundle.bundle import load_bundle as load_bundle
    from transfer.calibration.guarantees import Guarantees as Guarantees
    from transfer.commands.evaluate import evaluate as evaluate
    from transfer.commands.finetune import finetune as finetune
    from transfer.commands.finetune_folds import finetune_folds as finetune_folds
    from transfer.errors import UserError as UserError
    from transfer.networks.classifier import Classifier as Classifier
    from transfer.networks.heads import list_heads as list_heads
    from transfer.networks.registry import get_backbone as get_backbone
    from transfer.networks.registry import list_backbones as list_backbones
    from transfer.preprocessing import Preprocessing as Preprocessing
    from transfer.runs.predictor import Run as Run
    from transfer.runs.predictor import load_run as load_run
    from transfer.runs.results import Results as Results
    from transfer.training.callbacks import FreezeBackbone as FreezeBackbone
    from transfer.training.module import TransferModule as TransferModule
    from transfer.weights.build import build_backbone as build_backbone
    from transfer.weights.build import build_classifier as build_classifier
    from transfer.weights.rows import get_weights as get_weights
    from transfer.weights.rows import list_weights as list_weights

_HOME = {
    "finetune": "transfer.commands.finetune",
    "finetune_folds": "transfer.commands.finetune_folds",
    "evaluate": "transfer.commands.evaluate",
    "build_backbone": "transfer.weights.build",
    "get_backbone": "transfer.networks.registry",
    "list_backbones": "transfer.networks.registry",
    "Classifier": "transfer.networks.classifier",
    "build_classifier": "transfer.weights.build",
    "UserError": "transfer.errors",
    "Preprocessing": "transfer.preprocessing",
    "Results": "transfer.runs.results",
    "Run": "transfer.runs.predictor",
    "Guarantees": "transfer.calibration.guarantees",
    "list_heads": "transfer.networks.heads",
    "TransferModule": "transfer.training.module",
    "FreezeBackbone": "transfer.training.callbacks",
    "Bundle": "transfer.bundle.bundle",
    "load_bundle": "transfer.bundle.bundle",
    "load_run": "transfer.runs.predictor",
    "get_weights": "transfer.weights.rows",
    "list_weights": "transfer.weights.rows",
}
__all__ = list(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'transfer' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
