"""The ids of training images travel as text; of too many, a sample still finds an overlap."""

from __future__ import annotations

import numpy as np

from transfer.seen_images import MOST, SeenImages


def ids(size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, size, dtype=np.uint64)


def test_few_images_are_counted_exactly() -> None:
    first, second = ids(300, 0), ids(200, 1)
    seen = SeenImages.from_text((SeenImages.of(first) | SeenImages.of(second)).to_text())
    assert seen is not None and len(seen.ids) == 500
    assert seen.count(np.concatenate([first[:7], second[:5], ids(90, 2)])) == 12
    assert seen.count(ids(90, 2)) == seen.count(np.zeros(0, np.uint64)) == 0


def test_many_images_are_sampled_and_the_overlap_is_estimated() -> None:
    first = ids(4 * MOST, 0)
    seen = SeenImages.of(first)
    assert len(seen.ids) == MOST and len(seen.to_text()) < 400_000
    # A quarter of the ids is known: of 8,000 seen ones about 2,000 are found; the deviation of 4 * that is below 160.
    assert abs(seen.count(np.concatenate([first[:8_000], ids(2_000, 1)])) - 8_000) < 500
    assert seen.count(ids(2_000, 1)) == 0
    both = seen | SeenImages.of(ids(100, 2))
    assert len(both.ids) == MOST and both.largest <= seen.largest


def test_what_is_no_such_text_says_nothing() -> None:
    assert [SeenImages.from_text(text) for text in (None, "", "%%", "abc", 7)] == [None] * 5
