"""What the out-of-fold predictions of a choice say of the photos: doubtful labels, and the class that fares worst."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from transfer.commands.suspect_files import name_suspects, write_suspects
from transfer.errors import printable
from transfer.images.decode import decode_image
from transfer.probe.label_suspects import rank_suspects
from transfer.report.photos import Photos, encode_jpeg, shrink
from transfer.resampling import accuracy_interval

if TYPE_CHECKING:
    from datamodules.dataset.loaded import Dataset
    from transfer.commands.choose.candidates import Tried
    from transfer.commands.choose.images import Images
    from transfer.images.decode import Pixels


def doubt_labels(tried: Tried, dataset: Dataset, images: Images, folder: Path) -> int:
    """Write the photos whose label a network's out-of-fold probabilities doubt, say so, and return their number.

    Small copies of the first ones stay in the folder, by their row, for its page.
    """
    is_label = np.eye(dataset.num_classes, dtype=bool)[images.labels]
    suspects = rank_suspects(tried.found.probabilities, is_label)

    kept: dict[int, bytes] = {}  # for the page

    def pixels(row: int) -> Pixels:
        found = decode_image(images.split.encoded(suspects[row].image), images.split.decoding)
        kept[row] = encode_jpeg(shrink(found))
        return found

    rows = name_suspects(suspects, dataset.class_names, images.names.__getitem__)
    table, *sheet = write_suspects(rows, pixels, folder)
    Photos(photos=kept).save(folder)
    count = f"{len(rows):,} {'photo' if len(rows) == 1 else 'photos'} may be mislabelled, the likeliest first"
    print(f"{count}: {', '.join(map(str, (table, *sheet)))}" if rows else "no photo looks mislabelled")
    return len(rows)


def describe_weakest_class(tried: Tried, dataset: Dataset, images: Images) -> str | None:
    """Return which class fares worst in a sentence; None if none is below all images beyond its interval."""
    predictions, labels = tried.found.predictions, images.labels
    right = (predictions == labels).mean(0)
    present = np.unique(labels)
    worst = int(present[np.argmin([right[labels == label].mean() for label in present])])
    mine = labels == worst
    groups = None if images.groups is None else images.groups[mine]
    share, interval = accuracy_interval(labels[mine], predictions[:, mine], groups=groups)
    if interval.high >= right.mean():
        return None
    taken_for = int(np.bincount(predictions[:, mine][predictions[:, mine] != worst]).argmax())
    name, other = (printable(dataset.class_names[label]) for label in (worst, taken_for))
    return (
        f"{name} fares worst: {100 * share:.1f}% ({interval.percent()}) of {mine.sum():,} photos,"
        f" mostly taken for {other}: look there first, at the labels and for more photos"
    )
