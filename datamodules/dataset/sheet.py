"""The frozen facts of a dataset and the options for reading it; importing a sheet imports no torch."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from datamodules.dataset.layout import Layout
from transfer.errors import BadValue, unknown_name
from transfer.files import expanded
from transfer.preprocessing import MAX_PIXELS

if TYPE_CHECKING:
    from datamodules.dataset.split import Split
    from transfer.images.depth import Decoding

ON_BAD_IMAGE = ("error", "skip")
TRAIN_ON = ("train", "trainval")
FOLDER_LAYOUTS = ("auto", "classes", "splits")
Metric = Literal["top1", "mean_per_class"]


@dataclass(frozen=True)
class HubCopy:
    """One copy of a dataset on the hub, and how its names translate into ours.

    Args:
        id: `owner/name`.
        config: Configuration of the dataset, if it has several.
        revision: Commit or branch.
        split_names: Our split names, each with the hub's.
        files: File pattern of each hub split, where the repository holds splits that nobody wants.
        image_column: Name of the image column.
        label_column: Name of the label column.
    """

    id: str
    config: str | None = None
    revision: str | None = None
    split_names: Mapping[str, str] = field(default_factory=lambda: {"train": "train", "test": "test"})
    files: Mapping[str, str] | None = None
    image_column: str = "image"
    label_column: str = "label"


@dataclass(frozen=True)
class WrongCopy:
    """A copy in circulation that is not the official dataset.

    Args:
        sizes: Images per split, by our names, as far as they tell this copy from others.
        cause: What the copy is.
    """

    sizes: Mapping[str, int]
    cause: str


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How to read a dataset; which images and labels it has depends on nothing else.

    Args:
        data_root: Folder that holds the hub's files as DATA_ROOT/<hub id>/, or the authors' archive, extracted; for
            `folder` your own data. None loads from the hub or its cache.
        on_bad_image: `error` stops at an unreadable image; `skip` leaves it out (with `stream`, out of its batch).
        train_on: `train`; `trainval` adds the val images and leaves no val split, for a last fit once everything is
            chosen.
        folds: Cut train and val, together, anew into so many folds; see `datamodules.dataset.holdout.cut_fold`.
        fold: The fold that is val, from 0; the others are train.
        per_class: Train on so many images of each class, in the end: val has been added by then, or cut.
        fraction: Likewise on a share of each class's images, above 0, at most 1.
        draw: Seed of the folds, and of the images that `per_class` or `fraction` takes.
        allow_decayed: Whether to accept a dataset whose images can no longer all be had (birdsnap).
        val_fraction: Share of the images held out for val, where your own data lack it, above 0 and below 0.5.
        test_fraction: Share of the images held out for test, where your own data have no splits, above 0 and below 0.5.
        multilabel: Whether an image may have any number of labels.
        image_column: Image column, where it is not the sheet's.
        label_column: Label column, where it is not the sheet's; `cat,dog` for columns of 0 and 1, one per label.
        split_column: Column that says train, val or test for each row of your own table.
        group_column: Column of your own table whose equal values stay in one split, such as patients.
        label_separator: Text between the labels of a cell, if `multilabel`.
        folder_layout: What the folders in `data_root` are, for `folder`: `classes`; `splits`, any others being left
            out; `auto` goes by their names, and refuses what is doubtful.
        hub_id: `owner/name` of another copy of a published dataset; it is laid out like one of those known.
        stream: Whether to fetch images while they are needed, for a hub dataset that does not fit on the disk.
        bit_depth: Bits used in images of integers of more than 8 bits, 1 to 32; None: by the values of all images.
        max_pixels: Images with more are not read.
        metric: What your own data are judged by, `top1` or `mean_per_class`; None: `top1`. It changes no image.

    Raises:
        UserError: A value outside its range, or an unknown name.
    """

    data_root: str | Path | None = None
    on_bad_image: str = "error"
    train_on: str = "train"
    folds: int | None = None
    fold: int | None = None
    per_class: int | None = None
    fraction: float | None = None
    draw: int = 0
    allow_decayed: bool = False
    val_fraction: float = 0.1
    test_fraction: float = 0.1
    multilabel: bool = False
    image_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    group_column: str | None = None
    label_separator: str = "|"
    folder_layout: str = "auto"
    hub_id: str | None = None
    stream: bool = False
    bit_depth: int | None = None
    max_pixels: int = MAX_PIXELS
    metric: Metric | None = None

    def __post_init__(self) -> None:
        if self.bit_depth is not None and not 1 <= self.bit_depth <= 32:
            raise BadValue(f"`bit_depth`={self.bit_depth} (allowed: 1 to 32)")
        if self.max_pixels < 1:
            raise BadValue(f"`max_pixels`={self.max_pixels} (allowed: at least 1)")
        if self.on_bad_image not in ON_BAD_IMAGE:
            raise unknown_name("on_bad_image", self.on_bad_image, ON_BAD_IMAGE)
        if self.train_on not in TRAIN_ON:
            raise unknown_name("train_on", self.train_on, TRAIN_ON)
        if self.folder_layout not in FOLDER_LAYOUTS:
            raise unknown_name("folder_layout", self.folder_layout, FOLDER_LAYOUTS)
        for name in ("val_fraction", "test_fraction"):
            if not 0 < (share := getattr(self, name)) < 0.5:
                raise BadValue(f"`{name}`={share} (allowed: above 0, below 0.5)")
        self._check_drawing()

    def _check_drawing(self) -> None:
        folds, fold = self.folds, self.fold
        if folds is not None and folds < 2:
            raise BadValue(f"`folds`={folds} (allowed: at least 2)")
        if (folds is None) != (fold is None) or not 0 <= (fold or 0) < (folds or 1):
            allowed = "only with `folds`" if folds is None else f"0 to {folds - 1}"
            raise BadValue(f"`fold`={fold} with `folds`={folds} (allowed: {allowed})")
        if folds is not None and self.train_on == "trainval":
            raise BadValue(f"`folds`={folds} with `train_on`=trainval, which leaves no fold for val (use one of them)")
        if self.per_class is not None and self.per_class < 1:
            raise BadValue(f"`per_class`={self.per_class} (allowed: at least 1)")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise BadValue(f"`fraction`={self.fraction} (allowed: above 0, at most 1)")
        if self.per_class is not None and (self.fraction is not None or self.multilabel):
            other = "`multilabel`=True" if self.multilabel else f"`fraction`={self.fraction}"
            raise BadValue(f"`per_class`={self.per_class} with {other} (use `fraction` alone)")
        if not 0 <= self.draw < 2**32:
            raise BadValue(f"`draw`={self.draw} (allowed: 0 to 4294967295)")
        if self.stream and (folds or self.per_class or self.fraction):
            raise BadValue("`stream`=True with `folds`, `per_class` or `fraction`: its images are not known in advance")

    @property
    def decoding(self) -> Decoding:
        """How images become pixels, as far as it is known before they are read."""
        from transfer.images.depth import Decoding

        known = None if self.bit_depth is None else (0, 2**self.bit_depth - 1)
        return Decoding(self.max_pixels, integer_range=known)

    @property
    def root(self) -> Path | None:
        """`data_root` with `~` expanded."""
        return None if self.data_root is None else expanded(self.data_root)


