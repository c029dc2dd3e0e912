"""Loaders: plain batches, sharded when an iteration starts, in spawned workers, with clear words for bad images."""

from __future__ import annotations

import multiprocessing
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.utils.data import DataLoader, DistributedSampler, default_collate

from datamodules import build_datamodule
from datamodules.datamodule import DataModule
from datamodules.images.transforms import build_eval_transform
from datamodules.loading.loaders import ImageDataset, ImageLoader, UnreadableImageError
from datamodules.loading.predicting import build_predict_loader
from tests.support.data import PREPROCESSING
from tests.support.ranks import run_ranks
from transfer.errors import UserError
from transfer.images.decode import BadImage


def digits(**options: Any) -> DataModule:
    return build_datamodule("digits", preprocessing=PREPROCESSING, **{"num_workers": 0, "batch_size": 250, **options})


def images_of(loader: Any) -> Counter[bytes]:
    """How often each image comes."""
    return Counter(image.numpy().tobytes() for images, _ in loader for image in images)


# --- ranks


def save_share(folder: Path) -> None:
    """What one of two ranks gets of loaders made, asked for their length and used before its group."""
    data = digits(augment="none", batch_size=100)
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader()}
    lengths = [(len(loader), len(list(loader))) for loader in loaders.values()]
    torch.distributed.init_process_group("gloo")
    share = {name: (len(loader), images_of(loader), loader.positions()) for name, loader in loaders.items()}
    torch.save((lengths, share), folder / f"{torch.distributed.get_rank()}.pt")
    torch.distributed.destroy_process_group()


def test_loaders_made_before_the_process_group_give_each_rank_its_half(tmp_path: Path) -> None:
    run_ranks(save_share, tmp_path)
    (lengths, first), (_, second) = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    assert lengths == [(12, 12), (2, 2)]
    data = digits(augment="none")
    assert first["val"][1] + second["val"][1] == images_of(data.val_dataloader())
    assert sorted(first["val"][2] + second["val"][2]) == list(range(180))
    assert (first["val"][0], second["val"][0]) == (1, 1)
    assert first["train"][0] == second["train"][0] == 6
    assert first["train"][1].total() == second["train"][1].total() == 600
    assert len(set(first["train"][2]) & set(second["train"][2])) == 0
    assert len({*first["train"][2], *second["train"][2]}) == 1256
    whole = images_of(digits(augment="none", batch_size=1).train_dataloader())
    assert not first["train"][1] + second["train"][1] - whole


def test_a_rank_with_less_than_a_batch_keeps_it() -> None:
    loader = digits(batch_size=700).train_dataloader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datamodules.loading.loaders.distributed_position", lambda: (1, 2))
        assert len(loader) == 1 and [len(labels) for _, labels in loader] == [628]
    assert len(loader) == 1 and [len(labels) for _, labels in loader] == [700]


