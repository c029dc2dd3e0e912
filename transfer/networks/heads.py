"""Heads: pooled features (N, num_features) -> logits (N, num_classes). Each is a class and a row of HEADS.

Every head starts with the same logit for all classes: the first cross-entropy is exactly ln(num_classes).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transfer.errors import BadValue, unknown_name
from transfer.networks.user_code import import_callable


class LinearHead(nn.Module):
    """Dropout and one linear layer, as in the paper; all weights start at zero."""

    def __init__(self, num_features: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(num_features, num_classes)
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc(self.dropout(features))


class StagesHead(LinearHead):
    """A linear head that sees the pooled maps of the last three stages, too."""

    num_stages = 3


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
    """Logit = scale * cos(features, class direction), with a learned scale; the features' length plays no role.

    Source: Gidaris & Komodakis 2018 (arXiv 1804.09458), section 3.2. All classes start from the same direction.
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

HEADS: dict[str, HeadFactory] = {
    "linear": LinearHead,
    "mlp": MLPHead,
    "cosine": CosineHead,
    "stages": StagesHead,
}


def pooled_stages(head: str | HeadFactory | nn.Module) -> int:
    """Return how many stages' pooled maps a head of `build_head` sees besides the backbone's output.

    Raises:
        UserError: no such head, or the import fails.
    """
    return getattr(get_head(head) if isinstance(head, str) else head, "num_stages", 0)


def list_heads() -> list[str]:
    """Return the names in the table."""
    return list(HEADS)


def get_head(name: str) -> HeadFactory:
    """Return the head's class: a row of the table, or your own by its import path (`package.module.ClassName`).

    It is called as `head(num_features, num_classes, dropout)`.

    Raises:
        UserError: no such head, or the import fails.
    """
    if name in HEADS:
        return HEADS[name]
    if "." not in name:
        raise unknown_name("head", name, [*list_heads(), "your.module.YourHead"])
    return import_callable(name, "head", list_heads())


def build_head(head: str | HeadFactory | nn.Module, num_features: int, num_classes: int, dropout: float) -> nn.Module:
    """Return a fresh head, or the module that is given.

    Args:
        head: a name or import path, see `get_head`; a class or function that is called as
            `head(num_features, num_classes, dropout)`; or a module, which is used as it is, its own dropout included.
        num_features: channels of the pooled features.
        num_classes: outputs, at least 1.
        dropout: probability in [0, 1) of zeroing a feature while training.

    Raises:
        UserError: unknown head, a number out of range, or a head of the user's own that is no module or does not turn
            features (N, num_features) into logits (N, num_classes).
    """
    if num_classes < 1:
        raise BadValue(
            f"`num_classes`={num_classes}: at least 1 is needed (features without a head: `forward_head(...,"
            " pre_logits=True)`)"
        )
    if not 0.0 <= dropout < 1.0:
        raise BadValue(f"`dropout`={dropout}: allowed is 0 <= dropout < 1")
    if isinstance(head, nn.Module):
        _check_outputs(head, num_features, num_classes)
        return head
    factory = get_head(head) if isinstance(head, str) else head
    built = factory(num_features, num_classes, dropout)
    if factory not in HEADS.values():
        _check_outputs(built, num_features, num_classes)
    return built


@torch.no_grad()
def _check_outputs(head: nn.Module, num_features: int, num_classes: int) -> None:
    """Refuse a head of the user's own that is no head; lazy modules get their shapes here."""
    needed = f"needed: features (N, {num_features}) -> logits (N, {num_classes})"
    if not isinstance(head, nn.Module):
        raise BadValue(f"`head`: got {type(head).__name__}, not an nn.Module ({needed})")
    parameter = next(head.parameters(), torch.empty(0))
    features = torch.zeros(2, num_features, device=parameter.device, dtype=parameter.dtype)
    modes = {module: module.training for module in head.modules()}
    try:
        logits = head.eval()(features)
    except Exception as error:  # the user's code raises what it likes
        raise BadValue(f"`head`: {type(head).__name__} refuses features {tuple(features.shape)}: {error}") from error
    finally:
        for module, training in modes.items():
            module.training = training
    if not isinstance(logits, Tensor) or logits.shape != (2, num_classes):
        shape = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise BadValue(f"`head`: {type(head).__name__} returns {shape} for features (2, {num_features}) ({needed})")
