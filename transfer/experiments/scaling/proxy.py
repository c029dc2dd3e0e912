"""The proxy task: a recipe of finetune, and the settings that replace its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transfer.config.command_line import given_fields, parse_config, split_pairs
from transfer.config.parsing import flatten
from transfer.errors import BadValue, MissingData

# Fields of a run that the study decides, and by what.
DECIDED = {
    "dataset": "`dataset`",
    "data_root": "`data_root`",
    "backbone": "`baseline`",
    "seed": "`seeds`",
    "logger": "`logger`",
    "out_dir": "the study's own folder",
    "trainer.max_epochs": "`steps`",
    "trainer.devices": "each run has one",
    "trainer.limit_test_batches": "test is not read",
    **dict.fromkeys(("data.train_on", "folds", "fold"), "networks are compared on val"),
    **dict.fromkeys(("pretrained", "init_from", "init_head", "weights"), "networks start at random"),
    **dict.fromkeys(("protocol", "recipe"), "`config`"),
}


def proxy_settings(recipe: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the dotted fields that a recipe sets, with their values.

    Args:
        recipe: YAML file.
        overrides: KEY=VALUE, which replace the recipe's.

    Raises:
        UserError: no such file; an unknown or wrong value; a field that the study decides.
    """
    if not recipe.is_file():
        raise MissingData(f"`config`={recipe}: no such file")
    pairs = split_pairs("`set`", overrides, "optim.lr=0.1")
    words = [f"--config={recipe}", *(f"--{key}={value}" for key, value in pairs)]
    values = flatten(parse_config(words)[0].to_dict())
    given = given_fields(words)
    for name in sorted(given & DECIDED.keys()):
        raise BadValue(f"`config` or `set` {name}: the study decides it ({DECIDED[name]})")
    return {name: values[name] for name in sorted(given)}
