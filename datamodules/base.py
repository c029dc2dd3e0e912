"""From a data sheet to loaders: named splits, checked and fingerprinted, decoded, transformed, batched."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import albumentations as A
import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from datamodules.checks import (
    WrongCopy,
    check_class_order,
    check_official,
    check_options,
    check_trainable,
    describe_decay,
    drop_bad_images,
    likely_cause,
)
from datamodules.images.cache import ImageCache, build_cache, check_cache
from datamodules.images.decode import BadImage
from datamodules.images.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Rgb,
    build_eval_transform,
    build_train_transform,
    cached_resize,
    normalize,
)
from datamodules.loaders import (
    EpochSampler,
    ImageDataset,
    ImageLoader,
    ResumableLoader,
    UnpaddedDistributedSampler,
    collate,
    default_num_workers,
    start_worker,
)
from datamodules.reading.archives import Layout, check_md5, find_archive
from datamodules.reading.sources import (
    HubCopy,
    MissingSplitError,
    find_hub_files,
    find_local_copy,
    find_local_files,
    from_first_copy,
    load_hub_tables,
    load_local_tables,
)
from datamodules.reading.streaming import (
    StreamedTable,
    StreamEvalSampler,
    StreamSampler,
    for_evaluation,
    for_training,
    stream_splits,
    streaming_workers,
)
from datamodules.reading.tables import read_splits
from datamodules.split import Split, hold_out, join
from transfer.errors import BadValue, UserError

Loader = TypeVar("Loader", bound=ImageLoader)
_FALLBACK_IMAGE_SIZE = 224  # the resolution of B0


class TransferDataModule(pl.LightningDataModule):
    """Train, val and test loaders of one dataset; a data sheet subclasses it and sets class attributes.

    After `setup()`, which needs no Trainer: `num_classes`, `class_names`, `class_counts`, `split_sizes`,
    `fingerprint`, `skipped` and `decay`.

    Args:
        data_root: folder that holds the hub's files as DATA_ROOT/<hub id>/, or the authors' archive, extracted; None
            loads from the hub or its cache.
        image_size: side of the network's input in pixels, at least 32; None is the data sheet's, or else 224.
        crop_ratio: part of the resized short side that evaluation keeps, in (0, 1].
        interpolation: `bicubic` or `bilinear`, antialiased.
        mean, std: per channel, on the 0..1 scale.
        resize: what evaluation resizes before the crop: the `short_side`, or both sides (`squash`).
        augment: `none`, `basic`, `randaugment`, `trivialaugment`, `autoaugment` or `cutout`.
        batch_size: images per step and process.
        num_workers: decoding processes per loader; 0 is the main one, None leaves one core free, up to 8.
        seed: of order and augmentation; the held-out val images are the same for every seed.
        on_bad_image: `error` stops at an image that cannot be read, `skip` leaves it out from the start (with `stream`,
            out of its batch, and `skipped` has those that this process has met).
        train_on: `train`; `trainval` adds the val images to them and leaves no val split, for a fit after all choices.
        allow_decayed: whether to train on a dataset whose images can no longer all be had (birdsnap).
        val_fraction: part of the images held out for a split that a user's own data lacks, in (0, 0.5).
        min_crop_area: smallest share of the image that a random crop keeps, in (0, 1]; None is the data sheet's.
        multilabel: whether an image may have any number of labels.
        image_column, label_column, split_column: column names, where they differ from the data sheet's.
        label_separator: between the labels in a text column, if `multilabel`.
        cache: `none`; `ram` or `disk` decode and resize every image once, see `datamodules.images.cache`.
        cache_dir: folder of the `disk` cache; None is in the user's cache folder.
        stream: fetch images while they are needed, for a hub dataset that does not fit on the disk; see
            `datamodules.reading.streaming`. Workers are lowered to 1, 2, 4 or 8; images are read as batches need them.

    Raises:
        UserError: a value outside these ranges, or an unknown name.
    """

    name: str
    hub_id: ClassVar[str]
    hub_config: ClassVar[str | None] = None
    hub_revision: ClassVar[str | None] = None
    # The file pattern of each hub split, where the repository also holds splits that nobody wants.
    hub_files: ClassVar[Mapping[str, str] | None] = None
    # The copy that is taken where the hub has no longer the first.
    hub_fallback: ClassVar[HubCopy | None] = None
    # The authors' own archive.
    layout: ClassVar[Layout | None] = None
    # Our split names and the hub's.
    split_names: ClassVar[Mapping[str, str]] = {"train": "train", "test": "test"}
    default_image_column: ClassVar[str] = "image"
    default_label_column: ClassVar[str] = "label"
    # Rows per official split; any other number of rows is another dataset.
    num_examples: ClassVar[Mapping[str, int]] = {}
    # Fewest and most images of a class, per split.
    images_per_class: ClassVar[Mapping[str, tuple[int, int]]] = {}
    # In the authors' order; empty where only the archive has them.
    official_names: ClassVar[Sequence[str]] = ()
    # Misspelt class names of copies, and the official ones.
    name_aliases: ClassVar[Mapping[str, str]] = {}
    wrong_copies: ClassVar[Sequence[WrongCopy]] = ()
    # What a copy is, by the fingerprint of its test split.
    known_copies: ClassVar[Mapping[str, str]] = {}
    # Whether images of it are gone for good.
    decays: ClassVar[bool] = False
    # Images held out of train where there is no official val split.
    val_size: ClassVar[int | None] = None
    # What the literature quotes: plain accuracy, or the mean of the classes' accuracies.
    metric: ClassVar[Literal["top1", "mean_per_class"]] = "top1"
    default_image_size: ClassVar[int | None] = None
    # Smallest share of the image that a random crop keeps; 0.08 is the paper's.
    default_min_crop_area: ClassVar[float] = 0.08
    horizontal_flip: ClassVar[bool] = True
    # Of AutoAugment: the one that was found on data like these.
    augment_policy: ClassVar[Literal["imagenet", "cifar10"]] = "imagenet"
    # Whether every image is decoded once in setup(): wanted for files that nobody has checked yet.
    checks_all_images: ClassVar[bool] = False
    # Declared by the data sheet; 0 is known only after setup().
    num_classes: int = 0

    def __init__(
        self,
        data_root: str | Path | None = None,
        image_size: int | None = None,
        crop_ratio: float = 0.875,
        interpolation: str = "bicubic",
        mean: Rgb = IMAGENET_MEAN,
        std: Rgb = IMAGENET_STD,
        resize: str = "short_side",
        augment: str = "basic",
        batch_size: int = 64,
        num_workers: int | None = None,
        seed: int = 0,
        on_bad_image: str = "error",
        train_on: str = "train",
        allow_decayed: bool = False,
        val_fraction: float = 0.1,
        min_crop_area: float | None = None,
        multilabel: bool = False,
        image_column: str | None = None,
        label_column: str | None = None,
        split_column: str | None = None,
        label_separator: str = "|",
        cache: str = "none",
        cache_dir: str | Path | None = None,
        stream: bool = False,
    ) -> None:
        super().__init__()
        check_cache(cache)
        check_options(on_bad_image, train_on, batch_size, val_fraction)
        self.data_root = None if data_root is None else Path(data_root).expanduser()
        self.image_size = image_size if image_size is not None else self.default_image_size or _FALLBACK_IMAGE_SIZE
        self.crop_ratio = crop_ratio
        self.interpolation = interpolation
        self.mean = mean
        self.std = std
        self.resize = resize
        self.batch_size = batch_size
        self.num_workers = default_num_workers() if num_workers is None else num_workers
        self.stream = stream
        if stream:
            if not hasattr(self, "hub_id"):
                raise BadValue(f"{self.name} is read where it lies: leave `stream` out")
            if cache != "none":
                raise BadValue(f"`stream`=True with `cache`={cache}: a cache needs all images (choose one)")
            self.num_workers = streaming_workers(self.num_workers)
            if num_workers not in (None, self.num_workers):
                warnings.warn(f"`num_workers`={num_workers}: {self.num_workers} can stream equal shares", stacklevel=2)
        self.seed = seed
        self.on_bad_image = on_bad_image
        self.train_on = train_on
        self.allow_decayed = allow_decayed
        self.val_fraction = val_fraction
        self.multilabel = multilabel
        self.image_column = image_column
        self.label_column = label_column
        self.split_column = split_column
        self.label_separator = label_separator
        self.cache = cache
        self.cache_dir = None if cache_dir is None else Path(cache_dir).expanduser()
        self._caches: dict[str, ImageCache] = {}
        self.eval_transform = build_eval_transform(self.image_size, crop_ratio, interpolation, resize)
        if min_crop_area is not None and not 0 < min_crop_area <= 1:
            raise BadValue(f"`min_crop_area`={min_crop_area} must lie above 0 and not above 1")
        crop_scale = (min_crop_area or self.default_min_crop_area, 1.0)
        self.train_transform = build_train_transform(
            self.image_size,
            augment,
            interpolation,
            crop_ratio,
            crop_scale,
            self.horizontal_flip,
            mean,
            resize,
            self.augment_policy,
        )
        self.test_split = "test"  # what `test_dataloader` gives; efficientnet-transfer evaluate looks at the others too
        # Lightning restores loaders only if nothing asked for their length before, which every schedule does; so their
        # progress travels with the datamodule's state.
        self._train_loader: ResumableLoader | None = None
        self._train_progress: dict[str, int] | None = None
        self.class_names: tuple[str, ...] = ()
        self.skipped: list[BadImage] = []
        self.decay: dict[str, str] = {}  # split -> "n of N test images", where images are missing
        self.splits: dict[str, Split] = {}
        self.held_out: dict[str, Split] = {}  # those of them that the source does not have

    def load_splits(self) -> tuple[tuple[str, ...], dict[str, Split]]:
        """Class names in index order and the splits that the source has; overridden where that is not the hub.

        Raises:
            UserError: not there, not reachable, or not the columns and labels that were expected.
        """
        try:
            if self.stream:
                return self._stream_splits()
            if self.data_root is None:
                copy, tables = from_first_copy(self.hub_copies(), load_hub_tables)
            elif local := find_local_copy(self.data_root, self.hub_copies()):
                copy, tables = local, load_local_tables(self.data_root / local.id, local.config, local.split_names)
            else:
                folder = find_archive(self.data_root, self.name, self.layout, self.hub_id)
                names, splits = self.read_archive(folder)
                if {name: len(split) for name, split in splits.items()} == self.num_examples and self.layout:
                    check_md5(folder, self.layout.md5)  # other sizes have a cause that says more
                return names, splits
        except MissingSplitError as error:
            raise UserError(f"{error}{likely_cause(error.found, self.num_examples, self.wrong_copies)}") from None
        return read_splits(
            tables,
            copy.id,
            self.image_column or copy.image_column,
            self.label_column or copy.label_column,
            multilabel=self.multilabel,
            label_separator=self.label_separator,
            official_names=self.official_names,
        )

    def _stream_splits(self) -> tuple[tuple[str, ...], dict[str, Split]]:
        if self.data_root is None:
            copy, files = from_first_copy(self.hub_copies(), find_hub_files)
        elif local := find_local_copy(self.data_root, self.hub_copies()):
            copy = local
            files = find_local_files(self.data_root / local.id, local.config, local.split_names)
        else:
            raise BadValue(
                f"`stream`=True reads parquet files, and {self.data_root} has no {self.hub_id}/; the authors'"
                " archive is read where it lies anyway: leave `stream` out"
            )
        return stream_splits(
            files,
            copy.id,
            self.image_column or copy.image_column,
            self.label_column or copy.label_column,
            multilabel=self.multilabel,
            label_separator=self.label_separator,
            official_names=self.official_names,
        )

    def hub_copies(self) -> tuple[HubCopy, ...]:
        """The hub's copies, in the order in which they are asked for."""
        first = HubCopy(
            self.hub_id,
            config=self.hub_config,
            revision=self.hub_revision,
            split_names=self.split_names,
            files=self.hub_files,
            image_column=self.default_image_column,
            label_column=self.default_label_column,
        )
        return (first,) if self.hub_fallback is None else (first, self.hub_fallback)

    def read_archive(self, folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
        """Class names in the authors' order and the official splits, from their extracted archive.

        Args:
            folder: has everything that `layout` needs.

        Raises:
            UserError: files that say something else than the authors'.
        """
        raise NotImplementedError(f"{type(self).__name__} has a layout, but does not read it")

    def complete_splits(self, splits: dict[str, Split]) -> dict[str, Split]:
        """With a val split: the official one, or `val_size` images cut from train, never from test."""
        if "val" in splits or self.val_size is None:
            return splits
        train, val = hold_out(splits["train"], self.val_size)
        return {**splits, "train": train, "val": val}

    def setup(self, stage: str | None = None) -> None:
        """Loads and checks all splits; a second call does nothing.

        Raises:
            UserError: data that cannot be read or trained on; the text names the place.
        """
        if self.splits:
            return
        if self.split_column is not None and self.num_examples:
            raise BadValue(f"{self.name} has fixed splits; `split_column` is for dataset 'folder'")
        if self.allow_decayed and not self.decays:
            raise BadValue(f"{self.name} can be had complete; `allow_decayed` is for birdsnap")
        names, splits = self.load_splits()
        check_official(
            splits,
            self.num_examples,
            self.images_per_class,
            len(names),
            type(self).num_classes,
            self.wrong_copies,
            decays=self.decays,
            allow_decayed=self.allow_decayed,
        )
        self.class_names = check_class_order(names, self.official_names, self.name_aliases, splits["train"].name)
        if not self.stream and (self.checks_all_images or self.on_bad_image == "skip"):
            splits, self.skipped = drop_bad_images(splits, self.on_bad_image)
        if self.decays:
            self.decay = describe_decay(splits, self.num_examples)
        self.num_classes = len(self.class_names)
        check_trainable(splits, self.class_names, allow_absent_classes=bool(self.decay))
        official, splits = splits, self.complete_splits(splits)
        if self.train_on == "trainval":
            val = splits.pop("val")
            splits["train"] = join(splits["train"], val, f"{self.name} train and val")
        self.held_out = {name: split for name, split in splits.items() if name not in official}
        self.splits = {name: splits[name] for name in ("train", "val", "test") if name in splits}

    def adopt(self, other: TransferDataModule) -> None:
        """Takes what `other`, of the same source, has loaded and checked, so that `setup()` has nothing left to do."""
        for name in ("class_names", "num_classes", "skipped", "decay", "splits", "held_out"):
            setattr(self, name, getattr(other, name))

    def median_short_side(self) -> int:
        """Of the training images, in pixels: the lower median of at most 500 of them, whose headers alone are read.

        They are spread over the split, but with `stream` the first ones.

        Raises:
            UserError: an image that is none.
        """
        split = self._split("train")
        apart = 1 if self.stream else 1 + (len(split) - 1) // 500
        sides = sorted(min(split.shape(index)) for index in range(0, len(split), apart)[:500])
        return sides[(len(sides) - 1) // 2]

    @property
    def split_sizes(self) -> dict[str, int]:
        """Images per split."""
        return {name: len(split) for name, split in self.splits.items()}

    @property
    def class_counts(self) -> dict[str, list[int]]:
        """Images per split and class, in the order of `class_names`."""
        return {name: split.class_counts(self.num_classes) for name, split in self.splits.items()}

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """Per split 128 bits, in hex: they change with any image, label or member, not with the order."""
        return {name: split.fingerprint() for name, split in self.splits.items()}

    @property
    def known_copy(self) -> str | None:
        """What the data sheet knows of a copy with this test split; None of one that it has not seen."""
        return self.known_copies.get(self.fingerprint.get("test", ""))

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled, augmented batches; a last partial one is left out, as a batch of one breaks BatchNorm."""
        self._train_loader = self._build_train_loader(self.train_transform)
        if self._train_progress is not None:
            self._train_loader.load_state_dict(self._train_progress)
            self._train_progress = None
        return self._train_loader

    def calibration_dataloader(self) -> ResumableLoader:
        """Training images in random order, prepared as in evaluation: to re-estimate BatchNorm statistics."""
        return self._build_train_loader(self.eval_transform)

    def _build_train_loader(self, transform: A.Compose) -> ResumableLoader:
        split = self._split("train")
        if isinstance(split.table, StreamedTable):
            groups, window = split.table.group_of(split.rows), split.table.window()
            sampler: EpochSampler = StreamSampler(groups, window, self.batch_size, self.seed)
        else:
            sampler = EpochSampler(len(split), self.seed)
        drop_last = len(sampler) >= self.batch_size
        return self._loader(ResumableLoader, "train", transform, sampler, drop_last)

    def val_dataloader(self) -> ImageLoader:
        """Every val image once over all ranks; in order, unless they are streamed."""
        return self._eval_loader("val")

    def test_dataloader(self) -> ImageLoader:
        """Every test image once over all ranks; in order, unless they are streamed.

        Raises:
            UserError: the data has no test split.
        """
        return self._eval_loader(self.test_split)

    def test_order(self, world_size: int) -> NDArray[np.int64]:
        """Position in the test split of each image that the ranks' test loaders give, rank after rank. Shape: (N,)"""
        ranks = range(world_size)
        return np.concatenate([self._eval_sampler(self.test_split, rank, world_size).mine for rank in ranks])

    def _eval_loader(self, name: str) -> ImageLoader:
        sampler = self._eval_sampler(name)
        return self._loader(ImageLoader, name, self.eval_transform, sampler, drop_last=False)

    def _eval_sampler(
        self, name: str, rank: int | None = None, world_size: int | None = None
    ) -> UnpaddedDistributedSampler:
        size = len(self._split(name))
        if self.stream:
            return StreamEvalSampler(size, self.batch_size, rank, world_size)
        return UnpaddedDistributedSampler(size, rank, world_size)

    def _loader(
        self, kind: type[Loader], name: str, transform: A.Compose, sampler: Sampler[Any], drop_last: bool
    ) -> Loader:
        split = self._split(name)
        if self.stream and kind is ResumableLoader:
            split = for_training(split, self.num_workers)
        elif self.stream:
            split = for_evaluation(split, self.num_workers, repeated=name == "val")
        loader = kind(
            ImageDataset(split, transform, self._cache(name, transform)),
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=self.num_workers,
            collate_fn=collate,
            worker_init_fn=start_worker,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            # Its own, or starting an iterator would draw from the generator of dropout and mixing, and a resumed run
            # starts one more.
            generator=torch.Generator(),
        )
        if self.stream and self.on_bad_image == "skip":  # else they were left out from the start
            loader.skipped = self.skipped
        return loader

    def _cache(self, name: str, transform: A.Compose) -> ImageCache | None:
        """The split's cache, made at the first call; none for a transform that wants other pixels than are kept."""
        resize = cached_resize(self.train_transform if name == "train" else self.eval_transform, self.eval_transform)
        if self.cache == "none" or cached_resize(transform, self.eval_transform) != resize:
            return None
        if name not in self._caches:
            self._caches[name] = build_cache(self._split(name), resize, self.cache, self.cache_dir)
        return self._caches[name]

    def _split(self, name: str) -> Split:
        self.setup()
        if name not in self.splits:
            raise UserError(f"{self.name} has no {name} split here (it has: {', '.join(self.splits)})")
        return self.splits[name]

    def normalize(self, images: Tensor) -> Tensor:
        """A loader's uint8 (N, S, S, 3) as the network's float32 (N, 3, S, S); Lightning does it itself."""
        return normalize(images, self.mean, self.std)

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Normalises on the device, to move a quarter of the bytes there."""
        images, labels = batch
        return self.normalize(images), labels

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must remember of its data, in plain types."""
        return {
            "dataset": self.name,
            "class_names": list(self.class_names),
            "fingerprint": dict(self.fingerprint),
            "multilabel": self.multilabel,
            "image_size": self.image_size,
            "crop_ratio": self.crop_ratio,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
            "resize": self.resize,
            "skipped": [asdict(image) for image in self.skipped],
            "train_progress": None if self._train_loader is None else self._train_loader.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on in the checkpoint's epoch, after the batches that it has seen.

        Raises:
            UserError: the data is not the checkpoint's.
        """
        self.check_same_data(state_dict)
        self._train_progress = state_dict["train_progress"]
        if self.stream:  # else they were found again
            self.skipped[:] = [BadImage(**image) for image in state_dict["skipped"]]

    def check_same_data(self, state_dict: dict[str, Any]) -> None:
        """Compares this data with what a checkpoint remembers.

        Raises:
            UserError: the class names or a split's images or labels have changed; the text says which.
        """
        self.setup()
        if state_dict["class_names"] != list(self.class_names):
            raise UserError(
                f"{self.name}: the classes changed since the checkpoint: it has "
                f"{', '.join(state_dict['class_names'])}; the data has {', '.join(self.class_names)}"
            )
        saved = state_dict["fingerprint"]
        kinds = {value.startswith("streamed-") for value in (*saved.values(), *self.fingerprint.values())}
        if len(kinds) > 1:
            raise UserError(
                f"{self.name}: fingerprints of streamed data and of whole files cannot be compared: give the data as"
                f" the run had it, {'whole' if self.stream else 'streamed'}"
            )
        names = sorted(saved.keys() | self.fingerprint)
        if changed := [name for name in names if saved.get(name) != self.fingerprint.get(name)]:
            raise UserError(
                f"{self.name}: the data changed since the checkpoint (split: {', '.join(changed)}); "
                "restore the data to resume, or start a new run"
            )
