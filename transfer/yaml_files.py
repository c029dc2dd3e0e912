"""YAML from a user: one mapping of plain values, with the line of each key; nothing in it is executed.

Numbers are those of YAML 1.2 (`1e-3` is one, `12:30` is text) as far as they differ from YAML 1.1's, `yes` and `no`
are truth values. What would pass in silence or take the memory is refused: a key that stands twice, aliases within
aliases, nesting without end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from transfer.errors import DamagedFile
from transfer.files import read_text

_MOST_NODES, _MOST_LEVELS, _MOST_CHARACTERS = 20_000, 20, 1_000_000
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class YamlFile:
    """What a YAML file holds.

    Attributes:
        content: the mapping.
        lines: line of each key, by its dotted name.
    """

    content: dict[str, Any]
    lines: dict[str, int]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the numbers of YAML 1.2 and without dates."""


_Loader.yaml_implicit_resolvers = {
    first: [row for row in rows if row[0].rpartition(":")[2] not in ("timestamp", "float", "int", "value")]
    for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_NUMBERS = {
    "int": r"[-+]?(0|[1-9][0-9_]{0,40})|0x[0-9a-fA-F]{1,16}",
    "float": r"[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|\.[0-9]+([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
for _name, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"({_pattern})$"), list("-+.0123456789"))


def read_yaml(path: str | Path) -> YamlFile:
    """Return the mapping in a YAML file; an empty file holds an empty one.

    Raises:
        MissingData: there is no such file.
        DamagedFile: it is not text in UTF-8, not one mapping with names for keys, or one of what this module refuses.
    """
    text = read_text(path)
    if len(text) > _MOST_CHARACTERS:
        raise DamagedFile(f"{path}: not a configuration: {len(text):,} characters (allowed: {_MOST_CHARACTERS:,})")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return YamlFile({}, {})
        if not isinstance(node, yaml.MappingNode):
            raise DamagedFile(f"{path} line {node.start_mark.line + 1}: expected lines of the form NAME: VALUE")
        _check_values(node, loader, path)
        lines: dict[str, int] = {}
        for name, line in _keys(node, path):
            if name in lines:
                raise DamagedFile(f"{path} line {line}: {name} stands in line {lines[name]} already; keep one of them")
            lines[name] = line
        return YamlFile(loader.construct_document(node), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path} line {mark.line + 1}" if mark else str(path)
        hint = " (indent with spaces)" if "'\\t'" in str(error.problem) else ""
        raise DamagedFile(
            f"{where}: not YAML: {str(error.problem or error.context).removeprefix('but ')}{hint}"
        ) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DamagedFile(f"{path} line {line}: not text: it holds the character U+{error.character:04X}") from None
    except RecursionError:
        raise DamagedFile(f"{path}: nested too deeply (allowed: {_MOST_LEVELS} levels)") from None


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _check_values(root: yaml.Node, loader: _Loader, path: str | Path) -> None:
    """Refuse tags, and a document that, its aliases written out, is too large, too deep or without end."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, level: int, above: frozenset[int]) -> int:
        place = f"{path} line {node.start_mark.line + 1}"
        if level > _MOST_LEVELS:
            raise DamagedFile(f"{place}: nested too deeply (allowed: {_MOST_LEVELS} levels)")
        if id(node) in above:
            raise DamagedFile(f"{place}: contains itself")
        plain = loader.resolve(type(node), node.value, (True, False))  # type: ignore[no-untyped-call]
        if node.tag not in (plain, f"{_TAG}str"):
            raise DamagedFile(f"{place}: the tag !!{node.tag.removeprefix(_TAG)} (allowed: values without tags)")
        if id(node) not in sizes:
            within = above | {id(node)}
            sizes[id(node)] = 1 + sum(size(child, level + 1, within) for child in _children(node))
        if sizes[id(node)] > _MOST_NODES:
            raise DamagedFile(f"{place}: too large (allowed: {_MOST_NODES:,} values, aliases written out)")
        return sizes[id(node)]

    size(root, 0, frozenset())


def _keys(node: yaml.Node, path: str | Path, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yield the dotted name and the line of each key below a node, those that an alias brings not included."""
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield from _keys(child, path, f"{prefix}{index}.")
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == f"{_TAG}merge":
                continue
            if not isinstance(key, yaml.ScalarNode) or key.tag != f"{_TAG}str":
                shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
                raise DamagedFile(f"{path} line {line}: a name must be text (found: {shown})")
            yield prefix + key.value, line
            yield from _keys(value, path, f"{prefix}{key.value}.")
