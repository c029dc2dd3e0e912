"""The settings of a run that differ from the defaults, and the command that repeats it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from transfer.config.parsing import flatten
from transfer.config.probe_schema import ProbeConfig, is_probe_field
from transfer.config.schema import FinetuneConfig
from transfer.config.words import flag_words, spell


class Setting(NamedTuple):
    """A setting, its value in a run and its default, as a command line spells them."""

    name: str
    value: str
    default: str


def changed_settings(config: Mapping[str, Any], is_probe: bool) -> dict[str, Any]:
    """Return the dotted settings of a run that are not the default, `out_dir` aside.

    Args:
        config: the run's configuration, of which a version may lack fields of a later one.
        is_probe: whether it is a linear probe's, which has fields of its own and few of a training's.
    """
    defaults = flatten(FinetuneConfig().to_dict())
    if is_probe:
        defaults = {name: value for name, value in defaults.items() if is_probe_field(name)} | asdict(ProbeConfig())
    given = flatten(config)
    return {
        name: given[name]
        for name, default in defaults.items()
        if name in given and given[name] != default and name != "out_dir"
    }


def settings_table(config: Mapping[str, Any], is_probe: bool) -> list[Setting]:
    """Return what `changed_settings` finds as rows of a table."""
    defaults = flatten(FinetuneConfig().to_dict()) | asdict(ProbeConfig())
    found = changed_settings(config, is_probe)
    return [Setting(name, spell(value), spell(defaults[name])) for name, value in found.items()]


def repeating_command(config: Mapping[str, Any], is_probe: bool) -> str:
    """Return the command line that repeats a run in a folder of its own."""
    verb = "probe" if is_probe else "finetune"
    return shlex.join(["efficientnet-transfer", verb, *flag_words(changed_settings(config, is_probe))])
