"""A dataset in memory: its splits read, checked and cut once, without any preprocessing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, get_args

from datamodules.dataset.checks import (
    check_class_order,
    check_groups,
    check_official,
    check_trainable,
    describe_decay,
    drop_bad_images,
    warn_of_absent_classes,
)
from datamodules.dataset.holdout import cut_fold, keep_fraction, keep_per_class
from datamodules.dataset.sheet import Metric, Sheet, Source
from datamodules.dataset.split import Split, join
from transfer.errors import BadValue, MissingData, printable, unknown_name
from transfer.images.decode import BadImage
from transfer.seen_images import SeenImages

_MAX_NAMED = 12


@dataclass(frozen=True, eq=False)
class Dataset:
    """Named splits with their class names; `load_dataset` makes it.

    Args:
        source: What was read, and how.
        class_names: In index order.
        splits: `train`, and `val` and `test` as far as there are any.
        held_out: Those of the splits that the source does not have: they were cut from its train split, or from its
            train and val.
        skipped: Images left out because they cannot be read; with `stream` the loaders add those they meet.
        decay: For each split that lacks images, `n of N test images`.
        drawn: For val if it is a fold, and train if it is part of what there is, which and how it was drawn, in words.
    """

    source: Source
    class_names: tuple[str, ...]
    splits: Mapping[str, Split]
    held_out: Mapping[str, Split]
    skipped: list[BadImage]
    decay: Mapping[str, str]
    drawn: Mapping[str, str] = field(default_factory=dict)

    @property
    def sheet(self) -> Sheet:
        """The facts of the dataset."""
        return self.source.sheet

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self.sheet.name

    @property
    def metric(self) -> Metric:
        """What these data are judged by: as the options say, or else as the literature quotes it."""
        return self.source.options.metric or self.sheet.metric

    @property
    def quoted_metric(self) -> str:
        """The metric that stands first in results: `metric`, or `map_11` of published data with several labels."""
        return self.source.options.metric or self.sheet.quoted_metric

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def split_sizes(self) -> dict[str, int]:
        """Images per split."""
        return {name: len(split) for name, split in self.splits.items()}

    @property
    def class_counts(self) -> dict[str, list[int]]:
        """Images per split and class, in the order of `class_names`."""
        return {name: split.class_counts(self.num_classes) for name, split in self.splits.items()}

    def describe(self) -> str:
        """Return the classes and the images of each split in one line."""
        shown = list(self.class_names)
        if len(shown) > _MAX_NAMED:
            shown = [*shown[: _MAX_NAMED - 1], "...", shown[-1]]
        origins = {**dict.fromkeys(self.held_out, "held out of train"), **self.drawn}
        sizes = [
            f"{name} {size:,}{f' ({origins[name]})' if name in origins else ''}"
            for name, size in self.split_sizes.items()
        ]
        return printable(f"{self.name}: {self.num_classes} classes ({', '.join(shown)}), images: {', '.join(sizes)}")

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """128 bits per split, in hex: they change with any image, label or member, not with the order."""
        return {name: split.fingerprint() for name, split in self.splits.items()}

    @property
    def known_copy(self) -> str | None:
        """What the sheet knows of a copy with this test split; None for one that it has not seen."""
        return self.sheet.known_copies.get(self.fingerprint.get("test", ""))

    def split(self, name: str) -> Split:
        """Return one split.

        Raises:
            UserError: The dataset has no such split.
        """
        if name not in self.splits:
            raise MissingData(f"{self.name} has no {name} split here (it has: {', '.join(self.splits)})")
        return self.splits[name]

    def median_short_side(self) -> int:
        """Return the lower median of the training images' short sides, in pixels, from the headers of at most 500.

        They are spread over the split, except that with `stream` the first ones are read.

        Raises:
            UserError: One of the files is not an image.
        """
        split = self.split("train")
        apart = 1 if self.source.options.stream else 1 + (len(split) - 1) // 500
        sides = sorted(min(split.shape(index)) for index in range(0, len(split), apart)[:500])
        return sides[(len(sides) - 1) // 2]

    @cached_property
    def seen_images(self) -> SeenImages:
        """The images on which a network has been trained after training here."""
        return SeenImages.of(self.split("train").ids())

    def saved(self) -> dict[str, Any]:
        """Return what a checkpoint must remember of its images, in plain types, for `check_same_data` and people."""
        return {
            "dataset": self.name,
            "class_names": list(self.class_names),
            "fingerprint": dict(self.fingerprint),
            "multilabel": self.source.options.multilabel,
            "skipped": [asdict(image) for image in self.skipped],
        }

    def check_same_data(self, saved: Mapping[str, Any]) -> list[str]:
        """Compare this dataset with what a checkpoint remembers; warn of val and test images that are others now.

        Args:
            saved: The checkpoint's `class_names` and `fingerprint`.

        Returns:
            The splits besides train that changed, such as those from which a bad image was taken.

        Raises:
            UserError: The class names or the training images or labels have changed.
        """
        if saved["class_names"] != list(self.class_names):
            raise BadValue(
                f"{self.name}: the classes changed since the checkpoint: it has "
                f"{', '.join(saved['class_names'])}; the data has {', '.join(self.class_names)}"
            )
        before = saved["fingerprint"]
        kinds = {value.startswith("streamed-") for value in (*before.values(), *self.fingerprint.values())}
        if len(kinds) > 1:
            raise BadValue(
                f"{self.name}: fingerprints of streamed data and of whole files cannot be compared: give the data as"
                f" the run had it, {'whole' if self.source.options.stream else 'streamed'}"
            )
        names = sorted(before.keys() | self.fingerprint)
        changed = [name for name in names if before.get(name) != self.fingerprint.get(name)]
        if "train" in changed:
            raise BadValue(
                f"{self.name}: the data changed since the checkpoint (split: {', '.join(changed)}); "
                "restore the data to resume, or start a new run"
            )
        if changed:
            warnings.warn(
                f"{self.name}: {' and '.join(changed)} changed since the checkpoint: metrics on other images than then",
                stacklevel=2,
            )
        return changed


def check_evaluated(dataset: Dataset) -> None:
    """Decode the images of val and test that have not been decoded yet; streamed ones are only named as unchecked.

    Raises:
        UserError: There are bad ones; the text names them.
    """
    if dataset.source.options.stream:
        warnings.warn(
            f"{dataset.name} is streamed: its val and test images are not checked before training", stacklevel=2
        )
        return
    splits = {name: split for name, split in dataset.splits.items() if name != "train" and not split.is_checked}
    drop_bad_images(splits, "error")


def read_source(source: Source) -> tuple[tuple[str, ...], dict[str, Split]]:
    """Return the class names and the splits as they are in the source, compared with what the sheet declares.

    Raises:
        UserError: The source cannot be read, or is not the official dataset.
    """
    sheet, options = source.sheet, source.options
    for column in ("split_column", "group_column"):
        if getattr(options, column) is not None and sheet.num_examples:
            raise BadValue(f"{sheet.name} has fixed splits; `{column}` is for dataset 'folder'")
    if options.metric is not None and options.metric not in get_args(Metric):
        raise unknown_name("metric", options.metric, get_args(Metric))
    if options.metric is not None and sheet.num_examples:
        raise BadValue(f"{sheet.name} is judged by {sheet.metric}; `metric` is for dataset 'folder'")
    if options.hub_id is not None and not sheet.copies:
        raise BadValue(f"{sheet.name} is not on the hub; `hub_id` is for published datasets")
    if options.allow_decayed and not sheet.decays:
        raise BadValue(f"{sheet.name} can be had complete; `allow_decayed` is for birdsnap")
    names, splits = sheet.load_splits(options)
    if "train" not in splits:
        raise MissingData(
            f"{options.data_root or sheet.name}: no train split (found: {', '.join(splits)}); add one, or, if these are"
            " classes, set `folder_layout`=classes"
        )
    splits = {name: replace(split, decoding=options.decoding) for name, split in splits.items()}
    check_official(splits, sheet, len(names), allow_decayed=options.allow_decayed)
    class_names = check_class_order(names, sheet.official_names, sheet.name_aliases, splits["train"].name)
    sheet.check_files(splits)
    return class_names, splits


def read_dataset(source: Source) -> Dataset:
    """Read all splits, check that a classifier can be trained on them, and cut those that are missing.

    Raises:
        UserError: The data cannot be read or trained on; the text names the place.
    """
    sheet, options = source.sheet, source.options
    class_names, splits = read_source(source)
    skipped: list[BadImage] = []
    if not options.stream and (sheet.checks_all_images or options.on_bad_image == "skip"):
        splits, skipped = drop_bad_images(splits, options.on_bad_image)
    return complete(source, class_names, splits, skipped)


def complete(
    source: Source, class_names: tuple[str, ...], splits: dict[str, Split], skipped: list[BadImage]
) -> Dataset:
    """Check that a classifier can be trained on what was read, and cut the splits that are missing.

    Raises:
        UserError: It cannot; the text names the place.
    """
    sheet, options = source.sheet, source.options
    decay = describe_decay(splits, sheet.num_examples) if sheet.decays else {}
    check_trainable(splits, class_names, allow_absent_classes=bool(decay))
    check_groups(splits)
    official = splits.keys()
    splits, drawn = _draw(sheet.complete_splits(splits, options), class_names, source)
    cut = {name for name in splits if name != "train" and (name not in official or name in drawn)}
    if not sheet.num_examples:
        warn_of_absent_classes(splits, class_names)
    return Dataset(
        source=source,
        class_names=class_names,
        splits={name: splits[name] for name in ("train", "val", "test") if name in splits},
        held_out={name: split for name, split in splits.items() if name in cut},
        skipped=skipped,
        decay=decay,
        drawn=drawn,
    )


def _draw(
    splits: dict[str, Split], class_names: tuple[str, ...], source: Source
) -> tuple[dict[str, Split], dict[str, str]]:
    """Return the splits with val and train as the options want them, and what of them was drawn, in words.

    Raises:
        BadValue: there are too few images for so many folds.
    """
    options, splits, drawn = source.options, dict(splits), {}
    draw = options.draw
    if options.folds is not None or options.train_on == "trainval":
        splits["train"] = join(splits["train"], splits.pop("val"), f"{source.sheet.name} train and val")
    train = splits["train"]
    if options.folds is not None and options.fold is not None:
        train, splits["val"] = cut_fold(train, options.folds, options.fold, draw, class_names)
        drawn["val"] = f"fold {options.fold} of {options.folds}, draw {draw}"
    whole = len(train)
    if options.per_class is not None:
        train = keep_per_class(train, options.per_class, draw, class_names)
        drawn["train"] = f"at most {options.per_class} per class of {whole:,}, draw {draw}"
    elif options.fraction is not None:
        train = keep_fraction(train, options.fraction, draw)
        drawn["train"] = f"{options.fraction:g} of {whole:,}, draw {draw}"
    return {**splits, "train": train}, drawn
