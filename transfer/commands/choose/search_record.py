"""What a search for the settings of fine-tuning found, as choose.json holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RATE, DECAY = "optim.lr", "optim.weight_decay"


@dataclass(frozen=True)
class Attempt:
    """What became of one pair of settings.

    Attributes:
        lr: the rate; `weight_decay` the decay.
        state: `done`, `stopped early`, `failed` or `not finished`.
        accuracy: on the fold that chooses, in [0, 1]; None unless it is done.
    """

    lr: float
    weight_decay: float
    state: str
    accuracy: float | None


@dataclass(frozen=True)
class Searched:
    """A search for the rate and the weight decay of fine-tuning.

    Attributes:
        num_images: images of the fold that chose, the first one, which is not compared with the probe.
        attempts: the settings that were tried, the best first.
        settings: what is trained with, as dotted fields; empty if nothing was better than the rule's.
    """

    num_images: int
    attempts: list[Attempt]
    settings: dict[str, float]

    def __str__(self) -> str:
        chosen = describe_settings(self.settings) if self.settings else "the rule's"
        return f"{chosen}, of {len(self.attempts)} settings the best on another fold"


def describe_settings(settings: Mapping[str, float]) -> str:
    """Return a rate and a weight decay in words."""
    return f"rate {settings[RATE]:.2g}, weight decay {settings[DECAY]:.2g}"
