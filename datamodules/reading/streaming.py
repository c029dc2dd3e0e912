"""Images that are fetched while they are needed: parquet files are read where they lie, a row group at a time.

A row group is the least that can be fetched, so the order of training is one that asks for each about once an epoch:
groups in random order are dealt out to ranks and lanes, and each lane shuffles within a window of groups that fits in
memory. A batch comes from one lane, and a worker process serves whole lanes. So the order does not depend on the
number of workers.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from datamodules.dataset.sheet import ReadOptions
from datamodules.dataset.split import Split
from datamodules.loading.samplers import LANES
from datamodules.reading.labels import read_labels
from datamodules.reading.sources import first_line
from datamodules.reading.tables import require_column, require_image_column
from transfer.errors import DamagedFile, UserError
from transfer.images.decode import LostImageError

# For the windows of all lanes of a training process. With photos of 50 kB in row groups of 100, each lane shuffles two
# dozen of them, so that a batch of data that is sorted by class mixes several; larger groups mix fewer.
_WINDOW_BYTES = 2**30
_FEWEST_GROUPS = 2
_CONNECTIONS = 16


@dataclass(frozen=True)
class _RowGroup:
    """A part of a parquet file: `num_bytes` counts its images alone, `identity` changes with what the footer says."""

    file: str
    index: int
    num_rows: int
    num_bytes: int
    identity: bytes


class StreamedTable:
    """Rows of parquet files, in the order of the files; a row group is fetched when one of its rows is needed.

    Args:
        groups: All row groups, in order.
        column: The image column: a struct of bytes and path, or encoded bytes.
        wanted: How many rows of each group an epoch needs; a group leaves the memory with the last of them.
        keep: Largest number of groups in memory: those that were used last.
        remember: Whether every image stays in memory once it has been read: for a few that are needed again and again.
    """

    def __init__(
        self,
        groups: Sequence[_RowGroup],
        column: str,
        wanted: Sequence[int] | None = None,
        keep: int = 1,
        remember: bool = False,
    ) -> None:
        self.groups = tuple(groups)
        self.column = column
        self.wanted = [group.num_rows for group in groups] if wanted is None else list(wanted)
        self.keep = keep
        self.remember = remember
        self.starts = np.cumsum([0, *(group.num_rows for group in self.groups)])
        self._open: dict[str, pq.ParquetFile] = {}
        self._held: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._left: dict[int, int] = {}
        self._remembered: dict[int, Any] = {}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, row: int) -> dict[str, Any]:
        if row in self._remembered:
            return {"image": self._remembered[row]}
        number = int(self.group_of(np.array([row]))[0])
        image = self._fetch(number)[row - int(self.starts[number])].as_py()
        self._left[number] -= 1
        if self._left[number] == 0:
            del self._held[number]
        image = image if isinstance(image, dict) else {"bytes": image, "path": None}
        if self.remember:
            self._remembered[row] = image
        return {"image": image}

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("groups", "column", "wanted", "keep", "remember")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # a worker opens the files itself

    def group_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of each row's group."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def identity(self, row: int) -> bytes:
        """Return what tells a row from others without fetching it."""
        (number,) = self.group_of(np.array([row]))
        return self.groups[number].identity + (row - int(self.starts[number])).to_bytes(8, "big")

    def followed_by(self, other: StreamedTable) -> StreamedTable:
        """Return both tables in one."""
        return StreamedTable((*self.groups, *other.groups), self.column)

    def window(self) -> int:
        """Return the number of row groups within which a lane shuffles."""
        largest = max((group.num_bytes for group in self.groups), default=1)
        return max(_FEWEST_GROUPS, _WINDOW_BYTES // (LANES * max(largest, 1)))

    def _fetch(self, number: int) -> pa.ChunkedArray:
        if number in self._held:
            self._held.move_to_end(number)
            return self._held[number]
        group = self.groups[number]
        try:
            if group.file not in self._open:
                self._open[group.file] = open_parquet(group.file)
            images = self._open[group.file].read_row_group(group.index, columns=[self.column])[self.column]
        except Exception as error:  # sockets, HTTP codes, time-outs, damaged files
            self._open.pop(group.file, None)
            raise LostImageError(f"{group.file} could not be read ({first_line(error)})") from error
        self._held[number], self._left[number] = images, self.wanted[number]
        while len(self._held) > self.keep:
            self._held.popitem(last=False)
        return images


def stream_splits(
    files: Mapping[str, Sequence[str]],
    source: str,
    image_column: str,
    label_column: str,
    options: ReadOptions,
    *,
    official_names: Sequence[str] = (),
) -> tuple[tuple[str, ...], dict[str, Split]]:
    """Return the class names and splits of parquet files, of which only footers and labels are fetched.

    Args:
        files: Paths or URLs of each split; for the others see `read_splits`.

    Raises:
        UserError: As `read_splits`, or a file cannot be read.
    """
    labels, tables = {}, {}
    for split, paths in files.items():
        where = f"{source} {split}"
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            parts = list(pool.map(partial(_read_part, label_column, image_column, where), paths))
        labels[split] = datasets.concatenate_datasets([part for part, _ in parts])
        tables[split] = StreamedTable([group for _, groups in parts for group in groups], image_column)
    names, encoded = read_labels(labels, source, label_column, options, official_names=official_names)
    return names, {
        split: Split(f"{source} {split}", table, np.arange(len(table)), encoded[split])
        for split, table in tables.items()
    }


def open_parquet(file: str) -> pq.ParquetFile:
    """Open a local or remote parquet file, of which only the parts in use will be read."""
    if "://" not in file:
        return pq.ParquetFile(file, pre_buffer=True)
    # Without a cache of its own: pyarrow asks for whole column chunks.
    return pq.ParquetFile(fsspec.open(file, "rb", cache_type="none").open(), pre_buffer=True)


def _read_part(label_column: str, image_column: str, where: str, file: str) -> tuple[datasets.Dataset, list[_RowGroup]]:
    try:
        parquet = open_parquet(file)
        columns = parquet.schema_arrow.names
        require_column(columns, label_column, "label_column", where)
        require_column(columns, image_column, "image_column", where)
        require_image_column(parquet.schema_arrow.field(image_column).type, image_column, where)
        labels = parquet.read(columns=[label_column])
        footer = parquet.metadata
    except UserError:
        raise
    except Exception as error:  # as above
        raise DamagedFile(f"{where}: {file} could not be read ({first_line(error)})") from error
    groups = []
    for index in range(footer.num_row_groups):
        content = footer.row_group(index).to_dict()
        columns = content["columns"]
        of_images = [c for c in columns if c["path_in_schema"].split(".")[0] == image_column]
        num_bytes = sum(column["total_compressed_size"] for column in of_images)
        # Sizes, offsets and statistics of every column; the same in every copy of the file.
        identity = json.dumps(content, default=repr).encode()
        groups.append(_RowGroup(file, index, content["num_rows"], num_bytes, identity))
    return datasets.Dataset(labels), groups


def for_training(split: Split, num_workers: int) -> Split:
    """Return the split for training: each worker keeps the windows of its lanes, and a group at either end."""
    assert isinstance(split.table, StreamedTable)
    return _holding(split, LANES // max(num_workers, 1) * (split.table.window() + 2))


def for_evaluation(split: Split, num_workers: int, repeated: bool) -> Split:
    """Return the split for evaluation: each worker keeps the groups that its lanes are in.

    Args:
        repeated: Whether it is evaluated several times: its encoded images then stay in memory after the first.
    """
    return _holding(split, LANES // max(num_workers, 1) * 2, repeated)


def _holding(split: Split, keep: int, remember: bool = False) -> Split:
    assert isinstance(split.table, StreamedTable)
    groups = split.table.groups
    wanted = np.bincount(split.table.group_of(split.rows), minlength=len(groups)).tolist()
    return replace(split, table=StreamedTable(groups, split.table.column, wanted, keep, remember))
