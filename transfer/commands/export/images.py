"""The images of the run that is exported: golden inputs, those that formats are compared on, and those for 8 bits."""

from __future__ import annotations

import functools
import math
import operator
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np
from numpy.typing import NDArray

from datamodules import get_sheet
from datamodules.dataset.sheet import ReadOptions
from datamodules.dataset.sheet import Source as DataSource
from transfer.bundle.golden import choose_inputs, noise_files
from transfer.bundle.writing import Examples
from transfer.errors import BadValue, MissingData
from transfer.images.decode import Pixels, decode_image, read_encoded
from transfer.images.depth import Decoding
from transfer.images.prepare import prepare_pixels
from transfer.runs.predictor import Run
from transfer.seen_images import KEY, SeenImages

if TYPE_CHECKING:
    from datamodules.dataset.loaded import Dataset
    from datamodules.dataset.split import Split

MOST_COMPARED = 1000  # images of val, from all over
NUM_CALIBRATION = 300  # training images for 8 bits; as many as NNCF takes by default
_BATCH = 32


class Batches(Sequence[list[Pixels]]):
    """Images of a split, decoded a batch at a time, whenever they are asked for.

    Args:
        split: the split.
        positions: which of its images.
        decoding: how they become pixels.
    """

    def __init__(self, split: Split, positions: NDArray[np.int64], decoding: Decoding) -> None:
        self._split, self._positions, self._decoding = split, positions, decoding

    def __len__(self) -> int:
        return math.ceil(len(self._positions) / _BATCH)

    @overload
    def __getitem__(self, index: int) -> list[Pixels]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[list[Pixels]]: ...
    def __getitem__(self, index: int | slice) -> list[Pixels] | Sequence[list[Pixels]]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if index >= len(self):
            raise IndexError(index)
        encoded = [self._split.encoded(int(p)) for p in self._positions[index * _BATCH : (index + 1) * _BATCH]]
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda source: decode_image(source, self._decoding), encoded))


def read_images(run: Run, data_root: Path | None, may_lack: bool) -> Dataset | None:
    """Return the run's data; None where they are not there and need not be."""
    from datamodules.dataset.loaded import read_dataset

    options = run.config.read_options() | ({} if data_root is None else {"data_root": data_root})
    try:
        dataset = read_dataset(DataSource(get_sheet(run.config.dataset), ReadOptions(**options)))
    except MissingData as error:
        if may_lack:
            warnings.warn(
                f"without the run's images: formats are compared on the golden inputs alone ({error})", stacklevel=2
            )
            return None
        raise MissingData(
            f"{error}; say where the run's data lie now with `data_root`, or leave them out with `golden`=noise and"
            " without `int8`"
        ) from None
    dataset.check_same_data(run.data)
    return dataset


def golden_files(run: Run, val: Split | None, golden: str | None) -> tuple[list[bytes], list[str]]:
    """Return the encoded golden inputs, and the names of those that are photos of val.

    Raises:
        BadValue: photos are asked for where there is no val split.
    """
    if golden == "photos" and val is None:
        raise BadValue(f"`golden`=photos: {run.run_dir} has no val split; `golden`=noise takes noise")
    chosen = [] if val is None or golden == "noise" else choose_inputs(val.labels.numpy())
    if val is None or not chosen:
        return noise_files(), []
    return [read_encoded(val.encoded(index)) for index in chosen], [val.image_name(index) for index in chosen]


def find_examples(runs: Sequence[Run], val: Split | None) -> Examples | None:
    """Return the images of val on which formats are compared; None where there are none."""
    if val is None or not len(val):
        return None
    positions = _spread(len(val), MOST_COMPARED)
    batches = Batches(val, positions, runs[0].decoding)
    return Examples(batches, val.labels.numpy()[positions], count_seen(runs, val.ids()[positions]))


def count_seen(runs: Sequence[Run], ids: NDArray[np.uint64]) -> int:
    """Return how many of the images any of the runs was trained on, as far as they say."""
    found = [SeenImages.from_text(run.data.get(KEY)) for run in runs]
    known = [seen for seen in found if seen is not None]
    return 0 if not known else functools.reduce(operator.or_, known).count(ids)


def train_pixels(run: Run, dataset: Dataset) -> NDArray[np.uint8]:
    """Return prepared training images from all over, from which 8 bits take their ranges. Shape: (M, S, S, C)"""
    train = dataset.split("train")
    batches = Batches(train, _spread(len(train), NUM_CALIBRATION), run.decoding)
    return np.stack([prepare_pixels(image, run.preprocessing) for batch in batches for image in batch])


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Return up to so many positions from all over."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)
