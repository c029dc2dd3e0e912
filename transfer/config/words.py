"""Settings as the words of a command line."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from typing import Any

from transfer.config.parsing import flatten
from transfer.config.schema import FinetuneConfig


def changed_words(fields: Mapping[str, Any], without: Container[str] = ()) -> list[str]:
    """Return the words that set fields as they are, as far as they differ from the defaults.

    Args:
        fields: value of each dotted field of a `FinetuneConfig`.
        without: fields to leave out.
    """
    defaults = flatten(FinetuneConfig().to_dict())
    changed = {name: value for name, value in fields.items() if value != defaults[name] and name not in without}
    if changed.get("data_root") is not None and changed.get("dataset") == "folder":
        del changed["dataset"]  # it follows
    return flag_words(changed)


def flag_words(fields: Mapping[str, Any]) -> list[str]:
    """Return the words that set dotted fields."""
    return [word for name, value in fields.items() for word in (f"--{name}", spell(value))]


def spell(value: object) -> str:
    """Return a value as a command line spells it."""
    return value if isinstance(value, str) else json.dumps(value)
