"""Classes and functions of the user's own, by import path: code that runs wherever their name is read."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from transfer.errors import BadValue


def import_callable(path: str, kind: str, allowed: Iterable[str]) -> Callable[..., Any]:
    """What an import path names, from an installed package or from the folder in which the command was started.

    Args:
        path: `package.module.name`.
        kind: what it shall be, for the message.
        allowed: the names that there are besides.

    Raises:
        UserError: no import path, the import fails, or what is there cannot be called.
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
