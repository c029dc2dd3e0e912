"""Food-101: dishes photographed by their eaters.

Contents: 101,000 photographs, 750 per class in train and 250 in test; the training labels are noisy on
    purpose. 34 training images are exact duplicates.
Splits: train 68,175, val 7,575, test 25,250. The official train split has 75,750 images; val is a tenth of it
    (75 per class), the same in every run, because there is no official one. Test is the official test, which
    the hub calls `validation`.
Classes: 101, in the order of the archive's classes.txt; torchvision's order swaps cheesecake and cheese_plate.
Licence: the images belong to their photographers; use beyond scientific fair use must be negotiated with them.
Citation: L. Bossard et al., "Food-101 - Mining Discriminative Components with Random Forests", 2014.
Published accuracy (EfficientNet paper, Table 5): 91.5 % (B4), 93.0 % (B7).
"""

from __future__ import annotations

from typing import ClassVar

from datamodules.base import TransferDataModule


class Food101DataModule(TransferDataModule):
    """Food-101, as `ethz/food101` (5 GB)."""

    name = "food101"
    hub_id = "ethz/food101"
    hub_revision = "e06acf2a88084f04bce4d4a525165d68e0a36c38"
    split_names: ClassVar = {"train": "train", "test": "validation"}
    num_examples: ClassVar = {"train": 75_750, "test": 25_250}
    num_classes = 101
    val_size = 7_575
