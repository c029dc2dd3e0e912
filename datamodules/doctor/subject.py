"""What the doctor examines: a named dataset, or a folder or a table of the user's own."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.dataset.loaded import read_dataset, read_source
from datamodules.dataset.sheet import ReadOptions, Source
from datamodules.sheets import get_sheet, list_datasets
from transfer.errors import BadValue, MissingData, UserError, unknown_name
from transfer.files import expanded

if TYPE_CHECKING:
    from datamodules.dataset.split import Split
    from transfer.images.decode import BadImage


@dataclass(frozen=True)
class Subject:
    """What was read of a dataset, whether training accepts it or not.

    Attributes:
        class_names: in the order of the labels; empty if nothing could be read.
        splits: the images by split.
        skipped: images that cannot be read and are in no split.
        complaint: why training refuses the data; None: it does not.
        default_image_size: what the dataset prescribes, in pixels; None: nothing.
        remarks: what a training would warn of while it reads the data, such as files that are left out.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, Split]
    skipped: Sequence[BadImage]
    complaint: str | None
    default_image_size: int | None
    remarks: list[str] = field(default_factory=list)


def open_subject(subject: str, data_root: str | None, columns: dict[str, Any]) -> Source:
    """Return the source that a dataset's name or a path stands for, before anything is read.

    Args:
        subject: a dataset's name, or the path of a folder or a table.
        data_root: folder that holds a named dataset's files.
        columns: options of `ReadOptions` that say how a table is read.

    Raises:
        MissingData: `subject` is neither a dataset nor a path.
        BadValue: a path with `data_root`, or `folder` without it.
    """
    if subject not in list_datasets():
        if not expanded(subject).exists():
            if Path(subject).name != subject:
                raise MissingData(f"no such file or folder: {subject}")
            raise MissingData(f"no such file or folder, and {unknown_name('dataset', subject, list_datasets())}")
        if data_root is not None:
            raise BadValue(f"`data_root`={data_root}: give either a path or a dataset's name with `data_root`")
        subject, data_root = "folder", subject
    elif subject == "folder" and data_root is None:
        raise BadValue("dataset 'folder' needs `data_root`, or give the path itself: doctor photos/")
    sheet = get_sheet(subject)
    # All bad images are wanted. Where loading does not look for them, the inspection does, and once is enough.
    on_bad_image = "skip" if sheet.checks_all_images else "error"
    return Source(sheet, ReadOptions(data_root=data_root, on_bad_image=on_bad_image, **columns))


def read_subject(source: Source) -> Subject:
    """Read a dataset as training does, or, if training refuses it, as the source has it.

    Raises:
        UserError: a named dataset cannot be loaded at all.
    """
    own_size = source.sheet.default_image_size
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        warnings.filterwarnings("ignore", "training without")  # the unreadable images are findings
        try:
            dataset = read_dataset(source)
        except UserError as error:
            complaint = str(error)
        else:
            return Subject(dataset.class_names, dataset.splits, dataset.skipped, None, own_size, _remarks(warned))
        warned.clear()  # reading the source repeats them
        try:
            class_names, found = read_source(source)
        except UserError:
            if source.sheet.name != "folder":
                raise
            return Subject((), {}, (), complaint, own_size, _remarks(warned))
    splits: dict[str, Split] = {name: found[name] for name in ("train", "val", "test") if name in found}
    return Subject(class_names, splits, (), complaint, own_size, _remarks(warned))


def _remarks(warned: Iterable[warnings.WarningMessage]) -> list[str]:
    return list(dict.fromkeys(str(warning.message) for warning in warned if warning.category is UserWarning))
