"""From words, recipes and calls to values of the schema: a mistake is answered with its place and the nearest name."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from itertools import pairwise
from typing import Any

import jsonargparse

from transfer.config.parser_errors import explain, explain_unknown
from transfer.config.schema import PATH_FIELDS
from transfer.errors import BadValue
from transfer.files import expanded
from transfer.yaml_files import read_yaml

NO_FIELDS = frozenset(("config", "resume", "allow_user_code", "open"))  # what a command takes besides them


@dataclass(frozen=True)
class Given:
    """What the user gave.

    Attributes:
        recipes: value of each dotted field that recipes set.
        words: the rest of the command line, which goes over them.
        places: file and line of each of those fields.
    """

    recipes: Mapping[str, Any]
    words: Sequence[str] = ()
    places: Mapping[str, str] = field(default_factory=dict)

    @property
    def typed(self) -> frozenset[str]:
        """The dotted names of what was typed."""
        return frozenset(word.partition("=")[0].removeprefix("--") for word in self.words if word.startswith("--"))

    def refuse(self, problems: Sequence[str]) -> None:
        """Raise an error that lists problems, if there are any, each behind the place of the field it begins with."""
        if problems:
            located = [self.locate(problem) for problem in problems]
            raise BadValue("\n  ".join(["the configuration has problems:", *located] if problems[1:] else located))

    def locate(self, problem: str) -> str:
        """Return a problem behind the place of the field that it begins with, if a recipe set it."""
        match = re.match(r"(?:`|unknown option ')([\w.-]+)", problem)
        place = None if match is None or match[1] in self.typed else self.places.get(match[1])
        return problem if place is None else f"{place}: {problem}"


def read_given(argv: Sequence[str], parser: jsonargparse.ArgumentParser) -> Given:
    """Read the recipes that a command line names.

    Raises:
        UserError: a recipe cannot be read, or sets what `parser` does not know.
    """
    recipes = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    recipes.add_argument("--config", action="append", default=[])
    try:
        found, words = recipes.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise BadValue(str(error)) from None
    words = [_with_null(word) for word in words]
    names, groups = _names(parser)
    for word, following in pairwise([*words, ""]):
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and flag[2:] in groups and not (value if equals else following).startswith("{"):
            raise BadValue(explain_unknown(flag[2:], names))
        if _is_nested(word):
            raise BadValue(f"{word[:30]}...: nested too deeply")
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for path in map(expanded, found.config):
        file = read_yaml(path)
        if not file.content:
            raise BadValue(f"`config`={path}: it sets nothing (expected: lines such as `backbone: b0`)")
        here = {name: f"{path} line {line}" for name, line in file.lines.items()}
        flat = {name: value for name, value in flatten(file.content).items() if value != {} or name not in groups}
        if own := sorted(flat.keys() & (NO_FIELDS - {"config"})):
            raise BadValue(f"{here[own[0]]}: a recipe cannot set {own[0]}: pass `{own[0]}` on the command line")
        Given(flat, (), here).refuse(_name_problems(flat, names, groups))
        values |= flat
        places |= here
    return Given(values, words, places)


def _with_null(word: str) -> str:
    """Return a word with null for Python's None, as which an agent of W&B passes a null of its sweep file."""
    word = re.sub(r"\A(--[\w.]+=)?None\Z", r"\1null", word)
    return re.sub(r"(?<=[\s\[])None(?=[,\]}])", "null", word) if re.match(r"(--[\w.]+=)?[\[{]", word) else word


def parse_given(given: Given, parser: jsonargparse.ArgumentParser, *, defaults: bool = True) -> jsonargparse.Namespace:
    """Return the values of a command line and its recipes, checked by the schema's types.

    Raises:
        UserError: an option or value is wrong.
        SystemExit: after --help and --print_config.
    """

    def parse() -> jsonargparse.Namespace:
        recipes = parser.parse_object(unflatten(given.recipes), defaults=False)
        return parser.parse_args(list(given.words), namespace=recipes, defaults=defaults)

    return _parsed(parse, parser, given)


def parse_values(values: Mapping[str, Any], parser: jsonargparse.ArgumentParser) -> dict[str, Any]:
    """Return the fields of a dotted dictionary from Python.

    Raises:
        UserError: a field is unknown, or its value of another type.
    """
    names, groups = _names(parser)
    values = {name: value for name, value in values.items() if value != {} or name not in groups}
    given = Given(values)
    given.refuse(_name_problems(values, names, groups))
    return instantiate(_parsed(lambda: parser.parse_object(unflatten(values)), parser, given), parser)


def instantiate(values: jsonargparse.Namespace, parser: jsonargparse.ArgumentParser) -> dict[str, Any]:
    """Return the fields of the schema's dataclasses, with the paths in them expanded."""
    fields = dict(vars(parser.instantiate(values)))
    for name in NO_FIELDS:
        fields.pop(name, None)
    for name in PATH_FIELDS & fields.keys():
        fields[name] = _expanded(fields[name])
    fields["data"] = replace(fields["data"], cache_dir=_expanded(fields["data"].cache_dir))
    return fields


def _parsed(
    parse: Callable[[], jsonargparse.Namespace], parser: jsonargparse.ArgumentParser, given: Given
) -> jsonargparse.Namespace:
    try:
        return parse()
    except (jsonargparse.ArgumentError, argparse.ArgumentError) as error:
        raise BadValue(given.locate(explain(str(error), _names(parser)[0]))) from None
    except OverflowError:
        raise BadValue("a number among the options is too large (allowed: below 1e308)") from None


def _names(parser: jsonargparse.ArgumentParser) -> tuple[list[str], set[str]]:
    """Return the dotted names of a parser's fields, and the names of its groups."""
    names = [action.dest for action in parser._actions]
    groups = {name.partition(".")[0] for name in names if "." in name}
    return [name for name in names if name not in groups], groups


def _name_problems(values: Mapping[str, Any], names: Sequence[str], groups: set[str]) -> list[str]:
    problems: list[str] = []
    for name, value in values.items():
        if name in groups:
            problems.append(f"`{name}`={value!r} (allowed: a dictionary of its fields)")
        elif name not in names or name in ("config", "help", "print_config"):
            problems.append(explain_unknown(name, names))
        elif isinstance(value, int) and abs(value) > 2**63:
            problems.append(f"`{name}`={str(value)[:20]}...: too large for a number (allowed: 64 bits)")
        elif isinstance(value, str) and _is_nested(value):
            problems.append(f"`{name}`={value[:20]}...: nested too deeply")
    return problems


def _is_nested(text: str) -> bool:
    """Return whether text holds so many brackets that jsonargparse, which reads values as YAML, might not return."""
    return text.count("[") + text.count("{") > 100


def _expanded(path: str | None) -> str | None:
    return None if path is None else str(expanded(path))


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values from Python as a recipe has them: dotted, without dataclasses, paths as text."""
    groups = {k: asdict(v) if is_dataclass(v) and not isinstance(v, type) else v for k, v in values.items()}
    return {k: os.fspath(v) if isinstance(v, os.PathLike) else v for k, v in flatten(groups).items()}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration as one dictionary with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return flat


def unflatten(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested configuration of dotted names, the content of a recipe; the inverse of `flatten`."""
    values: dict[str, Any] = {}
    for name, value in dotted.items():
        *groups, last = name.split(".")
        group = values
        for key in groups:
            group = group.setdefault(key, {})
        group[last] = value
    return values
