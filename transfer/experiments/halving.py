"""Which trials are run, for how long, and which of them are kept: a full grid, or successive halving."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from transfer.errors import BadValue

ETA = 3


@dataclass(frozen=True)
class Round:
    """A number of trials, each a fresh run of the same number of optimizer steps."""

    size: int
    steps: int


def list_trials(
    own_grid: Sequence[Mapping[str, Any]], grid: Mapping[str, Sequence[Any]]
) -> tuple[Mapping[str, Any], ...]:
    """Return the trials to choose from: a grid's own rows, or every combination of other values in their place.

    Args:
        own_grid: dotted fields of each row. A single row leaves nothing to choose and stays as it is.
        grid: values of each dotted field that replace the grid; empty keeps its own rows.
    """
    if len(own_grid) == 1 or not grid:
        return tuple(own_grid)
    return tuple(dict(zip(grid, values, strict=True)) for values in product(*grid.values()))


def plan_rounds(num_trials: int, steps: int, budget_steps: int | None) -> tuple[Round, ...]:
    """Plan successive halving (Jamieson & Talwalkar 2016).

    Each round keeps the best third of the round before and trains them three times as long, so that all rounds take the
    same share of the budget. Without a budget, or with enough of it, there is one round of full length.

    Args:
        num_trials: trials to choose from; of a single one there is nothing to choose, and no round.
        steps: optimizer steps of a full run; no round is longer.
        budget_steps: most optimizer steps of all rounds together.

    Raises:
        UserError: the budget is too small to try each trial once.
    """
    if num_trials == 1:
        return ()
    if budget_steps is None or budget_steps >= num_trials * steps:
        return (Round(num_trials, steps),)
    sizes = [num_trials]
    while sizes[-1] // ETA >= 2:
        sizes.append(sizes[-1] // ETA)
    lengths = [min(steps, budget_steps // len(sizes) // size) for size in sizes]
    if lengths[0] < 1:
        raise BadValue(
            f"`budget_steps`={budget_steps}: too few for {num_trials} trials in {len(sizes)} rounds"
            f" (allowed: at least {num_trials * len(sizes)}; {num_trials * steps} is the full grid)"
        )
    return tuple(Round(size, length) for size, length in zip(sizes, lengths, strict=True))


def best(scores: Sequence[float], count: int) -> list[int]:
    """Return the positions of the `count` highest scores, best first.

    Of equal scores the first comes first; those that are not a number come last.
    """
    return sorted(range(len(scores)), key=lambda k: (math.isnan(scores[k]), -scores[k], k))[:count]


def describe_trial(trial: Mapping[str, Any]) -> str:
    """Return ` (optim.lr 0.1, ...)`, or an empty string for an empty trial."""
    words = [f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in trial.items()]
    return f" ({', '.join(words)})" if words else ""


def describe_search(num_trials: int, steps: int, grid: Mapping[str, Sequence[Any]], budget_steps: int | None) -> str:
    """Return how trials are searched, in words.

    `none`, `full grid`, `reduced grid: ...` or `successive halving, N steps`.

    Args:
        num_trials: trials to choose from.
        steps: optimizer steps of a full run.
        grid: values of each dotted field that replace the protocol's grid; empty for its own.
        budget_steps: see `plan_rounds`.
    """
    if num_trials == 1 and not grid:
        return "none"
    values = "; ".join(f"{name} {', '.join(map(str, choices))}" for name, choices in grid.items())
    reduced = f"reduced grid: {values}" if grid else ""
    if plan_rounds(num_trials, steps, budget_steps) not in ((), (Round(num_trials, steps),)):
        halving = f"successive halving, {budget_steps} steps"
        return f"{reduced}; {halving}" if reduced else halving
    return reduced or "full grid"
