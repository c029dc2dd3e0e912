"""Images that are decoded and resized already, in memory or in a file that is mapped into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from datamodules.images.pictures import DecodedPicture, Picture
from transfer.errors import DamagedFile
from transfer.images.decode import Pixels, WorkerError


def checksum(pixels: Pixels) -> int:
    """Return XXH3 of the pixels, 64 bits."""
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(pixels).data)


class DamagedCache(WorkerError, DamagedFile):
    """An image in a cache file is not what was written there."""


class ImageCache:
    """The resized images of a split, by position; workers read views of them, never copies.

    Args:
        storage: the file that `build_cache` wrote, or uint8 pixels in shared memory. Shape: (total,)
        start: number of bytes before the first pixel.
        shapes: height and width of each image, in pixels. Shape: (N, 2)
        checksums: of each image's pixels in a file; None for memory. Shape: (N,)
    """

    def __init__(
        self,
        storage: Path | Tensor,
        start: int,
        shapes: NDArray[np.int64],
        checksums: NDArray[np.uint64] | None = None,
    ) -> None:
        self.storage = storage
        self.start = start
        self.shapes = shapes
        self.checksums = checksums
        self._map()

    def _map(self) -> None:
        ends = np.cumsum(3 * self.shapes.prod(axis=1))
        self._bounds = [0, *ends.tolist()]
        self._sizes = self.shapes.tolist()
        self._is_sound = np.full(len(self), self.checksums is None)
        if isinstance(self.storage, Path):
            mapped = np.memmap(self.storage, np.uint8, "r", self.start, (self._bounds[-1],))
            self._pixels = mapped.view(np.ndarray)  # slices of a memmap are slow to make
        else:
            self._pixels = self.storage.numpy()

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> Picture:
        begin, end = self._bounds[index : index + 2]
        height, width = self._sizes[index]
        pixels = self._pixels[begin:end]
        if not self._is_sound[index]:
            if self.checksums is not None and checksum(pixels) != self.checksums[index]:
                raise DamagedCache(
                    f"{self.storage}: image {index} of the cache is damaged; delete the file, and it is made again"
                )
            self._is_sound[index] = True
        return DecodedPicture(pixels.reshape(height, width, 3))

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memmap would be a copy of its pixels.
        return {"storage": self.storage, "start": self.start, "shapes": self.shapes, "checksums": self.checksums}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()
