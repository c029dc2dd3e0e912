"""Which images a network was trained on: 64 bits of each, in a text that its checkpoints and converted files carry."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KEY = "trained_images"
# Of more images, those with the lowest ids are kept, a random sample: 256 KiB in all.
MOST = 2**15
_ALL = 2**64 - 1


@dataclass(frozen=True, eq=False)
class SeenImages:
    """The ids of images that a network was trained on; see `Split.ids`.

    Attributes:
        ids: in ascending order, each once. Shape: (N,)
        largest: ids above it may be missing.
    """

    ids: NDArray[np.uint64]
    largest: int = _ALL

    @classmethod
    def of(cls, ids: NDArray[np.uint64], largest: int = _ALL) -> SeenImages:
        """Return these images, or of too many those with the lowest ids."""
        found = np.unique(ids)
        found = found[found <= np.uint64(largest)]
        return cls(found, largest) if len(found) <= MOST else cls(found[:MOST], int(found[MOST - 1]))

    def __or__(self, other: SeenImages) -> SeenImages:
        """Return the images that either has."""
        return self.of(np.concatenate([self.ids, other.ids]), min(self.largest, other.largest))

    def count(self, ids: NDArray[np.uint64]) -> int:
        """Return how many of these images were seen; where ids are missing, an estimate from the others."""
        known = ids[ids <= np.uint64(self.largest)]
        return round(int(np.isin(known, self.ids).sum()) * len(ids) / max(len(known), 1))

    def to_text(self) -> str:
        """Return a text that `from_text` reads."""
        return base64.b64encode(np.array([self.largest, *self.ids], "<u8").tobytes()).decode()

    @classmethod
    def from_text(cls, text: object) -> SeenImages | None:
        """Return what `to_text` wrote; None for anything else: a file that does not say, or a damaged one."""
        try:
            values = np.frombuffer(base64.b64decode(str(text), validate=True), "<u8").astype(np.uint64)
        except (ValueError, binascii.Error):
            return None
        return cls(values[1:], int(values[0])) if len(values) else None
