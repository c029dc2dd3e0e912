"""Inspected images by number, and which of them show the same picture, by the splits that they are in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from datamodules.dataset.split import Split
from datamodules.doctor.duplicates import find_near, group_equal
from datamodules.doctor.inspection import Inspection
from transfer.images.decode import Pixels, decode_image

# The perceptual hash reads 32x32 pixels. Below, much that is different looks alike: a third of the digits (8x8) has a
# near duplicate that another person wrote.
MIN_SIDE = 32


class Gallery:
    """Names, splits and labels of inspected images, by their number."""

    def __init__(self, splits: Mapping[str, Split], inspection: Inspection, class_names: Sequence[str]) -> None:
        self.splits = splits
        self.inspection = inspection
        self.class_names = class_names

    def split(self, image: int) -> str:
        """Return the name of an image's split."""
        return self.inspection.split_names[self.inspection.split[image]]

    def label(self, image: int) -> str:
        """Return the name of an image's class, or of its classes, joined by `|`."""
        label = self.splits[self.split(image)].labels[int(self.inspection.position[image])]
        if label.ndim == 0:
            return self.class_names[int(label)]
        return "|".join(name for name, value in zip(self.class_names, label.tolist(), strict=True) if value)

    def name(self, image: int) -> str:
        """Return an image's path or row."""
        return self.splits[self.split(image)].image_name(int(self.inspection.position[image]))

    def pixels(self, image: int) -> Pixels:
        """Return an image's pixels, RGB (H, W, 3)."""
        split = self.splits[self.split(image)]
        return decode_image(split.encoded(int(self.inspection.position[image])), split.decoding)

    def describe(self, image: int) -> dict[str, str]:
        """Return an image's split, name and class, for JSON."""
        return {"split": self.split(image), "image": self.name(image), "class": self.label(image)}

    def join(self, images: Iterable[int]) -> str:
        """Return one line for images that belong together."""
        return " = ".join(f"{self.name(image)} ({self.split(image)}, {self.label(image)})" for image in images)

    def by_split(self, images: Iterable[int]) -> dict[str, list[int]]:
        """Return the images of each split."""
        members: dict[str, list[int]] = {name: [] for name in self.splits}
        for image in images:
            members[self.split(image)].append(image)
        return members


@dataclass
class Twins:
    """Images that show the same picture.

    Args:
        groups: each one picture (exact), or two that are nearly one; images by their number.
        distance, correlation: of each group, for near ones; see `NearPairs`.
        found: (split, other split) -> the images of the other split that have a twin in the first.
    """

    groups: list[list[int]]
    distance: list[int] = field(default_factory=list)
    correlation: list[float] = field(default_factory=list)
    found: dict[tuple[str, str], set[int]] = field(default_factory=dict)

    def report(self, gallery: Gallery) -> dict[str, Any]:
        """Return all of it in plain types, for JSON."""
        counts = {a if a == b else f"{a}/{b}": len(images) for (a, b), images in self.found.items()}
        rows: list[dict[str, Any]] = [{"images": [gallery.describe(i) for i in group]} for group in self.groups]
        for row, distance, correlation in zip(rows, self.distance, self.correlation, strict=False):
            row |= {"distance": distance, "correlation": round(correlation, 4)}
        return {"images_with_a_twin": counts, "groups": rows}


def find_exact_twins(gallery: Gallery) -> Twins:
    """Find images whose decoded pixels are equal."""
    copies = [group for group in group_equal(gallery.inspection.digest) if len(group) > 1]
    found = _no_twins(gallery)
    for group in copies:
        members = gallery.by_split(group)
        for (a, b), images in found.items():
            if len(members[a]) > (a == b):
                images.update(members[b])
    return Twins(copies, found=found)


def find_near_twins(gallery: Gallery, near_distance: int) -> Twins:
    """Find images that look alike without being equal; of exact copies one stands for all in the same split and class.

    Images with a short side under `MIN_SIDE` are left out.
    """
    inspection = gallery.inspection
    large = inspection.short_side >= MIN_SIDE
    groups = [group for group in group_equal(inspection.digest) if large[group[0]]]
    firsts = np.array([group[0] for group in groups], np.int64)
    pairs = find_near(inspection.perceptual[firsts], inspection.thumbnails[firsts], near_distance)
    twins = Twins([], found=_no_twins(gallery))
    columns = (pairs.first.tolist(), pairs.second.tolist(), pairs.distance.tolist(), pairs.correlation.tolist())
    for first, second, distance, correlation in zip(*columns, strict=True):
        left, right = gallery.by_split(groups[first]), gallery.by_split(groups[second])
        for (a, b), images in twins.found.items():
            for here, there in ((left, right), (right, left)):
                if here[a]:
                    images.update(there[b])
        for x in _distinct(groups[first], inspection):
            for y in _distinct(groups[second], inspection):
                twins.groups.append([x, y])
                twins.distance.append(distance)
                twins.correlation.append(correlation)
    return twins


def list_groups(gallery: Gallery, *twins: Twins) -> list[dict[str, str]]:
    """Return every image with its class and group: images that are linked by twins share one.

    The rows are those of a table to train on with `group_column`, so that no twins lie on both sides of a cut. There
    are none if no image has a twin, or images are not files of their own. Groups that the data have stay together.
    """
    pairs = [(group[0], other) for found in twins for group in found.groups for other in group[1:]]
    files = {name: split.sources() for name, split in gallery.splits.items()}
    if not pairs or not all(isinstance(source, str) for sources in files.values() for source in sources):
        return []
    count = len(gallery.inspection)
    given: dict[str, int] = {}
    for image, position in enumerate(gallery.inspection.position.tolist()):
        if (groups := gallery.splits[gallery.split(image)].groups) is not None:
            pairs.append((given.setdefault(str(groups[position]), image), image))
    first, second = np.array(pairs).T
    _, group_of = connected_components(
        coo_array((np.ones(len(pairs)), (first, second)), (count, count)), directed=False
    )
    names = [str(Path(gallery.name(image)).absolute()) for image in range(count)]
    return [
        {"image": name, "label": gallery.label(image), "group": str(group_of[image])}
        for image, name in enumerate(names)
    ]


def _no_twins(gallery: Gallery) -> dict[tuple[str, str], set[int]]:
    names = gallery.inspection.split_names
    return {pair: set() for pair in [*((name, name) for name in names), *combinations(names, 2)]}


def _distinct(group: list[int], inspection: Inspection) -> list[int]:
    return list({(int(inspection.split[i]), inspection.labels[i]): i for i in reversed(group)}.values())[::-1]
