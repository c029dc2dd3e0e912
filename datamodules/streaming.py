"""Images that are fetched while they are needed: parquet files are read where they lie, a row group at a time.

A row group is the least that can be fetched, so the order of training is one that asks for each only once an epoch:
groups in random order are dealt out to ranks and lanes, and each lane shuffles within a window that it can hold. A
batch comes from one lane, and a worker process serves whole lanes. So the order does not depend on the number of
workers.
"""

from __future__ import annotations

import json
import math
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

from datamodules.images import LostImageError
from datamodules.loaders import EpochSampler, UnpaddedDistributedSampler
from datamodules.split import Split
from datamodules.tables import read_labels, require_column
from transfer.errors import UserError

LANES = 4
# Large enough that a batch of data that is sorted by class mixes several, small enough for memory: four lanes of photos
# of 50 kB take half a gigabyte in row groups of 100, and 1.6 GB in row groups of 1,000.
_WINDOW_IMAGES = 2_048
_WINDOW_GROUPS = 8
_CONNECTIONS = 16


@dataclass(frozen=True)
class _RowGroup:
    """A part of a parquet file; `identity` changes with its content, as far as the file's footer tells."""

    file: str
    index: int
    num_rows: int
    identity: bytes


class StreamedTable:
    """Rows of parquet files, in the order of the files; a row group is fetched when a row of it is asked for.

    Args:
        groups: all row groups, in order.
        column: of the images: a struct of bytes and path, or encoded bytes.
        keep: rows whose images stay in memory, of the groups that were asked for last.
    """

    def __init__(self, groups: Sequence[_RowGroup], column: str, keep: int = 0) -> None:
        self.groups = tuple(groups)
        self.column = column
        self.keep = keep
        self.starts = np.cumsum([0, *(group.num_rows for group in self.groups)])
        self._open: dict[str, pq.ParquetFile] = {}
        self._held: OrderedDict[int, pa.ChunkedArray] = OrderedDict()

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, row: int) -> dict[str, Any]:
        (number,) = self.group_of(np.array([row]))
        image = self._fetch(int(number))[row - int(self.starts[number])].as_py()
        return {"image": image if isinstance(image, dict) else {"bytes": image, "path": None}}

    def __getstate__(self) -> dict[str, Any]:
        return {"groups": self.groups, "column": self.column, "keep": self.keep}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # a worker opens the files itself

    def group_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of each row's group."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def identity(self, row: int) -> bytes:
        """What tells a row from others without fetching it."""
        (number,) = self.group_of(np.array([row]))
        return self.groups[number].identity + (row - int(self.starts[number])).to_bytes(8, "big")

    def followed_by(self, other: StreamedTable) -> StreamedTable:
        """Both tables in one."""
        return StreamedTable((*self.groups, *other.groups), self.column, self.keep)

    def window(self) -> int:
        """Images within which a lane shuffles."""
        return max(_WINDOW_IMAGES, _WINDOW_GROUPS * self.largest_group())

    def largest_group(self) -> int:
        """Rows of the largest row group."""
        return max((group.num_rows for group in self.groups), default=0)

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
            raise LostImageError(f"{group.file} could not be read ({_first_line(error)})") from error
        self._held[number] = images
        while len(self._held) > 1 and sum(map(len, self._held.values())) > self.keep:
            self._held.popitem(last=False)
        return images


def stream_splits(
    files: Mapping[str, Sequence[str]],
    source: str,
    image_column: str,
    label_column: str,
    *,
    multilabel: bool,
    label_separator: str,
    official_names: Sequence[str] = (),
) -> tuple[tuple[str, ...], dict[str, Split]]:
    """Class names and splits of parquet files of which only footers and labels are fetched.

    Args:
        files: paths or URLs per split; the others as in `read_splits`.

    Raises:
        UserError: as `read_splits`, or a file that cannot be read.
    """
    labels, tables = {}, {}
    for split, paths in files.items():
        where = f"{source} {split}"
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            parts = list(pool.map(partial(_read_part, label_column, image_column, where), paths))
        labels[split] = datasets.concatenate_datasets([part for part, _ in parts])
        tables[split] = StreamedTable([group for _, groups in parts for group in groups], image_column)
    names, encoded = read_labels(
        labels,
        source,
        label_column,
        multilabel=multilabel,
        label_separator=label_separator,
        official_names=official_names,
    )
    return names, {
        split: Split(f"{source} {split}", table, np.arange(len(table)), encoded[split])
        for split, table in tables.items()
    }


