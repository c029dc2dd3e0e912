"""From a dataset to batches: decoded, transformed, batched, normalised on the device, resumed where they stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.dataset.loaded import Dataset, check_evaluated, read_dataset
from datamodules.dataset.sheet import Source
from datamodules.dataset.split import Split
from datamodules.images.transforms import (
    Transform,
    build_earlier_transforms,
    build_eval_transform,
    build_train_transform,
    cached_resize,
    normalize,
)
from datamodules.images.user_transform import UserTransform
from datamodules.loading.cache import build_cache, check_cache
from datamodules.loading.image_cache import ImageCache
from datamodules.loading.loaders import ImageDataset, ImageLoader, Loader, ResumableLoader, build_loader
from datamodules.loading.samplers import EpochSampler, EvalSampler, RankSampler, StreamEvalSampler, StreamSampler
from datamodules.loading.workers import count_workers
from datamodules.reading.streaming import StreamedTable, for_evaluation, for_training
from transfer.errors import BadValue, check_count
from transfer.files import expanded
from transfer.images.decode import BadImage
from transfer.images.depth import Decoding, describe_ranges, learn_ranges
from transfer.lightning import pl, refuse_mix
from transfer.preprocessing import Preprocessing
from transfer.seen_images import KEY, SeenImages


class DataModule(pl.LightningDataModule):
    """Train, val and test loaders of one dataset.

    Args:
        dataset: A dataset that `load_dataset` has read, or a source that `setup()` will read.
        preprocessing: How the network wants its images.
        image_size: Side of the network's input in pixels, at least 32; None is the preprocessing's.
        augment: `none`, `basic`, `randaugment`, `trivialaugment`, `autoaugment` or `cutout`.
        batch_size: Images per step and process.
        num_workers: What decodes for each loader: processes, or without a GPU threads for val and test; 0 decodes in
            the main one, None leaves one core free, up to 8. A stream lowers it to 1, 2, 4 or 8.
        seed: Decides order and augmentation.
        min_crop_area: Smallest share of the image that a random crop keeps, in (0, 1]; None is the sheet's.
        vertical_flip, quarter_turns, color_jitter: Further augmentations, see `build_train_transform`.
        progressive: Side of the training images in the first stage; `transfer.training.progressive` lets them grow.
        train_transform: A transform of your own in place of `augment` and `min_crop_area`: Albumentations, torchvision,
            or any callable on uint8 (H, W, 3) arrays; see `datamodules.images.user_transform`. With a `cache` it gets
            the cached image, which has been resized as evaluation does, before the crop.
        eval_transform: Likewise, in place of the preprocessing's resize and crop, for val, test and predict.
        cache: `none`; `ram` or `disk` decode and resize every image once, see `datamodules.loading.cache`.
        cache_dir: Folder of the `disk` cache; None is in the user's cache folder.

    Raises:
        UserError: A value outside these ranges, an unknown name, or a transform whose images the network cannot use.
    """

    _is_checked = False

    def __init__(
        self,
        dataset: Dataset | Source,
        preprocessing: Preprocessing,
        *,
        image_size: int | None = None,
        augment: str = "basic",
        batch_size: int = 64,
        num_workers: int | None = None,
        seed: int = 0,
        min_crop_area: float | None = None,
        vertical_flip: bool = False,
        quarter_turns: bool = False,
        color_jitter: float = 0.0,
        progressive: int | None = None,
        train_transform: Callable[..., Any] | None = None,
        eval_transform: Callable[..., Any] | None = None,
        cache: str = "none",
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        refuse_mix()
        check_cache(cache)
        check_count("batch_size", batch_size)
        self._dataset = dataset if isinstance(dataset, Dataset) else None
        self.source = dataset.source if isinstance(dataset, Dataset) else dataset
        self.preprocessing = preprocessing if image_size is None else replace(preprocessing, image_size=image_size)
        self.batch_size = batch_size
        self.seed = seed
        self.cache = cache
        self.cache_dir = None if cache_dir is None else expanded(cache_dir)
        self.stream = self.source.options.stream
        if self.stream and cache != "none":
            raise BadValue(f"`stream`=True with `cache`={cache}: a cache needs all images (choose one)")
        self.num_workers = count_workers(num_workers, streams=self.stream)
        self._caches: dict[str, ImageCache] = {}
        sheet, p = self.source.sheet, self.preprocessing
        crop_scale = (sheet.default_min_crop_area if min_crop_area is None else min_crop_area, 1.0)
        self._evaluation = build_eval_transform(p)
        flip, policy = sheet.horizontal_flip, sheet.augment_policy
        options = augment, crop_scale, flip, policy, vertical_flip, quarter_turns, color_jitter
        self.train_transform: Transform = build_train_transform(p, *options)
        self._earlier = build_earlier_transforms(p, progressive, *options)
        self.eval_transform: Transform = self._evaluation
        if train_transform is not None:
            if progressive is not None:
                raise BadValue(f"`progressive`={progressive} with `train_transform`, whose images do not grow")
            self.train_transform = UserTransform(train_transform, "train_transform", p)
        if eval_transform is not None:
            self.eval_transform = UserTransform(eval_transform, "eval_transform", p)
        if self._dataset is not None:
            self._learn_ranges(self._dataset)
        # Every schedule asks for its length, and then Lightning does not restore it: its progress travels with ours.
        self._train_loader: ResumableLoader | None = None
        self._train_progress: dict[str, int] | None = None
        self.seen_before: SeenImages | None = None  # by the network that a run starts from

    def prepare_data(self) -> None:
        """Read the dataset in one process of each machine first, so that the others find it in the hub's cache.

        Before a training, the images of val and test are decoded that nobody has decoded yet: a bad one would end the
        run after all its work.
        """
        self.setup()
        if self.trainer is not None and self.trainer.state.fn == "fit" and not self._is_checked:
            check_evaluated(self.dataset)
            self._is_checked = True

    def setup(self, stage: str | None = None) -> None:
        """Read the dataset unless it has been read already.

        Raises:
            UserError: The data cannot be read or trained on; the text names the place.
        """
        if self._dataset is None:
            self._dataset = read_dataset(self.source)
            self._learn_ranges(self._dataset)

    def _learn_ranges(self, dataset: Dataset) -> None:
        known = self.preprocessing
        self.preprocessing = learn_ranges(known, next(iter(dataset.splits.values())).decoding)
        if self.preprocessing != known and self.source.options.bit_depth is None:
            pl.utilities.rank_zero_warn(describe_ranges(self.preprocessing), stacklevel=4)

    @property
    def dataset(self) -> Dataset:
        """The dataset, which is read at the first call unless `setup()` did it."""
        self.setup()
        assert self._dataset is not None
        return self._dataset

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names in index order; read with the dataset."""
        return self.dataset.class_names

    @property
    def num_classes(self) -> int:
        """The number of classes: the dataset's, which is read unless its sheet knows it."""
        if self._dataset is None and self.source.sheet.num_classes and not self.source.options.allow_decayed:
            return self.source.sheet.num_classes
        return self.dataset.num_classes

    def train_dataloader(self) -> ResumableLoader:
        """Return shuffled, augmented batches; a last partial one is left out, as a batch of one breaks BatchNorm."""
        self._train_loader = self._build_train_loader(self.train_transform)
        if self._train_progress is not None:
            self._train_loader.load_state_dict(self._train_progress)
            self._train_progress = None
        return self._train_loader

    def calibration_dataloader(self) -> ResumableLoader:
        """Return training images in random order, prepared as in evaluation: to re-estimate BatchNorm statistics."""
        return self._build_train_loader(self.eval_transform)

    def _build_train_loader(self, transform: Transform) -> ResumableLoader:
        split = self.dataset.split("train")
        if isinstance(split.table, StreamedTable):
            groups, window = split.table.group_of(split.rows), split.table.window()
            sampler: EpochSampler = StreamSampler(groups, window, self.batch_size, self.seed)
        else:
            sampler = EpochSampler(len(split), self.seed)
        return self._loader(ResumableLoader, "train", transform, sampler, drop_last=len(sampler) >= self.batch_size)

    def val_dataloader(self) -> ImageLoader:
        """Return every val image once over all ranks; in order, unless they are streamed."""
        return self.eval_dataloader("val")

    def test_dataloader(self) -> ImageLoader:
        """Return every test image once over all ranks; in order, unless they are streamed.

        Raises:
            UserError: The data has no test split.
        """
        return self.eval_dataloader("test")

    def predict_dataloader(self) -> ImageLoader:
        """Return the test images, or the val images of data without a test split, as in evaluation.

        For files of your own see `datamodules.loading.predicting.build_predict_loader`.
        """
        return self.eval_dataloader("test" if "test" in self.dataset.splits else "val")

    def test_order(self, split: str, world_size: int) -> NDArray[np.int64]:
        """Return each image's position in a split, in the order of the ranks' evaluation loaders. Shape: (N,)"""
        sampler = self._eval_sampler(split)
        return np.concatenate([np.array(sampler.items(rank, world_size), np.int64) for rank in range(world_size)])

    def eval_dataloader(self, split: str) -> ImageLoader:
        """Return every image of a split once over all ranks, as in evaluation; in order, unless they are streamed.

        Args:
            split: `train`, `val` or `test`.

        Raises:
            UserError: The data has no such split.
        """
        return self._loader(ImageLoader, split, self.eval_transform, self._eval_sampler(split), drop_last=False)

    def view_dataloader(self, view: int) -> ImageLoader:
        """Return `eval_dataloader("train")` augmented, as seed, `view` and an image's position alone decide."""
        sampler = self._eval_sampler("train").with_seeds(self.seed, view)
        return self._loader(ImageLoader, "train", self.train_transform, sampler, drop_last=False)

    def _eval_sampler(self, name: str) -> EvalSampler:
        size = len(self.dataset.split(name))
        return StreamEvalSampler(size, self.batch_size) if self.stream else EvalSampler(size)

    def _loader(
        self, kind: type[Loader], name: str, transform: Transform, sampler: RankSampler[Any], drop_last: bool
    ) -> Loader:
        split = self.decoded_split(name)
        if self.stream and kind is ResumableLoader:
            split = for_training(split, self.num_workers)
        elif self.stream:
            split = for_evaluation(split, self.num_workers, repeated=name == "val")
        leaves_out = self.stream and self.source.options.on_bad_image == "skip"  # else they are known from the start
        images = ImageDataset(
            split,
            transform,
            self._cache(name, transform),
            is_training=transform is self.train_transform,
            earlier=self._earlier if transform is self.train_transform else (),
            skipped=self.dataset.skipped if leaves_out else None,
        )
        return build_loader(kind, images, sampler, self.batch_size, self.num_workers, drop_last=drop_last)

    def decoded_split(self, name: str) -> Split:
        """Return a split whose images are decoded as the network wants them."""
        return replace(
            self.dataset.split(name), decoding=Decoding.of(self.preprocessing, self.source.options.max_pixels)
        )

    def _cache(self, name: str, transform: Transform) -> ImageCache | None:
        """Return the split's cache, made at the first call; None if the transform wants other pixels than are kept."""
        resize = cached_resize(self.train_transform if name == "train" else self.eval_transform, self._evaluation)
        if self.cache == "none" or cached_resize(transform, self._evaluation) != resize:
            return None
        if name not in self._caches:
            self._caches[name] = build_cache(self.decoded_split(name), resize, self.cache, self.cache_dir)
        return self._caches[name]

    def normalize(self, images: Tensor) -> Tensor:
        """Return a loader's images as the network's float32 (N, 3, S, S); Lightning calls it by itself."""
        return normalize(images, self.preprocessing)

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Normalise uint8 images on the device, to move a quarter of the bytes there."""
        return self.normalize(batch[0]), batch[1]

    def seen_images(self) -> SeenImages:
        """Return the images on which a network has been trained after training here."""
        seen = self.dataset.seen_images
        return seen if self.seen_before is None else seen | self.seen_before

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must remember of its data, in plain types."""
        preprocessing = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.preprocessing).items()}
        progress = None if self._train_loader is None else self._train_loader.state_dict()
        return {**self.dataset.saved(), **preprocessing, KEY: self.seen_images().to_text(), "train_progress": progress}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on in the checkpoint's epoch, after the batches that it has seen.

        Raises:
            UserError: The data is not the checkpoint's.
        """
        self.dataset.check_same_data(state_dict)
        self._train_progress = state_dict["train_progress"]
        self.seen_before = SeenImages.from_text(state_dict.get(KEY))
        if self.stream:  # else they were found again
            self.dataset.skipped[:] = [BadImage(image["name"], image["reason"]) for image in state_dict["skipped"]]
