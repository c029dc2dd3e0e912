"""The options that every study has, and their defaults. Imports nothing, so that --help is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# The proxy task: a recipe of finetune.
PROXY = Path(__file__).with_name("proxy.yaml")
# The recipe has those of `image_size` and `steps`.
STUDY_DEFAULTS: dict[str, Any] = {
    **{"baseline": "b0", "dataset": "digits", "data_root": None, "seeds": [0, 1, 2], "threads": 1, "logger": "csv"},
    **{"config": PROXY, "set": []},
}
