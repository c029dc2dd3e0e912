"""Which images a network in a file was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from transfer.files import expanded
from transfer.run_files import BEST
from transfer.seen_images import KEY, SeenImages
from transfer.weights.files import read_checkpoint, read_metadata


def read_seen_images(*sources: str | Path | None) -> SeenImages | None:
    """Return the images on which the networks of runs, checkpoints and converted files were trained.

    Args:
        sources: files, folders of runs, or names, which are passed over.

    Returns:
        The images that the files name; None if none does.
    """
    seen: SeenImages | None = None
    for source in sources:
        path = expanded(source or "")
        path = path / BEST if path.is_dir() else path
        if source and path.is_file() and (found := _read(path)):
            seen = found if seen is None else seen | found
    return seen


def _read(path: Path) -> SeenImages | None:
    content = read_metadata(path)
    if not content and path.suffix == ".ckpt":
        parts = [part for part in read_checkpoint(path).values() if isinstance(part, Mapping)]
        content = next((dict(part) for part in parts if KEY in part), {})
    return SeenImages.from_text(content[KEY]) if KEY in content else None
