"""Labelled images on which nobody trains: any splits, and classes that are matched with a network's by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from datamodules.dataset.checks import drop_bad_images
from datamodules.dataset.sheet import Source, name_key
from datamodules.dataset.split import Split, join
from transfer.errors import BadValue, MissingData, some_of
from transfer.images.decode import BadImage
from transfer.images.depth import DEFAULT_DECODING, Decoding


@dataclass(frozen=True)
class Labelled:
    """What a source has.

    Args:
        source: What was read, and how.
        class_names: In index order.
        splits: `train`, `val` and `test` as far as there are any; data without splits are all in `train`.
        skipped: Images that cannot be read.
    """

    source: Source
    class_names: tuple[str, ...]
    splits: Mapping[str, Split]
    skipped: list[BadImage]

    def choose(self, split: str | None) -> tuple[str, Split]:
        """Return the images to score a network on, with their name.

        Args:
            split: `train`, `val`, `test` or `all`; None takes the only split there is, or else `test`.

        Raises:
            MissingData: There is no such split.
        """
        if split == "all" or (split is None and len(self.splits) == 1):
            joined = None
            for part in self.splits.values():
                joined = part if joined is None else join(joined, part, f"{self.source.sheet.name} all")
            assert joined is not None
            return "all", joined
        name = split or "test"
        if name not in self.splits:
            raise MissingData(f"`split`={name}: the data has only {', '.join(self.splits)} (or take all)")
        return name, self.splits[name]


def read_labelled(source: Source, decoding: Decoding = DEFAULT_DECODING) -> Labelled:
    """Read what a source has, whether a classifier could be trained on it or not.

    Args:
        source: What to read, and how.
        decoding: How its images become pixels: a network's.

    Raises:
        UserError: The source cannot be read, or has images that cannot be read and may not be left out.
    """
    names, found = source.sheet.load_splits(source.options)
    if not any(map(len, found.values())):
        raise MissingData(f"{source.options.data_root}: no images")
    found = {name: replace(split, decoding=decoding) for name, split in found.items()}
    splits, skipped = drop_bad_images(found, source.options.on_bad_image)
    return Labelled(source, names, {name: split for name, split in splits.items() if len(split)}, skipped)


@dataclass(frozen=True)
class Matched:
    """Labelled images in a network's classes.

    Args:
        split: The images, whose labels are indices of the network's classes, or multi-hot in their order.
        absent: Classes of the network that none of the images has.
        unknown: Classes that the network does not know, with their numbers of images. These images are left out; where
            an image may have several labels, only the label is.
    """

    split: Split
    absent: tuple[str, ...]
    unknown: dict[str, int]


def match_labels(split: Split, found: Sequence[str], known: Sequence[str]) -> Matched:
    """Return a split in a network's classes, which are told by their names; case, spaces and hyphens do not count.

    Args:
        split: The images.
        found: Names of their classes, in index order.
        known: Names of the network's classes, in index order.

    Raises:
        BadValue: No class is the network's, or a name stands for two of them.
    """
    index_of = [_find_class(name, known) for name in found]
    counts = split.class_counts(len(found))
    unknown = {
        name: count for name, count, index in zip(found, counts, index_of, strict=True) if index is None and count
    }
    if split.labels.ndim == 1:
        new = torch.tensor([-1 if index is None else index for index in index_of])[split.labels]
        kept = split.select(np.flatnonzero(new.numpy() >= 0))
        matched = replace(kept, labels=new[new >= 0])
    else:
        new = torch.zeros(len(split), len(known))
        for theirs, ours in enumerate(index_of):
            if ours is not None:
                new[:, ours] = torch.maximum(new[:, ours], split.labels[:, theirs])
        matched = replace(split, labels=new)
    present = matched.class_counts(len(known))
    if not any(present):
        raise BadValue(
            f"{split.name}: none of its classes ({some_of(found)}) is one of the run's ({some_of(known)}):"
            " rename the classes"
        )
    absent = tuple(name for name, count in zip(known, present, strict=True) if count == 0)
    return Matched(matched, absent, unknown)


def _find_class(name: str, known: Sequence[str]) -> int | None:
    if name in known:
        return known.index(name)
    alike = [index for index, other in enumerate(known) if name_key(other) == name_key(name)]
    if len(alike) > 1:
        raise BadValue(
            f"class {name!r} may be {' or '.join(repr(known[index]) for index in alike)}: write one of these"
        )
    return alike[0] if alike else None
