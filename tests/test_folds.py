"""Folds: every image once, stratified, groups whole, the same for the same seed; what cannot be folded."""

from __future__ import annotations

import hashlib
import warnings

import numpy as np
import pytest

from transfer.errors import BadValue
from transfer.folds import draw_folds, most_folds

LABELS = np.random.default_rng(0).choice(4, 103, p=[0.5, 0.3, 0.15, 0.05])


def test_every_fold_has_its_share_of_every_class() -> None:
    folds = draw_folds(LABELS, folds=5, repeats=3, seed=7)
    assert folds.shape == (3, 103) and folds.dtype == np.int64
    for fold in folds:
        shares = np.stack([np.bincount(fold[label == LABELS], minlength=5) for label in range(4)])
        assert shares.shape == (4, 5)
        assert (shares.max(1) - shares.min(1) <= 1).all()
    assert not np.array_equal(folds[0], folds[1])


def test_a_seed_gives_these_folds_on_every_machine() -> None:
    groups = np.arange(103) // 4
    several = np.stack([LABELS == 0, LABELS > 1], 1)
    found = [
        draw_folds(LABELS),
        draw_folds(LABELS, groups=groups),
        draw_folds(several),
        draw_folds(several, groups=groups),
    ]
    assert draw_folds(LABELS, repeats=2, seed=3)[1].tolist() == draw_folds(LABELS, seed=4)[0].tolist()
    digests = [hashlib.sha256(folds.astype("<i8").tobytes()).hexdigest()[:8] for folds in found]
    assert digests == ["c4137aef", "dbc00ed8", "f266a3ef", "321550a2"]


@pytest.mark.parametrize("several_labels", [False, True])
def test_no_two_folds_share_a_group(several_labels: bool) -> None:
    rng = np.random.default_rng(1)
    for seed in range(20):
        labels = rng.integers(0, 3, 60)
        groups = rng.choice(["ann", "bob", "cy", "dan", "eve", "flo", "guy"], 60)
        given = np.eye(3, dtype=bool)[labels] if several_labels else labels
        (folds,) = draw_folds(given, folds=4, seed=seed, groups=groups)
        assert all(len(np.unique(folds[groups == group])) == 1 for group in groups)
        assert set(folds) == {0, 1, 2, 3}


def test_groups_are_stratified_where_they_can_be() -> None:
    labels, groups = np.repeat([0, 1], [60, 20]), np.arange(80) // 4
    (folds,) = draw_folds(labels, folds=5, groups=groups)
    assert np.bincount(folds[labels == 1]).tolist() == [4] * 5 and np.bincount(folds).tolist() == [16] * 5


def test_more_folds_than_images_or_groups_are_refused_with_what_is_possible() -> None:
    labels = np.repeat([0, 1, 2], 3)
    assert most_folds(labels) == 3
    with pytest.raises(BadValue, match=r"`folds`=5 \(allowed: 2 to 3: the largest class has that many images\)"):
        draw_folds(labels, folds=5)
    assert sorted(np.bincount(draw_folds(labels, folds=3)[0])) == [3, 3, 3]
    with pytest.raises(BadValue, match=r"`folds`=1 \(allowed: 2 to 3"):
        draw_folds(labels, folds=1)
    groups = np.arange(9) % 2
    assert most_folds(labels, groups) == 2
    with pytest.raises(BadValue, match=r"`folds`=3 \(allowed: 2 to 2: that many groups\)"):
        draw_folds(labels, folds=3, groups=groups)
    with pytest.raises(BadValue, match="none, for want of images: that many groups"):
        draw_folds(labels, folds=2, groups=np.zeros(9))
    with pytest.raises(BadValue, match=r"`folds`=7 \(allowed: 2 to 6: that many images\)"):
        draw_folds(np.zeros((6, 2), bool), folds=7)
    with pytest.raises(BadValue, match=r"all 4 images are of one class"):
        draw_folds(np.full(4, 2), folds=2)


def test_a_class_that_one_fold_alone_has_is_said() -> None:
    with pytest.warns(UserWarning, match="a single image count as wrong in cross-validation.*: 2, 5$"):
        draw_folds(np.array([0] * 6 + [1] * 6 + [2, 5]), folds=3)
    groups = np.array([*range(6), *range(6), 0, 0])
    with pytest.warns(UserWarning, match="images of a single group.*: 2$"):
        draw_folds(np.array([0] * 6 + [1] * 6 + [2, 2]), folds=3, groups=groups)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # two images are enough, though folds are more
        draw_folds(np.array([0] * 6 + [1] * 6 + [2, 2]), folds=5)
