"""The splits of a published dataset: streamed, from the hub or local copies of its files, or from the archive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from datamodules.dataset.checks import likely_cause
from datamodules.dataset.sheet import HubCopy, ReadOptions, Sheet
from datamodules.dataset.split import Split
from datamodules.reading.archives import find_archive
from datamodules.reading.official_files import check_official_files, name_files
from datamodules.reading.sources import (
    MissingSplitError,
    find_hub_files,
    find_local_copy,
    find_local_files,
    from_first_copy,
    load_hub_tables,
    load_local_tables,
)
from datamodules.reading.streaming import stream_splits
from datamodules.reading.tables import read_splits
from transfer.errors import MissingData


def load_benchmark(
    sheet: Sheet, read_archive: Callable[[Path], tuple[tuple[str, ...], dict[str, Split]]], options: ReadOptions
) -> tuple[tuple[str, ...], dict[str, Split]]:
    """Return the class names in index order and the splits that the source has.

    Args:
        sheet: The facts of the dataset.
        read_archive: Reads the authors' extracted archive from its folder.
        options: How to read the dataset.

    Raises:
        UserError: The source is not there, cannot be reached, or lacks the expected columns and labels.
    """
    problem: MissingSplitError | None = None
    for copies in _copies(sheet, options):
        try:
            return _load_benchmark(sheet, copies, read_archive, options)
        except MissingSplitError as error:
            problem = problem or error
    assert problem is not None
    raise MissingData(f"{problem}{likely_cause(problem.found, sheet.num_examples, sheet.wrong_copies)}") from None


def _copies(sheet: Sheet, options: ReadOptions) -> list[Sequence[HubCopy]]:
    """Return what to look for: the known copies, or the user's, with the splits and columns of each known one."""
    if options.hub_id is None:
        return [sheet.copies]
    return [[replace(copy, id=options.hub_id, config=None, revision=None, files=None)] for copy in sheet.copies]


def _load_benchmark(
    sheet: Sheet,
    copies: Sequence[HubCopy],
    read_archive: Callable[[Path], tuple[tuple[str, ...], dict[str, Split]]],
    options: ReadOptions,
) -> tuple[tuple[str, ...], dict[str, Split]]:
    root = options.root
    if options.stream:
        return _stream_benchmark(sheet, copies, options)
    if root is None and not copies:
        raise MissingData(
            f"{sheet.name} has no copy on the hub that is known to be official: `data_root`=DIR must hold the authors'"
            f" files, extracted: {name_files(sheet.layout)}"
        )
    if root is None:
        copy, tables = from_first_copy(copies, load_hub_tables)
    elif local := find_local_copy(root, copies):
        copy, tables = local, load_local_tables(root / local.id, local.config, local.split_names)
    elif options.hub_id is not None:
        raise MissingData(f"no folder {root / options.hub_id}, where `data_root` should hold the files of `hub_id`")
    else:
        folder = find_archive(root, sheet.name, sheet.layout, sheet.copies[0].id if sheet.copies else None)
        names, splits = read_archive(folder)
        if {name: len(split) for name, split in splits.items()} == sheet.num_examples and sheet.layout:
            check_official_files(folder, sheet.layout)  # other sizes have a cause that says more
        return names, splits
    return read_splits(
        tables,
        copy.id,
        options.image_column or copy.image_column,
        options.label_column or copy.label_column,
        options,
        official_names=sheet.official_names,
    )


def _stream_benchmark(
    sheet: Sheet, copies: Sequence[HubCopy], options: ReadOptions
) -> tuple[tuple[str, ...], dict[str, Split]]:
    root = options.root
    if root is None:
        copy, files = from_first_copy(copies, find_hub_files)
    elif local := find_local_copy(root, copies):
        copy, files = local, find_local_files(root / local.id, local.config, local.split_names)
    else:
        raise MissingData(
            f"`stream`=True reads parquet files, and {root} has no {copies[0].id}/; the authors' archive is read"
            " where it lies anyway: leave `stream` out"
        )
    return stream_splits(
        files,
        copy.id,
        options.image_column or copy.image_column,
        options.label_column or copy.label_column,
        options,
        official_names=sheet.official_names,
    )
