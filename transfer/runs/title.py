"""What a run is called where others see it: its name, and the group of runs that it belongs to."""

from __future__ import annotations

import os
from pathlib import Path

# Who starts several runs for one purpose sets them for each.
NAME_VARIABLE, GROUP_VARIABLE = "TRANSFER_RUN_NAME", "TRANSFER_RUN_GROUP"


def run_name(run_dir: Path) -> str:
    """Return the name of a run: the one that its experiment gave it, or that of its folder."""
    return os.environ.get(NAME_VARIABLE) or folder_title(run_dir)


def run_group() -> str | None:
    """Return the group of this process's run: a table's cell, a study, folds, or a sweep of W&B; None outside one."""
    return os.environ.get(GROUP_VARIABLE) or os.environ.get("WANDB_SWEEP_ID")


def folder_title(folder: Path) -> str:
    """Return the name of a folder, behind its parent's where it is a number: `photos_lite0/3`."""
    path = folder.resolve()
    return f"{path.parent.name}/{path.name}" if path.name.isdecimal() else path.name
