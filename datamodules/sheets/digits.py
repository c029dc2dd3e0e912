"""Optical recognition of handwritten digits: 1,797 grey images of 8x8 pixels, shipped with this package.

Contents: digits 0-9 written by 13 people (the test part of the UCI set, as scikit-learn's `load_digits` gives
    it); values 0..16 stored as PNG, scaled by 255/16. It needs no network and a run takes seconds: for trying
    things out.
Splits: train 1,257, val 180, test 360, cut once at random and stratified by class, stored in
    `digits.parquet`. They are this project's own: the source has none that others report on.
Classes: 10, in numeric order.
Licence: CC BY 4.0.
Citation: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
    1998, https://doi.org/10.24432/C50P49.
Published accuracy of EfficientNet: none.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, ClassVar

from datamodules.dataset.sheet import ReadOptions, Sheet

if TYPE_CHECKING:
    from datamodules.dataset.split import Split


class Digits(Sheet):
    """8x8 digits, upscaled to 64 pixels; never mirrored, never cropped below half their area."""

    name = "digits"
    num_examples: ClassVar = {"train": 1257, "val": 180, "test": 360}
    num_classes = 10
    default_image_size = 64
    horizontal_flip = False
    default_min_crop_area = 0.5

    def load_splits(self, options: ReadOptions) -> tuple[tuple[str, ...], dict[str, Split]]:
        """Return the ten digits and the stored splits."""
        import pyarrow as pa
        import pyarrow.parquet as pq
        from datasets import Dataset
        from datasets.table import InMemoryTable

        from datamodules.reading.tables import read_splits

        content = files("datamodules.sheets").joinpath("digits.parquet").read_bytes()
        # In memory: the library's own reader would first write a copy to its cache.
        table = Dataset(InMemoryTable(pq.read_table(pa.BufferReader(content))))
        column = table["split"][:]  # at once: row by row takes most of a second
        splits = [(name, [row for row, split in enumerate(column) if split == name]) for name in self.num_examples]
        tables = {name: table.select(rows) for name, rows in splits}
        return read_splits(tables, self.name, "image", "label", options)
