"""Classes and functions of the user's own, by import path. Their code runs wherever the name is read."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from transfer.errors import BadValue


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