class Sheet(ABC):
    """The facts of one dataset, as class attributes, and how its source is read."""

    name: str
    # On the hub, in the order in which they are asked for: a later one replaces an earlier one that is gone.
    copies: ClassVar[tuple[HubCopy, ...]] = ()
    # The authors' own archive.
    layout: ClassVar[Layout | None] = None
    # Rows per official split; any other number of rows is another dataset.
    num_examples: ClassVar[Mapping[str, int]] = {}
    # Fewest and most images of a class, per split.
    images_per_class: ClassVar[Mapping[str, tuple[int, int]]] = {}
    # Images of each class in the authors' order, per split: what tells labels that were permuted.
    class_counts: ClassVar[Mapping[str, Sequence[int]]] = {}
    # 0 where only the data tell.
    num_classes: ClassVar[int] = 0
    # In the authors' order; empty where only the archive has them.
    official_names: ClassVar[Sequence[str]] = ()
    # Misspelt class names of copies, and the official ones.
    name_aliases: ClassVar[Mapping[str, str]] = {}
    wrong_copies: ClassVar[Sequence[WrongCopy]] = ()
    # What a copy is, by the fingerprint of its test split.
    known_copies: ClassVar[Mapping[str, str]] = {}
    # Whether some of its images are gone for good.
    decays: ClassVar[bool] = False
    # Images held out of train where there is no official val split.
    val_size: ClassVar[int | None] = None
    # What the literature quotes where an image has one label: plain accuracy, or the mean of the classes' accuracies.
    metric: ClassVar[Metric] = "top1"
    # Whether an image may have several labels.
    multilabel: ClassVar[bool] = False
    # The side of the network's input, in pixels, that the commands take unless told otherwise.
    default_image_size: ClassVar[int | None] = None
    # Smallest share of the image that a random crop keeps; 0.08 is the paper's.
    default_min_crop_area: ClassVar[float] = 0.08
    horizontal_flip: ClassVar[bool] = True
    # The AutoAugment policy that was found on data like these.
    augment_policy: ClassVar[Literal["imagenet", "cifar10"]] = "imagenet"
    # Whether every image is decoded once while loading: wanted for files that nobody has checked yet.
    checks_all_images: ClassVar[bool] = False

    @property
    def quoted_metric(self) -> str:
        """The metric that the literature quotes; with several labels per image, VOC's mean of 11-point precisions."""
        return "map_11" if self.multilabel else self.metric

    @abstractmethod
    def load_splits(self, options: ReadOptions) -> tuple[tuple[str, ...], dict[str, Split]]:
        """Return the class names in index order and the splits of the source.

        Raises:
            UserError: The source is not there, cannot be reached, or lacks the expected columns and labels.
        """

    def check_files(self, splits: Mapping[str, Split]) -> None:  # noqa: B027  # most sheets know nothing of file names
        """Compare the names of the images' files with the authors', where a source keeps them.

        Raises:
            UserError: They contradict the splits or the labels.
        """

    def complete_splits(self, splits: dict[str, Split], options: ReadOptions) -> dict[str, Split]:
        """Return the splits with val: the official one, or `val_size` images cut from train, never from test."""
        from datamodules.dataset.holdout import hold_out_exactly

        if "val" in splits or self.val_size is None:
            return splits
        train, val = hold_out_exactly(splits["train"], self.val_size, "val")
        return {**splits, "train": train, "val": val}


@dataclass(frozen=True)
class Source:
    """A dataset that has not been read yet.

    Args:
        sheet: Its facts.
        options: How to read it.

    Raises:
        UserError: An option does not go with this dataset.
    """

    sheet: Sheet
    options: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        sheet, options = self.sheet, self.options
        if options.stream and not sheet.copies:
            raise BadValue(f"{sheet.name} is read where it lies: leave `stream` out")
        if sheet.multilabel and not options.multilabel:
            raise BadValue(f"`multilabel`=False: the images of {sheet.name} have several labels; set `multilabel`=True")


def name_key(name: str) -> str:
    """Return what spellings of one class name have in common: that of `American_Bulldog` and `american bulldog`."""
    return re.sub(r"[\s_-]+", " ", name).strip(" ?").casefold()


@cache
def load_class_names(dataset: str) -> tuple[str, ...]:
    """Return the official class names of a benchmark, in the authors' order, from `class_names.json`."""
    text = files("datamodules.sheets").joinpath("class_names.json").read_text(encoding="utf-8")
    return tuple(json.loads(text)[dataset])
