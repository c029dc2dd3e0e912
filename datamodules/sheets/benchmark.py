"""What the sheets of published datasets share: they are read from the hub, from copies of its files, or an archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.dataset.sheet import ReadOptions, Sheet

if TYPE_CHECKING:
    from datamodules.dataset.split import Split


class Benchmark(Sheet):
    """The sheet of a published dataset."""

    def load_splits(self, options: ReadOptions) -> tuple[tuple[str, ...], dict[str, Split]]:
        from datamodules.reading.benchmarks import load_benchmark

        return load_benchmark(self, self.read_archive, options)

    def read_archive(self, folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
        """Return the class names in the authors' order and the official splits, from their extracted archive.

        Args:
            folder: Folder with everything that `layout` needs.

        Raises:
            UserError: The files do not say what the authors' say.
        """
        raise NotImplementedError(f"{type(self).__name__} has a layout, but does not read it")
