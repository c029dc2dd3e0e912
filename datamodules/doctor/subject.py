"""What the doctor examines: a named dataset, or a folder or a table of the user's own."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules import build_datamodule, get_dataset, list_datasets
from transfer.errors import BadValue, MissingData, UserError, unknown_name

if TYPE_CHECKING:
    from datamodules.base import TransferDataModule
    from datamodules.split import Split


def open_subject(subject: str, data_root: str | None, columns: dict[str, Any]) -> TransferDataModule:
    """Return the datamodule of a dataset's name or of a path, before anything is read.

    Args:
        subject: a dataset's name, or the path of a folder or a table.
        data_root: folder that holds a named dataset's files.
        columns: arguments of `build_datamodule` that say how a table is read.

    Raises:
        MissingData: `subject` is neither a dataset nor a path.
        BadValue: a path with `data_root`, or `folder` without it.
    """
    if subject not in list_datasets():
        if not Path(subject).expanduser().exists():
            if Path(subject).name != subject:
                raise MissingData(f"no such file or folder: {subject}")
            raise MissingData(f"no such file or folder, and {unknown_name('dataset', subject, list_datasets())}")
        if data_root is not None:
            raise BadValue(f"`data_root`={data_root}: give either a path or a dataset's name with `data_root`")
        subject, data_root = "folder", subject
    elif subject == "folder" and data_root is None:
        raise BadValue("dataset 'folder' needs `data_root`, or give the path itself: doctor photos/")
    # All bad images are wanted. Where setup() does not look for them, the inspection does, and once is enough.
    on_bad_image = "skip" if get_dataset(subject).checks_all_images else "error"
    return build_datamodule(subject, data_root=data_root, on_bad_image=on_bad_image, **columns)


def read_splits(data: TransferDataModule) -> tuple[dict[str, Split], str | None]:
    """Return the splits as training sees them, or, if training refuses them, as the source has them.

    Returns:
        The splits by name, and why training refuses them (None if it does not).

    Raises:
        UserError: a named dataset cannot be loaded at all.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the unreadable images are findings
        try:
            data.setup()
        except UserError as error:
            if data.class_names:
                splits = data.load_splits()[1]
                return {name: splits[name] for name in ("train", "val", "test") if name in splits}, str(error)
            if data.name != "folder":
                raise
            return {}, str(error)
    return data.splits, None
