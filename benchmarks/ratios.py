"""Ratios of what was measured side by side."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any


def ratio(ours: Iterable[float], others: Iterable[float], name: str = "ratio", digits: int = 3) -> dict[str, Any]:
    """Return `name`, the median of ours / others round by round, and `name`_range, its smallest and largest.

    Args:
        ours: one figure from each round.
        others: the other contender's, from the same rounds.
        name: of the ratio in the figures.
        digits: decimals that are kept.
    """
    ratios = [own / other for own, other in zip(ours, others, strict=True)]
    ends = [round(min(ratios), digits), round(max(ratios), digits)]
    return {name: round(statistics.median(ratios), digits), f"{name}_range": ends}
