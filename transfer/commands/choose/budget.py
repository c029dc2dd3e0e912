"""The time that a choice may take, and what is left of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from transfer.config.durations import format_duration


@dataclass(frozen=True)
class Budget:
    """A budget of time.

    Attributes:
        text: the budget as the user gave it.
        seconds: the budget.
        started: when it began to run, of `time.perf_counter`.
    """

    text: str
    seconds: float
    started: float = field(default_factory=time.perf_counter)

    @property
    def spent(self) -> float:
        """Seconds since it began to run."""
        return time.perf_counter() - self.started

    @property
    def left(self) -> float:
        """Seconds that are left of it; below 0 where it is overspent."""
        return self.seconds - self.spent

    def __str__(self) -> str:
        return f"{format_duration(self.left)} left of --budget {self.text}"
