"""Regularised evolution of a network's blocks, apart from the rest: only `scale evolve` imports it."""

from __future__ import annotations

from typing import Any

from transfer.networks.scaling import OBJECTIVE_EXPONENT

# Options that only an evolution has.
DEFAULTS: dict[str, Any] = {
    **{"population": 8, "sample": 3, "networks": 24, "children": 1, "search_seed": 0},
    **{"target_macs": None, "exponent": OBJECTIVE_EXPONENT},
}
PAPER_SIZE = 224  # side of the images of the paper's search, in pixels
