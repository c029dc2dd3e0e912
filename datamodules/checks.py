"""What must hold before training starts; each violation is named while it can still be repaired."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from datamodules.images import BadImage
from datamodules.split import Split
from transfer.errors import UserError, unknown_name

ON_BAD_IMAGE = ("error", "skip")
_MAX_NAMED = 10


def check_options(on_bad_image: str, batch_size: int, val_fraction: float) -> None:
    """Refuses option values that no run could use.

    Raises:
        UserError: an unknown name, or a number outside its range.
    """
    if on_bad_image not in ON_BAD_IMAGE:
        raise unknown_name("on_bad_image", on_bad_image, ON_BAD_IMAGE)
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} must be at least 1")
    if not 0 < val_fraction < 0.5:
        raise UserError(f"val_fraction={val_fraction} must lie between 0 and 0.5")


def check_official(
    splits: Mapping[str, Split], num_examples: Mapping[str, int], num_classes: int, declared_classes: int
) -> None:
    """Compares what was loaded with what the data sheet declares.

    Args:
        splits: what was loaded.
        num_examples: declared images per split.
        num_classes: classes found.
        declared_classes: 0 if the data sheet declares none.

    Raises:
        UserError: another number of images or classes.
    """
    for name, expected in num_examples.items():
        split = splits[name]
        if len(split) != expected:
            raise UserError(
                f"{split.name}: {expected} images expected, {len(split)} found; not the official split. "
                "Download it again, or use dataset 'folder' for data of your own"
            )
    if declared_classes and num_classes != declared_classes:
        raise UserError(f"{splits['train'].name}: {declared_classes} classes expected, {num_classes} found")


def check_trainable(splits: Mapping[str, Split], class_names: Sequence[str]) -> None:
    """Refuses splits that a classifier cannot be trained on.

    Raises:
        UserError: fewer than two classes, an empty split, or a class without a training image.
    """
    train = splits["train"]
    if len(class_names) < 2:
        found = f"only {class_names[0]!r}" if class_names else "none"
        raise UserError(f"{train.name}: at least 2 classes are needed, found {found}")
    for split in splits.values():
        if len(split) == 0:
            raise UserError(f"{split.name}: no images in this split")
    counts = train.class_counts(len(class_names))
    if absent := [repr(name) for name, count in zip(class_names, counts, strict=True) if count == 0]:
        raise UserError(f"{train.name}: no training image of {len(absent)} classes: {', '.join(absent)}")


def drop_bad_images(splits: Mapping[str, Split], on_bad_image: str) -> tuple[dict[str, Split], list[BadImage]]:
    """Decodes every image once: the splits without the bad ones, and these, with a warning.

    Args:
        splits: what to check.
        on_bad_image: `skip` leaves bad images out, `error` refuses them.

    Raises:
        UserError: with `error`, naming up to ten bad images and counting all.
    """
    readable, all_bad = {}, []
    for name, split in splits.items():
        with ThreadPoolExecutor() as pool:
            results = pool.map(split.check, range(len(split)))
            checked = list(tqdm(results, total=len(split), desc=f"checking {split.name}", delay=3, leave=False))
        readable[name] = split.select([index for index, bad in enumerate(checked) if bad is None])
        all_bad += [bad for bad in checked if bad]
    if not all_bad:
        return readable, []
    if on_bad_image == "error":
        raise UserError(
            f"{_describe(all_bad)}\nRepair or remove them, or pass --on_bad_image skip to train without them."
        )
    warnings.warn(f"training without {_describe(all_bad)}", stacklevel=3)
    return readable, all_bad


def _describe(bad: Sequence[BadImage]) -> str:
    lines = [f"  {image}" for image in bad[:_MAX_NAMED]]
    if len(bad) > _MAX_NAMED:
        lines.append(f"  ... and {len(bad) - _MAX_NAMED} more")
    return "\n".join([f"{len(bad)} image{'s' * (len(bad) > 1)} that cannot be read:", *lines])