def open_parquet(file: str) -> pq.ParquetFile:
    """A local or remote parquet file of which nothing but what is asked for is read."""
    # Without a cache of its own: pyarrow asks for whole column chunks.
    return pq.ParquetFile(fsspec.open(file, "rb", cache_type="none").open(), pre_buffer=True)


def _read_part(label_column: str, image_column: str, where: str, file: str) -> tuple[datasets.Dataset, list[_RowGroup]]:
    try:
        parquet = open_parquet(file)
        columns = parquet.schema_arrow.names
        require_column(columns, label_column, "label_column", where)
        require_column(columns, image_column, "image_column", where)
        labels = parquet.read(columns=[label_column])
        footer = parquet.metadata
    except UserError:
        raise
    except Exception as error:  # as above
        raise UserError(f"{where}: {file} could not be read ({_first_line(error)})") from error
    groups = []
    for index in range(footer.num_row_groups):
        content = footer.row_group(index).to_dict()
        # Sizes, offsets and statistics of every column; the same in every copy of the file.
        groups.append(_RowGroup(file, index, content["num_rows"], json.dumps(content, default=repr).encode()))
    return datasets.Dataset(labels), groups


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def holding(split: Split, num_workers: int) -> Split:
    """The split, keeping in the memory of each worker what its lanes shuffle in."""
    assert isinstance(split.table, StreamedTable)
    lanes = LANES // max(num_workers, 1)
    keep = lanes * (split.table.window() + 2 * split.table.largest_group())
    return replace(split, table=StreamedTable(split.table.groups, split.table.column, keep))


def streaming_workers(num_workers: int) -> int:
    """The number of workers, lowered to one that divides the lanes."""
    return max((number for number in (0, 1, 2, 4) if number <= num_workers), default=0)


class StreamSampler(EpochSampler):
    """An EpochSampler whose every rank and lane asks for neighbouring rows; see the module's docstring.

    Every rank gives the same number of batches.

    Args:
        groups: number of the row group of each image. Shape: (N,)
        window: images within which a lane shuffles.
        batch_size: of the loader.
        seed, rank, world_size: see `EpochSampler`.
    """

    def __init__(
        self,
        groups: NDArray[np.int64],
        window: int,
        batch_size: int,
        seed: int,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__(len(groups), seed, rank, world_size)
        self.groups = groups
        self.window = window
        self.batch_size = batch_size

    def _order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        turn = rng.permutation(int(self.groups.max(initial=0)) + 1)
        order = np.argsort(turn[self.groups], kind="stable")
        lanes, rest = deal_out(order[self.rank * len(self) : (self.rank + 1) * len(self)], self.batch_size)
        for lane in lanes:
            for start in range(0, len(lane), self.window):
                rng.shuffle(lane[start : start + self.window])
        return interleave(lanes, rest, self.batch_size)


class StreamEvalSampler(UnpaddedDistributedSampler):
    """Every image exactly once over all ranks; each rank and lane has neighbours, ranks may differ in length by one.

    Args:
        num_images: in all.
        batch_size: of the loader.
        rank, world_size: see `EpochSampler`.
    """

    def __init__(
        self, num_images: int, batch_size: int, rank: int | None = None, world_size: int | None = None
    ) -> None:
        super().__init__(num_images, rank, world_size)
        mine = np.array_split(np.arange(num_images), self.num_replicas)[self.rank]
        self.mine = interleave(*deal_out(mine, batch_size), batch_size).tolist()


def deal_out(order: NDArray[np.int64], batch_size: int) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """Neighbouring whole batches for each lane, and what is left for no whole batch."""
    num_batches = len(order) // batch_size
    bounds = np.cumsum([batch_size * math.ceil((num_batches - lane) / LANES) for lane in range(LANES)])
    *lanes, rest = np.split(order.copy(), bounds)
    return lanes, rest


def interleave(lanes: Sequence[NDArray[np.int64]], rest: NDArray[np.int64], batch_size: int) -> NDArray[np.int64]:
    """The lanes' batches in turn, then the rest."""
    batches = [lane.reshape(-1, batch_size) for lane in lanes]
    turns = [batches[number % LANES][number // LANES] for number in range(sum(map(len, batches)))]
    return np.concatenate([*turns, rest]).astype(np.int64)
