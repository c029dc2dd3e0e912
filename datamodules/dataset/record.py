"""What was found in files, kept in the user's cache folder: a file that has not changed since is not read again."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from transfer.errors import UserError
from transfer.files import default_cache_dir, read_json, write_text
from transfer.locks import held
from transfer.progress import track

# Of fewer files a record saves less than a second.
FEWEST = 1000


def find_in_files(
    name: str, paths: Sequence[Path], find: Callable[[Path], Any], description: str | None = None
) -> list[Any]:
    """Return what `find` returns for each file, in order; other processes that want the same wait meanwhile.

    Args:
        name: What is found, and in which way: a record of another name is another one.
        paths: The files. A file is known again by its path, size and time of change.
        find: Returns what JSON holds, or None, which is not kept; called in several threads.
        description: What a progress bar says; None: `name`.
    """
    description = description or name
    if len(paths) < FEWEST:
        return _find_all(description, paths, find)
    keys = [_key(path) for path in paths]
    folder = default_cache_dir() / "records"
    record = folder / f"{hashlib.blake2b(f'{name} {paths[0].parent}'.encode(), digest_size=16).hexdigest()}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder / f"{record.name}.lock"):
            known = _read(record)
            new = [index for index, key in enumerate(keys) if key not in known]
            found = _find_all(description, [paths[index] for index in new], find)
            known |= {keys[index]: value for index, value in zip(new, found, strict=True)}
            if new:
                write_text(record, json.dumps(_current(known, dict(zip(map(str, paths), keys, strict=True)))))
    except OSError as error:
        warnings.warn(f"{folder}: what is found in files cannot be kept ({error.strerror})", stacklevel=2)
        return _find_all(description, paths, find)
    return [known[key] for key in keys]


def _key(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return f"{path} is missing"
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def _current(known: dict[str, Any], keys: dict[str, str]) -> dict[str, Any]:
    """Return what is worth keeping: no files as they were before they changed, and nothing that was not found."""
    return {
        key: value for key, value in known.items() if value is not None and keys.get(key.rsplit(" ", 2)[0], key) == key
    }


def _read(record: Path) -> dict[str, Any]:
    try:
        content = read_json(record)
    except UserError:  # there is none yet, or a damaged one
        return {}
    return content if isinstance(content, dict) else {}


def _find_all(description: str, paths: Sequence[Path], find: Callable[[Path], Any]) -> list[Any]:
    with ThreadPoolExecutor() as pool:
        return list(track(pool.map(find, paths), description, len(paths)))
