"""The user's lock file: the whole SHA-256 of each public file as it was first seen, which later ones must have too.

Most publishers state eight digits of it, and a hub file's is what the hub says today.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from transfer.errors import DamagedFile
from transfer.files import read_object, write_json
from transfer.locks import held


def lock_file() -> Path:
    """Return `efficientnet-transfer/weights.lock.json` in `XDG_CONFIG_HOME`, or else `~/.config`."""
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return folder / "efficientnet-transfer" / "weights.lock.json"


def first_sha256(address: str) -> str | None:
    """Return the hash that a file had when it was first seen; None if it never was.

    Raises:
        DamagedFile: the lock file cannot be read.
    """
    path = lock_file()
    found = read_object(path).get(address) if path.exists() else None
    if found is not None and not isinstance(found, str):
        raise DamagedFile(f"{path}: damaged: {address} is {found!r} (needed: a SHA-256)")
    return found


def compare_with_first(address: str, sha256: str, path: Path) -> None:
    """Compare a file's hash with the first that was seen, or note it as the first.

    Args:
        address: where the file comes from.
        sha256: its whole hash.
        path: where it lies, for the message.

    Raises:
        DamagedFile: another file came from there before.
    """
    first = first_sha256(address)
    if first is None:
        _note(address, sha256)
    elif first != sha256:
        raise DamagedFile(
            f"{path}: sha256 {sha256} is not the {first} that {address} had when it was first seen here: the file was"
            f" replaced, there or on the way. If you know why, remove the line from {lock_file()}"
        )


def _note(address: str, sha256: str) -> None:
    path = lock_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with held(path.with_name(f".{path.name}.lock")):
            known = read_object(path) if path.exists() else {}
            write_json(path, dict(sorted({**known, address: sha256}.items())))
    except OSError as error:
        warnings.warn(f"{path}: the sha256 of {address} could not be noted: {error.strerror}", stacklevel=3)
