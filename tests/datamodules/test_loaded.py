"""A Hugging Face object as data: the images and labels that plain indexing gives, in splits cut as for a folder."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import build_datamodule, load_dataset
from datamodules.dataset.loaded import Dataset
from tests.support.data import PREPROCESSING
from transfer import build_classifier
from transfer.errors import UserError
from transfer.images.decode import decode_image

COUNT = 40


@pytest.fixture(autouse=True)
def _cache_in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def table(label_feature: object, labels: list, image_column: str = "image", first: int = 0) -> datasets.Dataset:
    pictures = [
        np.random.default_rng(first + i).integers(0, 256, (9, 7, 3), dtype=np.uint8) for i in range(len(labels))
    ]
    return datasets.Dataset.from_dict(
        {image_column: [Image.fromarray(picture) for picture in pictures], "label": labels},
        features=datasets.Features({image_column: datasets.Image(), "label": label_feature}),
    )


def named() -> datasets.Dataset:
    return table(datasets.ClassLabel(names=["zebra", "ant"]), [index % 2 for index in range(COUNT)])


def contents(dataset: Dataset) -> Counter[tuple[bytes, str]]:
    """The pixels and class name of every image of a dataset."""
    return Counter(
        (decode_image(split.encoded(index)).tobytes(), dataset.class_names[int(split.labels[index])])
        for split in dataset.splits.values()
        for index in range(len(split))
    )


def indexed(found: datasets.Dataset, names: list[str] | None = None) -> Counter[tuple[bytes, str]]:
    """The same of a table, read row by row."""
    rows = [found[index] for index in range(len(found))]
    return Counter(
        (np.asarray(row["image"].convert("RGB")).tobytes(), names[row["label"]] if names else row["label"])
        for row in rows
    )


def test_a_dataset_is_cut_as_a_folder_and_holds_what_indexing_gives() -> None:
    data = load_dataset(named().shuffle(seed=3))
    assert data.class_names == ("zebra", "ant")
    assert min(map(min, data.class_counts.values())) >= 1 and data.split_sizes["train"] >= 28
    assert sorted(data.held_out) == ["test", "val"]
    assert contents(data) == indexed(named(), ["zebra", "ant"])


def test_text_labels_are_natural_sorted() -> None:
    texts = table(datasets.Value("string"), ["10" if index % 2 else "2" for index in range(COUNT)])
    data = load_dataset(texts)
    assert data.class_names == ("2", "10")
    assert contents(data) == indexed(texts)


def test_a_dict_keeps_its_splits() -> None:
    feature = datasets.ClassLabel(names=["a", "b"])
    parts = {
        name: table(feature, [index % 2 for index in range(size)], first=100 * size)
        for name, size in {"train": 12, "validation": 6, "test": 4}.items()
    }
    data = load_dataset(datasets.DatasetDict(parts))
    assert data.split_sizes == {"train": 12, "val": 6, "test": 4} and data.held_out == {}
    for ours, theirs in {"train": "train", "val": "validation", "test": "test"}.items():
        split = data.splits[ours]
        assert split.labels.tolist() == parts[theirs]["label"][:]
        for index in range(len(split)):
            assert np.array_equal(decode_image(split.encoded(index)), np.asarray(parts[theirs][index]["image"]))


def test_its_fingerprint_is_that_of_the_same_images_on_disk(tmp_path: Path) -> None:
    named().save_to_disk(tmp_path / "saved")
    saved = load_dataset("folder", data_root=tmp_path / "saved")
    assert load_dataset(named()).fingerprint == saved.fingerprint
    assert load_dataset(named().select(range(38))).fingerprint != saved.fingerprint


def test_a_format_or_transform_of_the_object_does_not_matter() -> None:
    plain = load_dataset(named()).fingerprint
    assert load_dataset(named().with_format("torch")).fingerprint == plain
    assert load_dataset(named().with_transform(lambda rows: {"image": rows["image"]})).fingerprint == plain


def test_it_gives_batches() -> None:
    other = table(datasets.ClassLabel(names=["a", "b"]), [index % 2 for index in range(COUNT)], image_column="photo")
    with pytest.raises(UserError, match=r"Dataset: none of the columns photo, label .*`image_column`"):
        load_dataset(other)
    data = build_datamodule(other, preprocessing=PREPROCESSING, image_column="photo", num_workers=0, batch_size=8)
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (8, 32, 32, 3) and images.dtype == torch.uint8 and labels.shape == (8,)
    assert data.num_classes == 2 and data.state_dict()["dataset"] == "loaded"


def test_other_objects_and_a_data_root_beside_it_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"`data` is a IterableDataset \(allowed: .* datasets.Dataset or DatasetDict"):
        load_dataset(named().to_iterable_dataset())
    with pytest.raises(UserError, match=r"`data` is a list"):
        build_datamodule([named()], preprocessing=PREPROCESSING)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the images are in the object"):
        load_dataset(named(), data_root=tmp_path)


# --- grey images


def test_grey_images_are_lumas_and_normalised_by_one_mean() -> None:
    grey = PREPROCESSING.grey()
    assert grey.mean == (pytest.approx(0.449),) and grey.std == (pytest.approx(0.226),)
    colour = build_datamodule(named(), preprocessing=PREPROCESSING, num_workers=0)
    data = build_datamodule(named(), preprocessing=grey, num_workers=0)
    images, _ = next(iter(data.val_dataloader()))
    colours, _ = next(iter(colour.val_dataloader()))
    assert images.shape == (data.dataset.split_sizes["val"], 32, 32, 1) and images.dtype == torch.uint8
    expected = (colours.double() * torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)).sum(-1, keepdim=True)
    assert (images.double() - expected).abs().max() <= 0.51
    normalised = data.normalize(images)
    assert normalised.shape == (len(images), 1, 32, 32)
    torch.testing.assert_close(normalised[:, 0], (images[..., 0].float() / 255 - grey.mean[0]) / grey.std[0])


@pytest.mark.parametrize("augment", ["none", "basic", "randaugment", "trivialaugment", "autoaugment", "cutout"])
def test_every_augmentation_makes_grey_images(augment: str) -> None:
    data = build_datamodule(named(), preprocessing=PREPROCESSING.grey(), augment=augment, num_workers=0)
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (32, 32, 32, 1)
    if augment == "cutout":  # a square of 16 pixels, mostly inside the image
        assert (images == int(255 * 0.449)).flatten(1).float().mean(1).median() > 0.1


def test_grey_files_stay_as_they_are(tmp_path: Path) -> None:
    for label in "ab":
        for index in range(10):
            path = tmp_path / label / f"{index}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((32, 32), 20 * index, np.uint8)).save(path)
    preprocessing = replace(PREPROCESSING.grey(), crop_ratio=1.0)
    data = build_datamodule("folder", data_root=tmp_path, preprocessing=preprocessing, augment="none", num_workers=0)
    images, _ = next(iter(data.train_dataloader()))
    assert {int(value) for value in images.unique()} <= set(range(0, 200, 20))


def test_a_transform_of_the_users_own_makes_the_networks_channels() -> None:
    options = {"preprocessing": PREPROCESSING.grey(), "num_workers": 0}
    with pytest.raises(UserError, match=r"shape \(32, 32, 3\).*allowed: .*\(32, 32, 1\)"):
        build_datamodule(named(), eval_transform=lambda pixels: np.zeros((32, 32, 3), np.uint8), **options)
    data = build_datamodule(named(), eval_transform=lambda pixels: np.full((32, 32, 1), 7, np.uint8), **options)
    assert data.normalize(next(iter(data.val_dataloader()))[0]).shape[1:] == (1, 32, 32)


def test_a_classifier_of_one_channel_says_so() -> None:
    classifier = build_classifier("lite0", 2, pretrained=False, in_channels=1).eval()
    data = build_datamodule(named(), preprocessing=classifier.preprocessing, image_size=32, num_workers=0)
    images, _ = next(iter(data.val_dataloader()))
    assert classifier(data.normalize(images)).shape == (len(images), 2)


def test_two_channels_are_refused() -> None:
    with pytest.raises(UserError, match="mean and std of 2 channels"):
        build_datamodule("digits", preprocessing=replace(PREPROCESSING, mean=(0.5, 0.5), std=(0.5, 0.5)))
