"""The command line, recipes and `config.yaml`: three forms of a `FinetuneConfig`.

The command line overrides `--config`, which overrides the choices of `--protocol` or `--recipe auto`, which override
the defaults. This module imports neither torch nor Lightning, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import jsonargparse
import yaml

from transfer.config.choose_problems import find_choose_problems
from transfer.config.choose_schema import CHOOSE_FIELDS, CHOOSE_TRAINER_FIELDS, ChooseConfig
from transfer.config.parsing import NO_FIELDS, Given, flatten, instantiate, parse_given, parse_values, plain, read_given
from transfer.config.probe_schema import PROBE_FIELDS, PROBE_TRAINER_FIELDS, ProbeConfig
from transfer.config.problems import find_nulls, find_probe_problems, find_problems
from transfer.config.recipes import add_allow_user_code, add_open, refuse_code_in_recipes, split_resume, user_code
from transfer.config.resuming import refuse_changes
from transfer.config.schema import FinetuneConfig, TrainerConfig
from transfer.config.screens import add_help
from transfer.errors import BadValue, not_a_run
from transfer.files import write_text
from transfer.networks.user_code import refuse_user_code
from transfer.run_files import CONFIG

Own = TypeVar("Own", ProbeConfig, ChooseConfig)


@cache
def build_parser() -> jsonargparse.ArgumentParser:
    """Return the parser of `efficientnet-transfer finetune`; a command asks for it several times."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog="efficientnet-transfer finetune",
        usage="%(prog)s [--config RECIPE.yaml] [--data_root DIR] [options]",
        description="Train a network on your images or a public dataset.\n\nThe command line overrides --config, which"
        " overrides --protocol and --recipe auto, which override the defaults. --resume continues an interrupted run;"
        " with more --trainer.max_epochs or --trainer.max_steps it lengthens any run.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML recipe; it needs only what differs from the defaults")
    parser.add_argument("--resume", metavar="RUN_DIR", default=argparse.SUPPRESS, help="folder of the run to continue")
    add_allow_user_code(parser)
    add_open(parser)
    parser.add_class_arguments(FinetuneConfig)
    add_help(parser)
    return parser


def parse_config(argv: Sequence[str]) -> tuple[FinetuneConfig, Path | None]:
    """Return the configuration of a command line, and the folder of the run to resume or None.

    Args:
        argv: words after the command's name.

    Raises:
        UserError: an option or value is unknown (the nearest name is suggested), values are out of range or conflict
            (all are listed), or resuming would change what the run computes.
        SystemExit: after --help and --print_config.
    """
    run_dir, allow_user_code, rest = split_resume(argv)
    if run_dir is None:
        parser = build_parser()
        given = read_given(rest, parser)
        config = _build(given, parser)
        refuse_code_in_recipes(given, config, allow_user_code)
        return config, None
    saved = load_config(run_dir / CONFIG)
    refuse_user_code(run_dir, user_code(saved), allow_user_code)
    config = _parse(["--config", str(run_dir / CONFIG), *rest])
    refuse_changes(run_dir, flatten(saved.to_dict()), flatten(config.to_dict()))
    return config, run_dir


def build_config(
    config: FinetuneConfig | None, resume: Path | None, changes: Mapping[str, Any], allow_user_code: bool = False
) -> tuple[FinetuneConfig, frozenset[str]]:
    """Return the configuration of a call from Python, and the dotted fields that the caller set.

    Args:
        config: configuration to which `changes` are applied; None for the defaults, or for the configuration of the
            run to resume.
        resume: folder of the run to continue.
        changes: fields of `FinetuneConfig`; paths may be `Path`s; groups are dictionaries of some of their fields, or
            whole dataclasses, of which the fields that differ from the defaults count as set.
        allow_user_code: whether to import a backbone or a head of one's own that the run to resume names.

    Raises:
        UserError: fields are unknown or wrong (all are listed), or resuming would change what the run computes.
    """
    defaults = FinetuneConfig() if resume is None else load_config(resume / CONFIG)
    if resume is not None:
        refuse_user_code(resume, user_code(defaults), allow_user_code)
    before, base = flatten(defaults.to_dict()), plain((config or defaults).to_dict())
    given = plain(changes)
    changed = FinetuneConfig(**parse_values({**base, **given}, build_parser()))
    set_before = {name for name, value in base.items() if resume is not None or value != before[name]}
    changed = _with_implied(changed, {*given, *set_before})
    Given(given).refuse([*find_problems(changed), *_unused_cache_dir(changed, given)])
    if resume is not None:
        refuse_changes(resume, before, flatten(changed.to_dict()))
        return changed, frozenset()
    chosen = {k for k, v in given.items() if not is_dataclass(changes.get(k.partition(".")[0])) or v != before[k]}
    return changed, frozenset(chosen) | set_before


