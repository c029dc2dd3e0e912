"""The user's own images: class folders, a table of paths and labels, or a `save_to_disk` directory.

`data_root` is one of
    DIR/<class>/*.jpg                       val and test are held out, `val_fraction` and `test_fraction`
    DIR/{train,val,test}/<class>/*.jpg      val is held out of train if missing; test is never made up then
    FILE.csv, .tsv, .txt or .parquet        an image and a label column (or one of 0 and 1 per label), perhaps a split
                                            column; commas, semicolons or tabs, in UTF-8, UTF-16 or cp1252
    DIR written by `save_to_disk`           the same columns
Splits may have other names, such as `training_set` and `seg_test`; `folder_layout` decides where that is open.
Classes are natural-sorted: `2` comes before `10`. Licence and citation are the user's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from datamodules.dataset.sheet import ReadOptions, Sheet

if TYPE_CHECKING:
    from datamodules.dataset.split import Split


class Folder(Sheet):
    """Any images with labels; see the module's docstring for the layouts."""

    name = "folder"
    checks_all_images = True

    def load_splits(self, options: ReadOptions) -> tuple[tuple[str, ...], dict[str, Split]]:
        """Return the class names in natural order and the splits that the folder or table has.

        Raises:
            UserError: There is nothing, or its layout leaves open what is meant.
        """
        from datamodules.reading.folders import read_folder

        return read_folder(options)

    def complete_splits(self, splits: dict[str, Split], options: ReadOptions) -> dict[str, Split]:
        """Return the splits with val held out of train where it is missing, and test too where there are none."""
        from datamodules.dataset.holdout import hold_out

        completed, left = dict(splits), 1.0
        if len(splits) == 1:
            completed["train"], completed["test"] = hold_out(splits["train"], options.test_fraction, "test")
            left -= options.test_fraction
        if "val" not in splits:
            completed["train"], completed["val"] = hold_out(completed["train"], options.val_fraction / left, "val")
        return completed
