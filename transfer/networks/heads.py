"""Heads: pooled features (N, num_features) -> logits (N, num_classes). One class and one row of HEADS each.

Every head starts so that all classes get the same logit: the first cross-entropy is exactly ln(num_classes).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transfer.errors import BadValue, unknown_name
from transfer.networks.user_code import import_callable


class LinearHead(nn.Module):
    """Dropout and one linear layer, the head of the paper; starts at zero."""

    def __init__(self, num_features: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(num_features, num_classes)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc(self.dropout(features))


class MLPHead(LinearHead):
    """A hidden layer as wide as the features before the linear one: linear, BatchNorm, SiLU, dropout, linear."""

    def __init__(self, num_features: int, num_classes: int, dropout: float) -> None:
        super().__init__(num_features, num_classes, dropout)
        self.hidden = nn.Sequential(
            nn.Linear(num_features, num_features, bias=False), nn.BatchNorm1d(num_features), nn.SiLU()
        )

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(self.hidden(features))


class CosineHead(nn.Module):
    """Logit = scale * cos(features, class direction), with a learned scale; feature length plays no role.

    Source: Gidaris & Komodakis 2018 (arXiv 1804.09458), section 3.2. All classes start from one direction.
    """

    def __init__(self, num_features: int, num_classes: int, dropout: float, scale: float = 16.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.weight = nn.Parameter(torch.randn(num_features).expand(num_classes, num_features).clone())
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, features: Tensor) -> Tensor:
        features = F.normalize(self.dropout(features), dim=1)
        return self.scale * F.linear(features, F.normalize(self.weight, dim=1))


HeadFactory = Callable[[int, int, float], nn.Module]

HEADS: dict[str, HeadFactory] = {"linear": LinearHead, "mlp": MLPHead, "cosine": CosineHead}


def list_heads() -> list[str]:
    """Names in the table."""
    return list(HEADS)


def get_head(name: str) -> HeadFactory:
    """The head's class: a name of the table, or the import path of your own (`package.module.ClassName`).

    It is called as `head(num_features, num_classes, dropout)`.

    Raises:
        UserError: no such head, or the import fails.
    """
    if name in HEADS:
        return HEADS[name]
    if "." not in name:
        raise unknown_name("head", name, [*list_heads(), "your.module.YourHead"])
    return import_callable(name, "head", list_heads())


def build_head(name: str, num_features: int, num_classes: int, dropout: float) -> nn.Module:
    """A fresh head.

    Args:
        name: see `get_head`.
        dropout: probability in [0, 1) of zeroing a feature while training.

    Raises:
        UserError: unknown head, or a number out of range.
    """
    if num_classes < 1:
        raise BadValue(f"`num_classes`={num_classes}: at least 1 is needed")
    if not 0.0 <= dropout < 1.0:
        raise BadValue(f"`dropout`={dropout}: allowed is 0 <= dropout < 1")
    return get_head(name)(num_features, num_classes, dropout)
