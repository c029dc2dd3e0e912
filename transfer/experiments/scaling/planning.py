"""From a user's options to a study: checked, compared with the one that is there, and told about its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transfer.config.command_line import parse_config
from transfer.config.schema import FinetuneConfig
from transfer.environment import command_words
from transfer.errors import BadValue, check_count
from transfer.experiments.scaling.defaults import STUDY_DEFAULTS
from transfer.experiments.scaling.plan import (
    FREE_OPTIONS,
    Study,
    Trial,
    TrialRun,
    check_unchanged,
    run_configuration,
)
from transfer.experiments.scaling.proxy import proxy_settings
from transfer.files import expanded
from transfer.preprocessing import SMALLEST_IMAGE


def wanted_study(kind: str, given: Mapping[str, Any], own_defaults: Mapping[str, Any]) -> Study:
    """Return the study that the user asks for, without its trials and runs.

    Args:
        kind: the command of `scale`.
        given: options that the user gave.
        own_defaults: defaults of the options that only this kind has.

    Raises:
        UserError: an unknown name, or a value that cannot work.
    """
    from transfer.networks.registry import get_backbone

    options = _with_absolute_root({**STUDY_DEFAULTS, **own_defaults, **given})
    settings = proxy_settings(options.pop("config"), options.pop("set"))
    for name, field in (("image_size", "image_size"), ("steps", "trainer.max_steps")):
        options.setdefault(name, settings.pop(field, None))
        settings.pop(field, None)
        if options[name] is None:
            raise BadValue(f"`{name}`: the recipe has none; give it")
    for name, least in (("steps", 1), ("threads", 1), ("image_size", SMALLEST_IMAGE)):
        check_count(name, options[name], least)
    seeds = options["seeds"]
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise BadValue(f"`seeds`={' '.join(map(str, seeds))} (allowed: different numbers of at least 0)")
    options["baseline"] = get_backbone(options["baseline"]).name
    return Study(kind, options, settings)


def reopen_study(
    study: Study, folder: Path, kind: str, given: Mapping[str, Any], own_defaults: Mapping[str, Any]
) -> Study:
    """Return an existing study with where and how its runs compute as it is given now.

    Args:
        study: the study.
        folder: its folder.
        kind: the command of `scale`.
        given: options that the user gave.
        own_defaults: defaults of the options that only this kind has.

    Raises:
        UserError: the study is of another kind, or its runs would compute something else.
    """
    if study.kind != kind:
        raise BadValue(f"{folder} holds a study of another kind: {continue_command(study, folder)}")
    given = _with_absolute_root(given)
    if given.keys() - set(FREE_OPTIONS):
        check_unchanged(study, wanted_study(kind, given, own_defaults), folder)
    free = {name: value for name, value in given.items() if name in FREE_OPTIONS}
    return replace(study, options={**study.options, **free})


def _with_absolute_root(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options whose folder of the data does not depend on the current folder."""
    root = options.get("data_root")
    return {**options} if root is None else {**options, "data_root": str(expanded(root).resolve())}


def with_data(study: Study, num_classes: int, split_sizes: Mapping[str, int]) -> Study:
    """Return the study with what its trials and its report have to know about the data.

    Args:
        study: the study.
        num_classes: number of classes.
        split_sizes: images of train and val.

    Raises:
        UserError: a configuration that cannot work.
    """
    config = baseline_configuration(study)
    limit = config.trainer.limit_val_batches
    if isinstance(limit, float):
        limit = int(limit * -(-split_sizes["val"] // config.data.batch_size))
    validated = split_sizes["val"] if limit is None else min(split_sizes["val"], limit * config.data.batch_size)
    facts = {
        "command": command_words(),
        "num_classes": num_classes,
        "train_images": split_sizes["train"],
        "val_images": validated,
    }
    return replace(study, facts={**study.facts, **facts})


def baseline_configuration(study: Study) -> FinetuneConfig:
    """Return the configuration of a run of the baseline, as finetune will have it.

    Raises:
        UserError: it cannot work.
    """
    options = study.options
    trial = Trial("", options["baseline"], {}, options["image_size"], 0, 0)
    run = TrialRun("", "", options["seeds"][0], options["steps"], 0)
    fields = run_configuration(study.extended([], [trial]), run)
    words = [f"--{name}={'null' if value is None else value}" for name, value in fields.items()]
    return parse_config(words)[0]


def user_code(study: Study, typed: str | None = None) -> list[tuple[str, object]]:
    """Return the names in a study that may be import paths, besides scales of the baseline that the user typed."""
    names = [("baseline", study.options.get("baseline")), ("head", study.settings.get("head"))]
    names += [("backbone", trial.backbone) for trial in study.trials]
    own = typed and typed.partition("@")[0]
    return [(argument, name) for argument, name in names if own is None or str(name).partition("@")[0] != own]


def continue_command(study: Study, folder: Path) -> str:
    """Return the command that goes on with a study."""
    return f"efficientnet-transfer scale {study.kind} {folder}"
