"""Which trials a cell runs, and which one it chooses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from transfer.errors import UserError

Trial = Mapping[str, Any]
ETA = 3


@dataclass(frozen=True)
class Rung:
    """Some trials, each a fresh run of the same number of optimizer steps."""

    size: int
    steps: int


def trials_of(protocol_grid: Sequence[Trial], grid: Mapping[str, Sequence[Any]]) -> tuple[Trial, ...]:
    """The trials of a protocol: its own grid, or every combination of the values in `grid` in its place.

    A protocol that has nothing to choose stays as it is.
    """
    if len(protocol_grid) == 1 or not grid:
        return tuple(protocol_grid)
    return tuple(dict(zip(grid, values, strict=True)) for values in product(*grid.values()))


def plan_rungs(num_trials: int, steps: int, budget_steps: int | None) -> tuple[Rung, ...]:
    """Successive halving (Jamieson & Talwalkar 2016): each rung keeps the best third of the one before, three times as
    long; all of them get the same share of the budget. One rung of full length if there is no budget, or enough of it.

    Args:
        steps: optimizer steps of a full fit; no rung is longer.
        budget_steps: most optimizer steps of all rungs together.

    Raises:
        UserError: the budget is too small to try each once.
    """
    if num_trials == 1:
        return ()
    if budget_steps is None or budget_steps >= num_trials * steps:
        return (Rung(num_trials, steps),)
    sizes = [num_trials]
    while sizes[-1] // ETA >= 2:
        sizes.append(sizes[-1] // ETA)
    lengths = [min(steps, budget_steps // len(sizes) // size) for size in sizes]
    if lengths[0] < 1:
        raise UserError(
            f"--budget_steps {budget_steps}: too few for {num_trials} trials in {len(sizes)} rungs"
            f" (allowed: at least {num_trials * len(sizes)}; {num_trials * steps} is the full grid)"
        )
    return tuple(Rung(size, length) for size, length in zip(sizes, lengths, strict=True))


def best(scores: Sequence[float], count: int) -> list[int]:
    """Positions of the `count` highest scores, best first; of equals the first; what is no number comes last."""
    return sorted(range(len(scores)), key=lambda k: (math.isnan(scores[k]), -scores[k], k))[:count]


def describe_search(num_trials: int, steps: int, grid: Mapping[str, Sequence[Any]], budget_steps: int | None) -> str:
    """As a result says it: `none`, `full grid`, `reduced grid: ...`, `successive halving, N steps`."""
    if num_trials == 1 and not grid:
        return "none"
    values = "; ".join(f"{name} {', '.join(map(str, choices))}" for name, choices in grid.items())
    reduced = f"reduced grid: {values}" if grid else ""
    if plan_rungs(num_trials, steps, budget_steps) not in ((), (Rung(num_trials, steps),)):
        halving = f"successive halving, {budget_steps} steps"
        return f"{reduced}; {halving}" if reduced else halving
    return reduced or "full grid"
