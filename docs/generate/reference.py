"""The reference: flags from the parsers, fields from the dataclasses behind them, signatures from docstrings."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module

import datamodules
import transfer
from transfer import __main__ as console
from transfer import errors as error_tree
from transfer.commands import scale
from transfer.config import command_line as schemas

# Titles of the groups whose arguments are no fields of a configuration.
_OWN_GROUPS = ("positional arguments", "options")
_SCHEMAS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "finetune": schemas.build_parser,
    "probe": schemas.build_probe_parser,
    "choose": schemas.build_choose_parser,
}


def command_line() -> str:
    """Return a section for each verb with its flags; those of a run's configuration have a page of their own."""
    sections = []
    for verb, what in console.VERBS.items():
        parts = [f"## {verb}", f"{_escaped(what[0].upper() + what[1:])}."]
        if verb == "finetune":
            parts.append("Every field of the [configuration](config.md) is a flag of its name. Besides them:")
        built = list(parsers(verb))
        for parser in built:
            if len(built) > 1:
                parts.append(f"### {parser.prog.removeprefix('efficientnet-transfer ')}")
            parts.append(arguments(parser, with_fields=verb != "finetune"))
        sections.append("\n\n".join(parts))
    return "\n\n".join(sections)


def config() -> str:
    """Return a section for each group of fields of `FinetuneConfig`."""
    sections = []
    for group in schemas.build_parser()._action_groups:
        if group.title not in _OWN_GROUPS:
            fields = (_field(action) for action in group._group_actions if _is_shown(action))
            sections.append("\n\n".join((f"## {group.title}", *fields)))
    return "\n\n".join(sections)


def errors() -> str:
    """Return the tree of errors as a nested list."""

    def branch(error: type[Exception], depth: int) -> Iterator[str]:
        summary = (inspect.getdoc(error) or "").partition("\n")[0]
        yield f"{'  ' * depth}- `{error.__name__}`: {_escaped(summary)}"
        for child in error.__subclasses__():
            if child.__module__ == error_tree.__name__:
                yield from branch(child, depth + 1)

    return "\n".join(branch(error_tree.UserError, 0))


def python() -> str:
    """Return autodoc directives for the public names of both packages."""
    parts = []
    for package in (transfer, datamodules):
        parts.append(f"## {package.__name__}")
        for name in package.__all__:
            kind = "autoclass" if inspect.isclass(getattr(package, name)) else "autofunction"
            parts.append(f"```{{eval-rst}}\n.. {kind}:: {package.__name__}.{name}\n```")
    return "\n\n".join(parts)


def parsers(verb: str) -> Iterator[argparse.ArgumentParser]:
    """Yield the parsers of a verb: one, or one for each of its commands."""
    if verb == "scale":
        for name in scale.COMMANDS:
            yield import_module(f"transfer.commands.scale.{name}").build_parser()
        return
    build = _SCHEMAS.get(verb) or import_module(f"transfer.commands.{verb}").build_parser
    parser = build()
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested:
        yield parser
    for action in nested:
        yield from action.choices.values()


def arguments(parser: argparse.ArgumentParser, with_fields: bool = True) -> str:
    """Return a list of a parser's arguments.

    Args:
        parser: any parser.
        with_fields: whether to include those that are fields of a configuration.
    """
    groups = [group for group in parser._action_groups if with_fields or group.title in _OWN_GROUPS]
    return "\n\n".join(_argument(action) for group in groups for action in group._group_actions if _is_shown(action))


def _is_shown(action: argparse.Action) -> bool:
    is_whole_group = type(action).__name__ == "_ActionConfigLoad"
    return action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction) and not is_whole_group


def _argument(action: argparse.Action) -> str:
    flags = ", ".join(option for option in action.option_strings if not option.endswith("+"))
    name = " ".join(filter(None, (flags, _value(action)))) or action.dest
    name = name.replace(" \b[", "[")  # jsonargparse's --print_config takes its value after a `=`
    meaning = _meaning(action)
    if action.default not in (None, False, argparse.SUPPRESS) and "default" not in meaning:
        meaning = "; ".join(filter(None, (meaning, f"default: `{_plain(action.default)}`")))
    return _defined(f"`{name}`", meaning)


def _field(action: argparse.Action) -> str:
    default = "unset" if action.default is None else f"`{_plain(action.default)}`"
    values = f" of `{_value(action)}`" if _value(action) else ""
    return _defined(f"`{action.dest}` = {default}{values}", _meaning(action))


def _defined(term: str, meaning: str) -> str:
    """Return an entry of a list of definitions, or a term that explains itself."""
    return f"{term}\n: {meaning}" if meaning else f"- {term}"


def _value(action: argparse.Action) -> str:
    """Return what stands for an argument's value: its metavar, or its choices."""
    if action.metavar is not None:
        return action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar)
    return "{" + ",".join(map(str, action.choices)) + "}" if action.choices else ""


def _meaning(action: argparse.Action) -> str:
    text = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
    return _escaped(" ".join(text.split()))


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _escaped(text: str) -> str:
    """Return text whose punctuation Markdown takes literally, except that of code in backticks."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([\\*_\[\]<>|#$~&{}])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)
