"""Which run of a service a run's folder is, so that it goes on there when it is resumed: `tracking.json`."""

from __future__ import annotations

from pathlib import Path

from transfer.errors import DamagedFile
from transfer.files import read_object, write_json
from transfer.run_files import TRACKING


def read_identity(run_dir: Path, service: str) -> dict[str, str]:
    """Return what the folder remembers of its run at a service; empty if there has been none.

    Raises:
        DamagedFile: the file is damaged.
    """
    found = _read(run_dir).get(service, {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise DamagedFile(f"{run_dir / TRACKING}: damaged: {service} is {found!r}; without this file it is a new run")
    return found


def save_identity(run_dir: Path, service: str, identity: dict[str, str]) -> None:
    """Remember the run at a service."""
    write_json(run_dir / TRACKING, {**_read(run_dir), service: identity})


def _read(run_dir: Path) -> dict[str, object]:
    path = run_dir / TRACKING
    return read_object(path) if path.exists() else {}
