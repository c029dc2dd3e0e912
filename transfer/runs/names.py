"""Names of runs' folders: after the data and the backbone, and numbered."""

from __future__ import annotations

import re
from pathlib import Path

from transfer.config.schema import FinetuneConfig
from transfer.files import expanded


def claim_number(parent: Path) -> Path:
    """Create and return the numbered folder after the last one in `parent`, which no other process gets."""
    parent.mkdir(parents=True, exist_ok=True)
    number = max((int(path.name) for path in parent.iterdir() if path.name.isdecimal()), default=0) + 1
    while True:
        try:
            (parent / str(number)).mkdir()
            return parent / str(number)
        except FileExistsError:
            number += 1


def numbered_runs(config: FinetuneConfig, kind: str = "") -> Path:
    """Return runs/<data>_<backbone><kind>, the folder of numbered runs; see `data_name`."""
    return Path("runs") / f"{data_name(config)}_{config.backbone}{kind}"


def data_name(config: FinetuneConfig) -> str:
    """Return the dataset's name in names of folders, see `name_data`."""
    return name_data(config.dataset, config.data_root)


def name_data(dataset: str, data_root: str | None) -> str:
    """Return a dataset's name.

    Of images of one's own it is the name of their folder or table, with `_` in place of spaces and other signs.
    """
    if dataset != "folder" or data_root is None:
        return dataset
    root = expanded(data_root).resolve()
    name = re.sub(r"[^\w.-]+", "_", root.stem if root.is_file() else root.name)[:100].strip("._-")
    return name or dataset
