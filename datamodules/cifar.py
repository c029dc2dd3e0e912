"""CIFAR-10 and CIFAR-100: 60,000 colour images of 32x32 pixels each.

Contents: everyday objects; 6,000 images per class in CIFAR-10, 600 in CIFAR-100 (its 100 fine classes; the 20
    coarse ones are not used). 14 training images of CIFAR-100 are exact duplicates.
Splits: train 45,000, val 5,000, test 10,000. The official train split has 50,000 images; val is cut from it,
    stratified, the same in every run, because there is no official one. Test is the official test.
Classes: 10 and 100, in the official order. The hub's card spells CIFAR-100's class 26 (crab) `cra`.
Licence: none stated; the images come from the 80 Million Tiny Images collection.
Citation: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
Published accuracy (EfficientNet paper, Table 5): CIFAR-10 98.1 % (B0), 98.9 % (B7); CIFAR-100 88.1 % (B0), 91.7 % (B7).
"""

from __future__ import annotations

from typing import ClassVar

from datamodules.base import TransferDataModule


class CIFAR10DataModule(TransferDataModule):
    """CIFAR-10, as `uoft-cs/cifar10`."""

    name = "cifar10"
    hub_id = "uoft-cs/cifar10"
    hub_config = "plain_text"
    hub_revision = "0b2714987fa478483af9968de7c934580d0bb9a2"
    default_image_column = "img"
    num_examples: ClassVar = {"train": 50_000, "test": 10_000}
    num_classes = 10
    val_size = 5_000


class CIFAR100DataModule(TransferDataModule):
    """CIFAR-100 with its fine labels, as `uoft-cs/cifar100`."""

    name = "cifar100"
    hub_id = "uoft-cs/cifar100"
    hub_config = "cifar100"
    hub_revision = "aadb3af77e9048adbea6b47c21a81e47dd092ae5"
    default_image_column = "img"
    default_label_column = "fine_label"
    num_examples: ClassVar = {"train": 50_000, "test": 10_000}
    num_classes = 100
    val_size = 5_000
