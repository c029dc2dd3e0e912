"""What must hold before training starts; each violation is named while it can still be repaired."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, replace
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

from datamodules.dataset.record import find_in_files
from datamodules.dataset.sheet import Sheet, WrongCopy, name_key
from datamodules.dataset.split import Split
from transfer.errors import BadValue, DamagedFile, MissingData, some_of
from transfer.images.decode import BadImage, BadImageError, measure_image
from transfer.images.depth import Extent
from transfer.progress import track

_MAX_NAMED = 10
_CHECK_VERSION = 1  # changes with what `measure_image` refuses


def check_official(splits: Mapping[str, Split], sheet: Sheet, num_classes: int, *, allow_decayed: bool = False) -> None:
    """Compare what was loaded with what the sheet declares.

    Args:
        splits: What was loaded.
        sheet: Declares the images per split, the images per class and the number of classes.
        num_classes: Number of classes found.
        allow_decayed: Whether images may be missing.

    Raises:
        UserError: Other numbers of images or classes; the text says what was expected, what was found, and why.
    """
    num_examples, wrong_copies = sheet.num_examples, sheet.wrong_copies
    found = {name: len(split) for name, split in splits.items()}
    decayed = {name for name, expected in num_examples.items() if allow_decayed and found[name] < expected}
    for name, expected in num_examples.items():
        split = splits[name]
        if len(split) == expected or name in decayed:
            continue
        if sheet.decays and len(split) < expected:
            sizes = ", ".join(describe_decay(splits, num_examples).values())
            raise MissingData(
                f"{split.name}: {expected} images expected, {len(split)} found ({sizes})."
                f"{likely_cause(found, num_examples, wrong_copies)} Fetch the others, or train on these with "
                "`allow_decayed`=True: results then say how many there were"
            )
        raise MissingData(
            f"{split.name}: {expected} images expected, {len(split)} found; not the official split."
            f"{likely_cause(found, num_examples, wrong_copies)} "
            "Download it again, or use dataset 'folder' for data of your own"
        )
    declared = sheet.num_classes
    if declared and num_classes != declared and not (decayed and num_classes < declared):
        raise DamagedFile(f"{splits['train'].name}: {declared} classes expected, {num_classes} found")
    for name, (fewest, most) in sheet.images_per_class.items():
        for index, count in enumerate(splits[name].class_counts(num_classes)):
            if count > most or (count < fewest and name not in decayed):
                allowed = str(most) if fewest == most else f"{fewest} to {most}"
                raise DamagedFile(
                    f"{splits[name].name}: {allowed} images of each class expected, {count} of class {index} found; "
                    "not the official split, although its size is right: a copy that was cut anew. Download another"
                )
    _check_class_counts(splits, sheet, decayed)


def _check_class_counts(splits: Mapping[str, Split], sheet: Sheet, decayed: set[str]) -> None:
    for name, expected in sheet.class_counts.items():
        found = splits[name].class_counts(len(expected))
        if name in decayed or found == list(expected):
            continue
        index = next(index for index, count in enumerate(expected) if found[index] != count)
        cause = "a copy that was cut anew"
        if sorted(found) == sorted(expected):
            cause = "a copy whose labels are in another order than its class names, such as sorted as text"
        raise DamagedFile(
            f"{splits[name].name}: {expected[index]} images of class {index} expected, {found[index]} found (the first"
            f" of {sum(a != b for a, b in zip(expected, found, strict=True))} classes that differ); not the official"
            f" split, although its size is right: {cause}. Download another"
        )


def describe_decay(splits: Mapping[str, Split], num_examples: Mapping[str, int]) -> dict[str, str]:
    """Return `n of N <split> images` for each split that lacks images."""
    found = {name: len(splits[name]) for name in num_examples}
    return {
        name: f"{found[name]:,} of {expected:,} {name} images"
        for name, expected in num_examples.items()
        if found[name] < expected
    }


def likely_cause(found: Mapping[str, int], expected: Mapping[str, int], wrong_copies: Sequence[WrongCopy]) -> str:
    """Return ` Likely cause: ...` for unexpected numbers of images per split, or an empty string."""
    for copy in wrong_copies:
        if copy.sizes.items() <= found.items():
            return f" Likely cause: {copy.cause}."
    for names in permutations(expected):
        if len(found) == len(expected) and all(
            found.get(ours) == expected[theirs] for ours, theirs in zip(expected, names, strict=True)
        ):
            swapped = [ours for ours, theirs in zip(expected, names, strict=True) if expected[ours] != expected[theirs]]
            return f" Likely cause: {' and '.join(swapped)} are swapped." if swapped else ""
    for name, size in found.items():
        if size == sum(expected.values()):
            return f" Likely cause: {name} holds all images, not split."
        if name == "train" and "val" in expected and size == expected["train"] + expected["val"]:
            return " Likely cause: train holds val too."
        if size > 0 and expected.get(name) and size != expected[name] and size % expected[name] == 0:
            return f" Likely cause: {name} is there {size // expected[name]} times, such as in corrupted variants."
    return ""


def check_class_order(
    names: Sequence[str], official: Sequence[str], aliases: Mapping[str, str], where: str
) -> tuple[str, ...]:
    """Return the class names as the sheet spells them, if they come in the authors' order.

    Args:
        names: Names that were found.
        official: Names in the authors' order; if the sheet has none, `names` are returned.
        aliases: Misspelt names and the official ones.
        where: What errors call the source.

    Raises:
        UserError: The order or the names are others.
    """
    if not official:
        return tuple(names)
    index_of = {name_key(name): index for index, name in enumerate(official)}
    index_of |= {name_key(alias): index_of[name_key(name)] for alias, name in aliases.items()}
    positions = [index_of.get(name_key(name)) for name in names]
    moved = [index for index, position in enumerate(positions) if position not in (index, None)]
    unknown = [name for name, position in zip(names, positions, strict=True) if position is None]
    # A few names in another spelling are a copy's own; the order of the others vouches for them.
    if not moved and len(unknown) <= len(names) // 10:
        if unknown:
            warnings.warn(f"{where}: class names in another spelling than the authors': {unknown}", stacklevel=3)
        return tuple(official)
    first = moved[0] if moved else list(names).index(unknown[0])
    cause = ""
    if list(names) == sorted(names):
        cause = " Likely cause: the copy sorted its names as plain text, capitals first and '10' before '2'."
    raise DamagedFile(
        f"{where}: class names are not in the official order: class {first} is {official[first]!r}, found "
        f"{names[first]!r} ({len(moved) or len(unknown)} of {len(names)} differ), so its labels mean other classes "
        f"than published ones.{cause} Take another copy"
    )


def check_trainable(
    splits: Mapping[str, Split], class_names: Sequence[str], *, allow_absent_classes: bool = False
) -> None:
    """Check that a classifier can be trained on these splits.

    Raises:
        UserError: There are fewer than two classes, a split is empty, or a class has no training image and that is not
            allowed.
    """
    train = splits["train"]
    if len(class_names) < 2:
        found = f"only {class_names[0]!r}" if class_names else "none"
        raise MissingData(f"{train.name}: at least 2 classes are needed, found {found}")
    for split in splits.values():
        if len(split) == 0:
            raise MissingData(f"{split.name}: no images in this split")
    if allow_absent_classes:
        return
    counts = train.class_counts(len(class_names))
    if absent := [repr(name) for name, count in zip(class_names, counts, strict=True) if count == 0]:
        raise MissingData(
            f"{train.name}: no training image of {', '.join(absent)}; add some, or remove these"
            " classes from the other splits"
        )


def check_groups(splits: Mapping[str, Split]) -> None:
    """Check that no group lies in two splits of the source.

    Raises:
        BadValue: One does; the text names some and counts all.
    """
    seen = {name: set(split.groups.tolist()) for name, split in splits.items() if split.groups is not None}
    for first, second in combinations(seen, 2):
        if shared := sorted(seen[first] & seen[second]):
            raise BadValue(
                f"{splits[first].name}: {len(shared)} groups are in {second}, too ({some_of(shared)}): repair the"
                " splits, or leave them out and let them be cut by `group_column`"
            )


def warn_of_absent_classes(splits: Mapping[str, Split], class_names: Sequence[str]) -> None:
    """Warn of classes without an image in val or test: nothing is known of them there."""
    for name, split in splits.items():
        counts = split.class_counts(len(class_names))
        absent = [class_name for class_name, count in zip(class_names, counts, strict=True) if count == 0]
        if name != "train" and absent:
            named = some_of(absent, _MAX_NAMED)
            warnings.warn(f"no {name} image of {len(absent)} of {len(class_names)} classes: {named}", stacklevel=3)


def drop_bad_images(splits: Mapping[str, Split], on_bad_image: str) -> tuple[dict[str, Split], list[BadImage]]:
    """Decode every image once; return the splits without the bad ones, and the bad ones, with a warning.

    The range of deep images is taken from all of them, unless it is known.

    Args:
        splits: The splits to check.
        on_bad_image: `skip` leaves bad images out, `error` refuses them.

    Raises:
        UserError: With `error`, there are bad images; the text names up to ten and counts all.
    """
    seen = {name: _measure(split) for name, split in splits.items()}
    extents = [found for images in seen.values() for found in images if isinstance(found, Extent)]
    readable, all_bad = {}, []
    for name, split in splits.items():
        measured = replace(split, decoding=split.decoding.measured(extents))
        checked = [_refused(measured, index, found) for index, found in enumerate(seen[name])]
        sound = [index for index, bad in enumerate(checked) if bad is None]
        readable[name] = replace(measured.select(sound), is_checked=True)
        all_bad += [bad for bad in checked if bad]
    if not all_bad:
        return readable, []
    if on_bad_image == "error":
        raise DamagedFile(
            f"{_describe(all_bad)}\nRepair or remove them, or pass `on_bad_image`=skip to train without them."
        )
    warnings.warn(f"training without {_describe(all_bad)}", stacklevel=3)
    return readable, all_bad


def _measure(split: Split) -> list[BadImage | Extent | None]:
    doing = f"checking {split.name}"
    sources = split.sources()
    paths = [Path(source) for source in sources if isinstance(source, str)]
    if len(paths) < len(sources):
        with ThreadPoolExecutor() as pool:
            results = pool.map(split.measure, range(len(split)))
            return list(track(results, doing, len(split)))

    def extent(path: Path) -> list[Any] | None:
        try:
            found = measure_image(path, split.decoding)
        except BadImageError:
            return None  # it may be readable next time, with another package
        return [] if found is None else list(astuple(found))

    extents = find_in_files(f"checking {_CHECK_VERSION} {split.decoding}", paths, extent, doing)
    return [
        split.measure(index) if found is None else Extent(*found) if found else None
        for index, found in enumerate(extents)
    ]


def _refused(split: Split, index: int, found: BadImage | Extent | None) -> BadImage | None:
    if not isinstance(found, Extent):
        return found
    reason = split.decoding.refusal(found)
    return None if reason is None else BadImage(split.image_name(index), reason)


def _describe(bad: Sequence[BadImage]) -> str:
    lines = [f"  {image}" for image in bad[:_MAX_NAMED]]
    if len(bad) > _MAX_NAMED:
        lines.append(f"  ... and {len(bad) - _MAX_NAMED} more")
    return "\n".join([f"{len(bad)} image{'s' * (len(bad) > 1)} that cannot be read:", *lines])