@cache
def build_probe_parser() -> jsonargparse.ArgumentParser:
    """Return the parser of `efficientnet-transfer probe`: its own fields and those it shares with fine-tuning."""
    return _build_part_parser(
        "probe",
        "[--backbone NAME]",
        "Fit a logistic regression to the features of a frozen network, with the best of 45 L2 penalties.",
        (ProbeConfig, PROBE_FIELDS, PROBE_TRAINER_FIELDS),
    )


def build_choose_parser() -> jsonargparse.ArgumentParser:
    """Return the parser of `efficientnet-transfer choose`: its own fields and those it shares with fine-tuning."""
    return _build_part_parser(
        "choose",
        "[--backbones NAME,NAME]",
        "Find the network to take for your images, and how to train it.\n\nTakes the one whose cross-validated head is"
        " best, unless a faster one is not worse beyond the 95% interval of the paired difference; fine-tunes it on"
        " the same folds, as far as the budget goes; and leaves the better of both as a run, which reads test once.",
        (ChooseConfig, CHOOSE_FIELDS, CHOOSE_TRAINER_FIELDS),
    )


def _build_part_parser(
    verb: str, usage: str, description: str, schema: tuple[type[Any], Sequence[str], Sequence[str]]
) -> jsonargparse.ArgumentParser:
    """Return the parser of a command with a schema of its own that shares fields of a run and of its trainer."""
    own, shared, shared_trainer = schema
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog=f"efficientnet-transfer {verb}",
        usage=f"%(prog)s [--data_root DIR] {usage} [options]",
        description=description,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML recipe; it needs only what differs from the defaults")
    parser.add_class_arguments(own)
    parser.add_class_arguments(FinetuneConfig, skip=_other_fields(FinetuneConfig, shared))
    parser.add_class_arguments(TrainerConfig, "trainer", skip=_other_fields(TrainerConfig, shared_trainer))
    add_help(parser)
    return parser


def _other_fields(schema: type[Any], names: Sequence[str]) -> set[str]:
    return {field.name for field in fields(schema)} - set(names)


def parse_probe_config(argv: Sequence[str]) -> tuple[FinetuneConfig, ProbeConfig]:
    """Return the configuration of a probe: the fields it shares with fine-tuning, the rest at defaults, and its own.

    Args:
        argv: words after the command's name.

    Raises:
        UserError, SystemExit: see `parse_config`.
    """
    config, own, given = _parse_part(argv, build_probe_parser(), ProbeConfig)
    given.refuse(find_nulls(own) or find_probe_problems(config, own))
    return config, own


def parse_choose_config(argv: Sequence[str]) -> tuple[FinetuneConfig, ChooseConfig]:
    """Return the configuration of a choice: the fields it shares with fine-tuning, the rest at defaults, and its own.

    Args:
        argv: words after the command's name.

    Raises:
        UserError, SystemExit: see `parse_config`.
    """
    config, own, given = _parse_part(argv, build_choose_parser(), ChooseConfig)
    given.refuse(find_nulls(own) or find_choose_problems(config, own))
    return config, own


def _parse_part(
    argv: Sequence[str], parser: jsonargparse.ArgumentParser, schema: Callable[..., Own]
) -> tuple[FinetuneConfig, Own, Given]:
    given = read_given(argv, parser)
    values = instantiate(parse_given(given, parser), parser)
    own = schema(**{name: values.pop(name) for name in get_type_hints(schema)})
    return _with_implied(FinetuneConfig(**values), given.recipes.keys() | given.typed), own, given


