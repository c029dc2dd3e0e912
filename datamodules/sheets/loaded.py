"""A Hugging Face `Dataset` or `DatasetDict` that the user has loaded already.

Columns and split names are recognised as in a table of the user's own, and val and test are cut as for class folders.
Classes keep the order of a ClassLabel; text is natural-sorted. Licence and citation are the user's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from datamodules.dataset.sheet import ReadOptions
from datamodules.sheets.folder import Folder
from transfer.errors import BadValue

if TYPE_CHECKING:
    import datasets

    from datamodules.dataset.split import Split


class Loaded(Folder):
    """The tables of one object.

    Args:
        tables: One table, or one per split.

    Raises:
        UserError: It is something else.
    """

    name = "loaded"

    def __init__(self, tables: datasets.Dataset | datasets.DatasetDict) -> None:
        import datasets

        if not isinstance(tables, datasets.Dataset | datasets.DatasetDict):
            raise BadValue(
                f"`data` is a {type(tables).__name__} (allowed: a dataset's name, a Sheet, or a datasets.Dataset or"
                " DatasetDict; a stream of your own is no table: save it first)"
            )
        self.tables = tables

    def load_splits(self, options: ReadOptions) -> tuple[tuple[str, ...], dict[str, Split]]:
        """Return the class names in index order and the splits of the object.

        Raises:
            UserError: A column is missing or of the wrong kind, or a split has a strange name.
        """
        from datamodules.reading.folders import read_tables

        if options.data_root is not None:
            raise BadValue(f"`data_root`={options.data_root}: the images are in the object you gave; leave it out")
        return read_tables(self.tables.with_format(None), type(self.tables).__name__, options)
