"""Which pictures are the same, or nearly: exact groups, and close pairs among perceptual hashes without all n^2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Hashes = NDArray[np.uint64]
MIN_CORRELATION = 0.9  # measured with NEAR_DISTANCE
_HASH_BITS = 64
_CHUNK = 10_000  # pairs whose thumbnails are compared at once, in about 100 MB


@dataclass(frozen=True)
class NearPairs:
    """Pairs of positions, first < second, that look alike.

    Args:
        first, second: positions in what was searched. Shape: (P,)
        distance: differing bits of the perceptual hashes. Shape: (P,)
        correlation: of the thumbnails, in [-1, 1]. Shape: (P,)
    """

    first: Indices
    second: Indices
    distance: Indices
    correlation: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.first)


def group_equal(digests: Sequence[bytes]) -> list[list[int]]:
    """Return the positions of each digest, in order of first appearance; most groups have one member."""
    groups: dict[bytes, list[int]] = {}
    for position, digest in enumerate(digests):
        groups.setdefault(digest, []).append(position)
    return list(groups.values())


def find_near(
    hashes: Hashes, thumbnails: NDArray[np.uint8], max_distance: int, min_correlation: float = MIN_CORRELATION
) -> NearPairs:
    """Return all pairs whose hashes are at most `max_distance` bits apart and whose thumbnails correlate, too.

    The second condition removes what a hash of 64 bits alone confuses; it is invariant to brightness and contrast.

    Args:
        hashes: perceptual hashes. Shape: (N,)
        thumbnails: of the same pictures. Shape: (N, S, S, 3)
        max_distance: in bits, 0 to 63.
        min_correlation: of the thumbnails, see `correlate`.
    """
    parts: list[tuple[Indices, Indices, Indices, NDArray[np.float32]]] = []
    for first, second, distance in find_close(hashes, max_distance):
        for start in range(0, len(first), _CHUNK):
            part = slice(start, start + _CHUNK)
            correlation = correlate(thumbnails[first[part]], thumbnails[second[part]])
            keep = correlation >= min_correlation
            parts.append((first[part][keep], second[part][keep], distance[part][keep], correlation[keep]))
    none = np.zeros(0, np.int64)
    first, second, distance, correlation = (
        (np.concatenate(columns) for columns in zip(*parts, strict=True))
        if parts
        else (none, none, none, none.astype(np.float32))
    )
    order = np.lexsort((second, first))
    return NearPairs(first[order], second[order], distance[order], correlation[order])


def find_close(hashes: Hashes, max_distance: int) -> Iterator[tuple[Indices, Indices, Indices]]:
    """Yield every pair (first < second, distance in bits) up to `max_distance` apart once; memory is O(N).

    Multi-index hashing (Norouzi et al. 2012): of `max_distance` + 1 bands of bits, two hashes that differ in
    `max_distance` bits agree in at least one, so only members of the same bucket of a band are compared.
    """
    edges = np.linspace(0, _HASH_BITS, max_distance + 2).round().astype(int)
    widths = np.diff(edges)
    masks = [np.uint64(((1 << int(w)) - 1) << int(start)) for w, start in zip(widths, edges[:-1], strict=True)]
    for band, mask in enumerate(masks):
        keys = hashes & mask
        order = np.argsort(keys, kind="stable")
        keys, sorted_hashes = keys[order], hashes[order]
        offset = 0
        left = np.arange(len(hashes))
        while True:  # compares each member with the next in its bucket, then with the one after, ...
            offset += 1
            left = left[left + offset < len(hashes)]
            left = left[keys[left] == keys[left + offset]]
            if not len(left):
                break
            difference = sorted_hashes[left] ^ sorted_hashes[left + offset]
            distance = np.bitwise_count(difference)
            new = distance <= max_distance
            for earlier in masks[:band]:  # where an earlier band agreed too, the pair has been given already
                new &= (difference & earlier) != 0
            if new.any():
                found = order[left[new]], order[left[new] + offset]
                yield np.minimum(*found), np.maximum(*found), distance[new].astype(np.int64)


def correlate(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return Pearson's correlation of two thumbnails over all pixels, channels centred; 0 for a blank one.

    Shape:
        left, right: (P, S, S, 3) -> (P,)
    """
    shape = (len(left), -1, 3)
    a, b = left.reshape(shape).astype(np.float32), right.reshape(shape).astype(np.float32)
    a -= a.mean(axis=1, keepdims=True)
    b -= b.mean(axis=1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=(1, 2)) * (b * b).sum(axis=(1, 2)))
    product: NDArray[np.float32] = (a * b).sum(axis=(1, 2))
    return np.divide(product, scale, out=np.zeros_like(product), where=scale > 0)
