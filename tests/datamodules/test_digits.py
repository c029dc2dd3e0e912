"""The shipped digits: the same pixels and labels as scikit-learn's copy, in fixed stratified splits."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from datamodules import load_dataset
from datamodules.datamodule import DataModule
from datamodules.dataset.loaded import Dataset
from tests.support.data import PREPROCESSING
from transfer.errors import UserError
from transfer.images.decode import decode_image


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def test_splits_classes_and_size(digits: Dataset) -> None:
    assert digits.split_sizes == {"train": 1257, "val": 180, "test": 360}
    assert digits.class_names == tuple("0123456789") and digits.num_classes == 10
    assert digits.class_counts["val"] == [18] * 10
    assert digits.sheet.default_image_size == 64
    assert not digits.sheet.horizontal_flip and digits.skipped == []


def test_content_equals_scikit_learn(digits: Dataset) -> None:
    source = load_digits()
    expected = Counter(
        (np.rint(image * 255 / 16).astype(np.uint8).tobytes(), int(label))
        for image, label in zip(source.images, source.target, strict=True)
    )
    found: Counter[tuple[bytes, int]] = Counter()
    for split in digits.splits.values():
        for index in range(len(split)):
            pixels = decode_image(split.encoded(index))
            assert pixels.shape == (8, 8, 3)
            found[pixels[..., 0].tobytes(), int(split.labels[index])] += 1
    assert found == expected and found.total() == 1797


def test_fingerprint_is_fixed(digits: Dataset) -> None:
    assert digits.fingerprint == {
        "train": "34d847e62cbfbac94e48f5134ebde06c",
        "val": "0f9971e85b69c8500a84076e8ac7383f",
        "test": "13fd04cc867c49052edf429d2543aec6",
    }


def test_needs_no_network_and_gives_batches(digits: Dataset) -> None:
    data = DataModule(digits, PREPROCESSING, image_size=64, num_workers=0)
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (64, 64, 64, 3) and images.dtype == torch.uint8
    assert labels.shape == (64,) and labels.dtype == torch.int64
    assert data.normalize(images).shape == (64, 3, 64, 64)


def test_split_column_is_refused() -> None:
    with pytest.raises(UserError, match=r"digits .*split_column"):
        load_dataset("digits", split_column="split")
