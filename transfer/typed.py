"""Whether the values of a dataclass that was made from a file have the types that its fields declare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from transfer.errors import DamagedFile


def check_types(instance: Any, source: object) -> None:
    """Compare the fields of a dataclass, and what they hold, with their annotations.

    Args:
        instance: the dataclass; JSON's types, their containers and dataclasses are understood in its annotations.
        source: the file that it was made from, for the message.

    Raises:
        DamagedFile: a value is of another type; the text says where.
    """
    hints = get_type_hints(type(instance))
    for field in fields(instance):
        _check(getattr(instance, field.name), hints[field.name], field.name, source)


def _check(value: Any, hint: Any, where: str, source: object) -> None:
    if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, hint):
        return check_types(value, source)
    if (bases := getattr(hint, "__orig_bases__", None)) and isinstance(value, hint):
        hint = bases[0]  # a class of ours that is a dict[str, float]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and type(None) in arguments:
            return None
        (*_, hint) = kinds = [kind for kind in arguments if kind is not type(None)]
        if len(kinds) == 1:
            return _check(value, hint, where, source)
        fits = any(_fits(value, kind) for kind in kinds)
    elif origin is Literal:
        fits = value in arguments
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        fits = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
        for key in value if fits else ():
            _check(value[key], arguments[1], f"{where}.{key}", source)
    elif origin in (list, tuple):
        fits = isinstance(value, origin)
        for index, item in enumerate(value) if fits else ():
            _check(item, arguments[0], f"{where}[{index}]", source)
    else:
        fits = _fits(value, hint)
    if not fits:
        shown = getattr(hint, "__name__", hint) if origin is None else hint
        raise DamagedFile(f"{source}: {where} is {value!r:.60} (needed: {shown})")
    return None


def _fits(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if kind in (int, float):
        return type(value) is int or (kind is float and type(value) is float)
    return isinstance(value, kind)