def test_a_view_depends_on_seed_view_and_image_alone() -> None:
    data = digits()
    images, labels = next(iter(data.view_dataloader(1)))
    assert torch.equal(labels, data.dataset.split("train").labels[:250])
    assert not torch.equal(images, next(iter(data.view_dataloader(2)))[0])
    assert not torch.equal(images, next(iter(digits(seed=1).view_dataloader(1)))[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datamodules.loading.loaders.distributed_position", lambda: (1, 2))
        share, _ = next(iter(digits(batch_size=100, num_workers=1).view_dataloader(1)))
    assert torch.equal(share, images[1:200:2])


def test_examples_come_from_all_over_the_split() -> None:
    loader = digits().val_dataloader()
    expected = torch.cat([images for images, _ in loader])
    assert torch.equal(loader.examples(50), expected[::3][:50])
    assert torch.equal(loader.examples(1000), expected)


def test_a_rank_resumes_in_the_middle_of_its_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.loading.loaders.distributed_position", lambda: (1, 2))
    whole = [labels.tolist() for _, labels in digits(batch_size=100).train_dataloader()]
    resumed = digits(batch_size=100, num_workers=1).train_dataloader()
    resumed.load_state_dict({"epoch": 0, "batches": 4})
    assert [labels.tolist() for _, labels in resumed] == whole[4:] and len(whole) == len(resumed) == 6


# --- batches


def test_batches_are_torchs_own() -> None:
    loader = digits(augment="none").train_dataloader()
    images, labels = next(iter(loader))
    assert images.dtype == torch.uint8 and images.shape == (250, 32, 32, 3)
    assert labels.dtype == torch.int64 and labels.shape == (250,)
    items = [loader.dataset[index] for index in loader.positions()[:250]]
    assert isinstance(items[0], tuple) and loader.collate_fn is default_collate
    assert torch.equal(torch.stack([image for image, _ in items]), images)
    assert isinstance(loader.sampler, DistributedSampler)


def test_training_batches_have_one_shape_and_their_workers_start_once() -> None:
    loader = digits(batch_size=500, num_workers=1).train_dataloader()
    shapes, workers = set(), []
    for _ in range(2):
        for images, labels in loader:
            shapes.add((images.shape, labels.shape))
        workers.append({child.pid for child in multiprocessing.active_children()})
    assert shapes == {((500, 32, 32, 3), (500,))}  # 1257 images: the last 257 wait for another epoch
    assert workers[0] == workers[1] and workers[0]


@pytest.mark.parametrize("has_gpu", [True, False])
def test_where_there_is_a_gpu_batches_are_pinned_for_copies_that_do_not_wait(
    has_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    data = digits()
    loaders = data.train_dataloader(), data.val_dataloader(), data.calibration_dataloader()
    assert [loader.pin_memory for loader in loaders] == [has_gpu] * 3


def test_a_plain_dataloader_takes_the_dataset() -> None:
    dataset: Any = digits().train_dataloader().dataset
    torch.manual_seed(0)
    first, second = (images_of(DataLoader(dataset, batch_size=300, shuffle=True)) for _ in range(2))
    torch.manual_seed(0)
    again = images_of(DataLoader(dataset, batch_size=300, shuffle=True))
    assert first.total() == 1257 and first == again != second


def test_evaluation_draws_nothing() -> None:
    loader = digits().val_dataloader()
    states = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    list(loader)
    assert states[0] == random.getstate() and torch.equal(states[1], torch.get_rng_state())
    assert states[2] == np.random.get_state()[1].tolist()  # type: ignore[union-attr]


def test_spawned_workers_give_the_same_batches() -> None:
    loader: Any = digits(augment="trivialaugment").train_dataloader()
    spawned = ImageLoader(
        loader.dataset,
        batch_size=250,
        sampler=loader.sampler,
        drop_last=True,
        num_workers=1,
        multiprocessing_context="spawn",
        worker_init_fn=loader.worker_init_fn,
        generator=torch.Generator(),
    )
    for (images, labels), (expected, expected_labels) in zip(spawned, loader, strict=True):
        assert torch.equal(images, expected) and torch.equal(labels, expected_labels)


# --- bad images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty images of two classes, the second half of each class's named later."""
    for index in range(40):
        path = tmp_path / "photos" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (index, 0, 0)).save(path)
    return tmp_path / "photos"


def dataset_of(photos: Path, skipped: list[BadImage] | None = None) -> ImageDataset:
    data = build_datamodule("folder", preprocessing=PREPROCESSING, data_root=photos)
    return ImageDataset(data.dataset.split("train"), build_eval_transform(PREPROCESSING), skipped=skipped)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("kind", [DataLoader, ImageLoader])
def test_a_bad_image_is_named_in_one_clear_error(photos: Path, num_workers: int, kind: type[DataLoader]) -> None:
    dataset = dataset_of(photos)
    path = Path(str(dataset.split.encoded(2)))
    path.write_bytes(b"text")
    with pytest.raises(UserError) as caught:
        list(kind(dataset, batch_size=4, num_workers=num_workers))
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{path}: not an image") and first.endswith("(4 bytes starting b'text')")
    assert second == "Repair the image, or set `on_bad_image`=skip to leave bad images out."
    with pytest.raises(UnreadableImageError, match="not an image"):
        dataset[2]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_skipped_images_are_left_out_of_their_batches_and_told_once(photos: Path, num_workers: int) -> None:
    skipped: list[BadImage] = []
    dataset = dataset_of(photos, skipped)
    for index in (1, 2, 9):
        Path(str(dataset.split.encoded(index))).write_bytes(b"")
    loader = ImageLoader(dataset, batch_size=4, num_workers=num_workers)
    with pytest.warns(UserWarning, match=r"left out .*: empty \(0 bytes\)") as told:
        sizes = [len(labels) for _, labels in loader]
    whole = [min(4, len(dataset) - first) for first in range(0, len(dataset), 4)]
    assert sizes == [2, 4, 3, *whole[3:]] and len(told) == 3
    assert [image.name for image in skipped] == [str(dataset.split.encoded(index)) for index in (1, 2, 9)]
    assert [len(labels) for _, labels in loader] == sizes and len(skipped) == 3


def test_examples_leave_out_what_is_skipped(photos: Path) -> None:
    dataset = dataset_of(photos, [])
    Path(str(dataset.split.encoded(1))).write_bytes(b"")
    found = ImageLoader(dataset, batch_size=4).examples(1000)
    assert torch.equal(found, torch.stack([dataset[index][0] for index in range(len(dataset)) if index != 1]))


def test_a_batch_without_a_good_image_is_refused(photos: Path) -> None:
    dataset = dataset_of(photos, [])
    for index in range(4):
        Path(str(dataset.split.encoded(index))).unlink()
    with pytest.raises(UserError, match=r"no such file or directory(?s:.)*Nor can any other image of its batch"):
        list(ImageLoader(dataset, batch_size=4))


# --- predict


class Sums(pl.LightningModule):
    """Predicts the sum of each image, as it gets it."""

    def predict_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        return batch[0].sum((1, 2, 3))


@pytest.mark.parametrize("trainval", [True, False])
def test_a_trainer_predicts_from_the_datamodule(trainval: bool) -> None:
    data = digits(batch_size=64)
    if not trainval:
        splits = {name: split for name, split in data.dataset.splits.items() if name != "test"}
        data.dataset.__dict__["splits"] = splits
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    result = trainer.predict(Sums(), datamodule=data)
    expected = data.test_dataloader() if trainval else data.val_dataloader()
    sums = torch.cat([data.normalize(images).sum((1, 2, 3)) for images, _ in expected])
    torch.testing.assert_close(torch.cat(result), sums)  # type: ignore[arg-type]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_predict_loader_reports_bad_files(tmp_path: Path, num_workers: int) -> None:
    Image.new("RGB", (9, 9), "red").save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("text")
    paths = [tmp_path / "good.png", tmp_path / "bad.png", tmp_path / "gone.png"]
    batches = list(build_predict_loader(paths, build_eval_transform(PREPROCESSING), 2, num_workers))
    images, names, bad = batches[0]
    assert images.shape == (1, 32, 32, 3) and images[0, 0, 0].tolist() == [255, 0, 0]
    assert names == [str(paths[0])] and bad[0].name == str(paths[1]) and "not an image" in bad[0].reason
    assert batches[1][0].shape[0] == 0 and "no such file" in batches[1][2][0].reason
