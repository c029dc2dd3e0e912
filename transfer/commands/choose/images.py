"""The images that a choice cross-validates on, and the folds that they are in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from datamodules.dataset.holdout import fold_units
from datamodules.dataset.loaded import Dataset
from datamodules.dataset.split import Split, join
from transfer.config.choose_schema import ChooseConfig
from transfer.folds import draw_folds, most_folds

SPLITS = ("train", "val")  # all but test


@dataclass(frozen=True)
class Images:
    """All images but test: train and val in one split, in whose order all arrays are.

    Attributes:
        split: the images.
        order: where each is among train's images, followed by val's. Shape: (N,)
        names: where each image is.
        folds: the fold of each image in each repeat. Shape: (R, N)
    """

    split: Split
    order: NDArray[np.int64]
    names: list[str]
    folds: NDArray[np.int64]

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class indices. Shape: (N,)"""
        return self.split.labels.numpy()

    @property
    def groups(self) -> NDArray[np.str_] | None:
        """The groups; see `datamodules.dataset.split.Split`. Shape: (N,)"""
        return self.split.groups

    @property
    def num_folds(self) -> int:
        """The number of folds."""
        return int(self.folds.max()) + 1

    def __str__(self) -> str:
        repeats = f"{len(self.folds)} x " if len(self.folds) > 1 else ""
        return f"{repeats}{self.num_folds}-fold{' by group' if self.groups is not None else ''}"


def read_images(dataset: Dataset, own: ChooseConfig, seed: int) -> Images:
    """Return all images but test, and the folds they are in: those asked for, or as many as there can be.

    The folds of the first repeat are those of `finetune` with as many `folds` and the seed as `data.draw`.

    Raises:
        BadValue: too few images for two folds.
    """
    parts = [dataset.splits[name] for name in SPLITS if name in dataset.splits]
    split = reduce(lambda first, second: join(first, second, f"{dataset.name} train and val"), parts)
    rows = np.concatenate([part.rows for part in parts])
    in_one_table = all(part.table is split.table for part in parts)
    order = np.argsort(rows) if in_one_table else np.arange(len(rows))  # as `join` does
    assert np.array_equal(np.concatenate([part.ids() for part in parts])[order], split.ids())
    names = [name for part in parts for name in part.image_names()]
    labels, groups, unit_of = fold_units(split)
    most = most_folds(labels, groups)
    num_folds = own.folds if most < 2 else min(own.folds, most)
    if num_folds < own.folds:
        limit = "groups" if groups is not None else "images of the largest class"
        print(f"{num_folds} folds in place of {own.folds}: there are only so many {limit}")
    folds = draw_folds(labels, num_folds, own.repeats, seed, groups, dataset.class_names)[:, unit_of]
    return Images(split, order, [names[position] for position in order], folds)
