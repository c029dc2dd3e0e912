"""What may change when a run is resumed: where and how fast it computes, and its length, which may grow."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transfer.config.schema import TrainerConfig
from transfer.errors import BadValue

# Fields that decide where and how fast a run computes, not what.
RESUMABLE = re.compile(
    r"data_root|on_bad_image|logger|log_photos|log_model|report|compile|data\.(num_workers|max_pixels)"
    r"|trainer\.(accelerator|devices|num_nodes|strategy|precision|max_time"
    r"|limit_test_batches|log_every_n_steps|deterministic|benchmark|profiler|detect_anomaly|enable_\w+)"
)
LENGTH = ("trainer.max_epochs", "trainer.max_steps")


def refuse_changes(run_dir: Path, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Refuse changes of what a run computes, but for more epochs or steps.

    Args:
        run_dir: the run to resume, for the message.
        before, after: its configuration and the new one, flat.

    Raises:
        BadValue: there are such changes; all are listed.
    """
    changed = {k: f"`{k}`={before[k]} -> {after[k]}" for k in before if before[k] != after[k]}
    if shorter := [line for k, line in changed.items() if k in LENGTH and _length(after[k]) < _length(before[k])]:
        raise BadValue(f"`resume`={run_dir}: a run may become longer, not shorter: {', '.join(shorter)}")
    if refused := [line for k, line in changed.items() if k not in LENGTH and not RESUMABLE.fullmatch(k)]:
        raise BadValue("\n  ".join([f"`resume`={run_dir} cannot change what the run computes:", *refused]))


def is_longer(before: TrainerConfig, after: TrainerConfig) -> bool:
    """Return whether the epochs or steps of a run were raised."""
    return (before.max_epochs, before.max_steps) != (after.max_epochs, after.max_steps)


def _length(value: int) -> float:
    return math.inf if value == -1 else value