def given_fields(argv: Sequence[str]) -> frozenset[str]:
    """Return the dotted fields set on a command line or in its recipes; `parse_config` must accept the line."""
    parser = build_parser()
    flat = parse_given(read_given(argv, parser), parser, defaults=False).as_flat()
    return frozenset(vars(flat)) - NO_FIELDS


def apply_choices(
    config: FinetuneConfig, choices: Mapping[str, Any], given: frozenset[str]
) -> tuple[FinetuneConfig, dict[str, Any]]:
    """Return the configuration with chosen values in the fields that the user did not set, and the values applied.

    If the user set the length of training, in steps or in epochs, no chosen length is applied.

    Args:
        config: configuration as the user set it.
        choices: value of each dotted field.
        given: dotted fields that the user set; see `given_fields`.

    Raises:
        UserError: the resulting values are out of range or conflict; all are listed.
    """
    applied = {name: value for name, value in choices.items() if name not in given}
    if "trainer.max_epochs" in given:
        applied.pop("trainer.max_steps", None)
    groups: dict[str, dict[str, Any]] = {}
    for name, value in applied.items():
        group, _, field = name.rpartition(".")
        groups.setdefault(group, {})[field] = value
    top = groups.pop("", {})
    config = replace(config, **top, **{g: replace(getattr(config, g), **values) for g, values in groups.items()})
    Given(applied).refuse(find_problems(config))
    return config, applied


def _parse(argv: Sequence[str]) -> FinetuneConfig:
    parser = build_parser()
    return _build(read_given(argv, parser), parser)


def _build(given: Given, parser: jsonargparse.ArgumentParser) -> FinetuneConfig:
    config = _with_implied(
        FinetuneConfig(**instantiate(parse_given(given, parser), parser)), given.recipes.keys() | given.typed
    )
    given.refuse([*find_problems(config), *_unused_cache_dir(config, given.typed)])
    return config


def _unused_cache_dir(config: FinetuneConfig, given: Collection[str]) -> list[str]:
    """Return a message if a cache's folder was set for this run, and it keeps no cache; recipes serve probes, too."""
    if "data.cache_dir" not in given or config.data.cache_dir is None or config.data.cache == "disk":
        return []
    return [f"`data.cache_dir`={config.data.cache_dir} with `data.cache`={config.data.cache}: unused (use disk)"]


def _with_implied(config: FinetuneConfig, given: Collection[str]) -> FinetuneConfig:
    """Return the configuration with what it implies where nothing else was given.

    A `data_root` implies the dataset `folder`, and `multilabel` the loss `bce`. A published dataset, like a protocol,
    implies no recipe; of one's own images it is open until they are counted.
    """
    if config.data_root is not None and "dataset" not in given:
        config = replace(config, dataset="folder")
    recipe = config.recipe or (None if config.dataset == "folder" and config.protocol is None else "none")
    config = replace(config, recipe=recipe, method=config.method or ("full" if recipe == "none" else None))
    if config.data.multilabel and "loss.name" not in given:
        config = replace(config, loss=replace(config.loss, name="bce"))
    return config


def split_pairs(option: str, words: Sequence[str], example: str) -> list[tuple[str, str]]:
    """Return the key and value of each KEY=VALUE that was passed to an option.

    Args:
        option: the option's name, for the message.
        words: values of the option.
        example: an example of such a value, for the message.

    Raises:
        UserError: a word is not of the form KEY=VALUE.
    """
    pairs = [word.partition("=") for word in words]
    if bad := ["".join(pair) for pair in pairs if not all(pair)]:
        raise BadValue(f"{option} {bad[0]}: expected KEY=VALUE, for example {option} {example}")
    return [(key, value) for key, _, value in pairs]


def load_config(path: Path) -> FinetuneConfig:
    """Return the configuration that a run wrote.

    Raises:
        UserError: the file does not exist or is not a configuration.
    """
    if not path.is_file():
        raise not_a_run(path.parent, path.name)
    return _parse(["--config", str(path)])


def save_config(config: FinetuneConfig, path: Path) -> None:
    """Write the whole configuration, including defaults; the file can be used as a recipe."""
    write_text(path, yaml.safe_dump(config.to_dict(), sort_keys=False))
