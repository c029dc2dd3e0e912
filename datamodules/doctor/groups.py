"""Images that show the same picture, as groups that a cut into splits keeps on one side."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from datamodules.doctor.twins import Gallery, Twins

COLUMNS = ("image", "label", "group")


def group_rows(gallery: Gallery, *twins: Twins) -> list[tuple[str, str, str]]:
    """Return (path, label, group) of every readable image, a table to train on with `group_column`.

    Equal and nearly equal pictures get one group, also over a chain of them; groups that the data have are kept whole.

    Args:
        gallery: the images.
        twins: which of them show the same picture.

    Returns:
        The rows; none if no two show the same picture, or the images are not files, whose paths a table could hold.
    """
    sources: dict[str, list[Any]] = {name: list(split.sources()) for name, split in gallery.splits.items()}
    are_files = all(isinstance(source, str) for paths in sources.values() for source in paths[:1])
    if not are_files or not any(found.groups for found in twins):
        return []
    positions = gallery.inspection.position.tolist()
    groups = _connect(len(positions), [group for found in twins for group in found.groups] + _given_groups(gallery))
    return [
        (str(Path(sources[gallery.split(image)][position]).absolute()), gallery.label(image), str(group))
        for image, (position, group) in enumerate(zip(positions, groups.tolist(), strict=True))
    ]


def _given_groups(gallery: Gallery) -> list[list[int]]:
    members: dict[str, list[int]] = {}
    for image, position in enumerate(gallery.inspection.position.tolist()):
        groups = gallery.splits[gallery.split(image)].groups
        if groups is not None:
            members.setdefault(str(groups[position]), []).append(image)
    return list(members.values())


def _connect(size: int, groups: Iterable[list[int]]) -> NDArray[np.int32]:
    """Return the number of each image's component, where the images of a group are joined. Shape: (size,)"""
    edges = np.array([pair for group in groups for pair in pairwise(group)], np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), (size, size))
    components: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return components
