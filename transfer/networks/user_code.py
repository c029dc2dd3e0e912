"""Classes and functions of the user's own, by import path. Their code runs wherever the name is read."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from transfer.errors import BadValue


def refuse_user_code(source: object, names: Iterable[tuple[str, object]], allow_user_code: bool) -> None:
    """Refuse import paths that come from a file: importing one runs code that whoever wrote the file has chosen.

    Args:
        source: the file or folder, for the message.
        names: pairs of an argument, and a row of a table or an import path.
        allow_user_code: whether the user trusts the file.

    Raises:
        BadValue: there is an import path, and `allow_user_code` is False.
    """
    paths = dict.fromkeys(f"`{argument}`={name}" for argument, name in names if is_import_path(name))
    if paths and not allow_user_code:
        raise BadValue(
            f"{source} names code, {' and '.join(paths)}, that would be imported from {Path.cwd()} or an installed"
            " package, and run: if you trust it, pass `allow_user_code`=True"
        )


def is_import_path(name: object) -> bool:
    """Return whether a backbone's or head's name is an import path rather than a table's row."""
    return isinstance(name, str) and "." in name.partition("@")[0]


def import_callable(path: str, kind: str, allowed: Iterable[str]) -> Callable[..., Any]:
    """Import a callable from an installed package or from the folder in which the command was started.

    Args:
        path: import path, `package.module.name`.
        kind: what it is to be (`backbone`, `head`), for the message.
        allowed: names that could be given instead, for the message.

    Raises:
        UserError: an invalid import path, a failing import, or an object that cannot be called.
    """
    choices = f"(allowed: {', '.join(allowed)} or an import path)"
    module, _, attribute = path.rpartition(".")
    if not module or not all(part.isidentifier() for part in path.split(".")):
        raise BadValue(f"{kind} {path!r}: not of the form package.module.name {choices}")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)  # a script's own folder is there in its place
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise BadValue(f"{kind} {path!r}: {error}, neither in {folder} nor as a package {choices}") from None
    except AttributeError as error:
        raise BadValue(f"{kind} {path!r}: {error} {choices}") from None
    if not callable(found):
        raise BadValue(f"{kind} {path!r} is {type(found).__name__}, nothing that can be called {choices}")
    return found
