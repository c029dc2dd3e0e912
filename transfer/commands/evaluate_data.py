"""The images that `evaluate` scores a run on: those it was made for, or other labelled ones."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.errors import BadValue, MissingData, UserError

if TYPE_CHECKING:
    from datamodules.dataset.labelled import Labelled
    from datamodules.dataset.loaded import Dataset
    from transfer.runs.predictor import Run


@dataclass(frozen=True)
class Subject:
    """Images to score a run on.

    Attributes:
        dataset: the images as its only split, `test`, in the run's classes.
        name: where they come from: a dataset's name, or a path.
        split: `train`, `val`, `test` or `all`.
        own: whether they are a split of the run's own data.
        changed: splits of the run's own data that have changed since.
        absent: classes of the run without an image.
        unknown: classes that the run does not know, with their numbers of images, which are left out.
    """

    dataset: Dataset
    name: str
    split: str
    own: bool
    changed: list[str] = field(default_factory=list)
    absent: tuple[str, ...] = ()
    unknown: dict[str, int] = field(default_factory=dict)


def open_images(run: Run, split: str | None, dataset: str | None, given: Mapping[str, Any]) -> Subject:
    """Return the images to score a run on: its own data, unless `dataset` or `data_root` leads to others.

    Args:
        run: the run, whose options hold where no other is given.
        split: `train`, `val`, `test` or `all`; None: `test`, or all of other data without splits.
        dataset: the dataset's name; None: the run's.
        given: fields of `ReadOptions` that replace the run's.

    Raises:
        MissingData: the data or the split is not there.
        BadValue: the training images of the run's own data have changed, or other images have none of its classes.
    """
    from datamodules import get_sheet
    from datamodules.dataset.labelled import read_labelled
    from datamodules.dataset.loaded import read_dataset
    from datamodules.dataset.sheet import ReadOptions, Source
    from transfer.images.depth import Decoding

    sheet = get_sheet(run.config.dataset)
    lies_nowhere = not sheet.copies and sheet.layout is None  # so that a path leads to other images
    name = dataset or ("folder" if lies_nowhere and given.get("data_root") is not None else sheet.name)
    other = {} if name == sheet.name else {"stream": False, "group_column": None, "metric": None}
    options = run.config.read_options() | other
    source = Source(get_sheet(name), ReadOptions(**{**options, **given}))
    moved = name == run.config.dataset == "folder" and given.get("data_root") is not None
    if name == run.config.dataset and not moved:
        try:
            found = read_dataset(source)
        except MissingData as error:
            raise MissingData(f"{error}{_hint(name, given)}") from None
        return _own_images(run, found, split, found.check_same_data(run.data))
    labelled = read_labelled(source, Decoding.of(run.preprocessing, source.options.max_pixels))
    own = _as_own(run, labelled) if moved else None
    if own is not None:
        return _own_images(run, own, split, own.check_same_data(run.data))
    return _other_images(run, labelled, split)


def _hint(name: str, given: Mapping[str, Any]) -> str:
    if given.get("data_root") is None:
        return "; if the data have moved, say where they lie now with `data_root`"
    return "" if name == "folder" else "; for labelled images of your own add `dataset`=folder"


def _own_images(run: Run, dataset: Dataset, split: str | None, changed: list[str]) -> Subject:
    name = split or "test"
    if name not in dataset.splits:
        raise MissingData(f"`split`={name}: the data has only {', '.join(dataset.splits)}")
    chosen = replace(dataset, splits={"test": dataset.splits[name]})
    return Subject(chosen, run.config.dataset, name, own=True, changed=changed)


def _as_own(run: Run, labelled: Labelled) -> Dataset | None:
    """Return the data cut as for a training, if the run's training images come out; else None."""
    from datamodules.dataset.loaded import complete

    if labelled.class_names != run.class_names or "train" not in labelled.splits:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nobody trains on these images
            found = complete(labelled.source, labelled.class_names, dict(labelled.splits), labelled.skipped)
    except UserError:  # too few images to train on
        return None
    return found if found.fingerprint["train"] == run.data["fingerprint"].get("train") else None


def _other_images(run: Run, labelled: Labelled, split: str | None) -> Subject:
    from datamodules.dataset.labelled import match_labels
    from datamodules.dataset.loaded import Dataset

    source = labelled.source
    if run.config.data.multilabel != source.options.multilabel:
        raise BadValue("`multilabel` is the run's: it gives images several labels, or it does not")
    name, chosen = labelled.choose(split)
    matched = match_labels(chosen, labelled.class_names, run.class_names)
    dataset = Dataset(source, run.class_names, {"test": matched.split}, {}, labelled.skipped, {})
    where = str(source.options.root or source.sheet.name)
    return Subject(dataset, where, name, own=False, absent=matched.absent, unknown=matched.unknown)


def begin_reading(run_dir: Path, subject: Subject, out_dir: Path | None) -> None:
    """Count a reading of the run's own test split.

    Raises:
        BadValue: the result would be written into the run's folder, which cannot be written to.
    """
    if out_dir is None and not subject.own and not os.access(run_dir, os.W_OK):
        raise BadValue(f"{run_dir} cannot be written to: choose another folder for the result with `out_dir`")
    if subject.own and subject.split == "test":
        record_test_read(run_dir)


def record_test_read(run_dir: Path) -> None:
    """Count a reading of a run's own test split, or warn that it cannot be counted."""
    from transfer.runs.test_record import count_test_read

    try:
        count_test_read(run_dir)
    except OSError as error:
        print(f"warning: this reading of the test split could not be counted: {error}", file=sys.stderr)


def count_seen_images(run: Run, subject: Subject) -> int | None:
    """Return how many of the images a run's network was trained on; None for a run that does not say."""
    from transfer.seen_images import KEY, SeenImages

    seen = SeenImages.from_text(run.data.get(KEY))
    if seen is None or subject.dataset.source.options.stream != run.config.data.stream:
        return None  # streamed images have ids of their own
    return seen.count(subject.dataset.split("test").ids())
