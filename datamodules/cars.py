"""Stanford Cars: make, model and year of cars.

Contents: 16,185 photographs, 24 to 68 per class in train and in test; 12 training images are exact duplicates.
Splits: train 7,330, val 814, test 8,041. The official train split has 8,144 images; val is a tenth of it,
    stratified, the same in every run, because there is no official one. Test is the official test.
Classes: 196, in the official order, which is not alphabetical.
Licence: none found on the copies; often quoted as for research only. The original host has been gone since 2023.
Citation: J. Krause et al., "3D Object Representations for Fine-Grained Categorization", 2013.
Published accuracy (EfficientNet paper, Table 5): 93.6 % (B3), 94.7 % (B7).
"""

from __future__ import annotations

from typing import ClassVar

from datamodules.base import TransferDataModule


class CarsDataModule(TransferDataModule):
    """Stanford Cars, as `tanganke/stanford_cars`: the original JPEGs (1 GB per split)."""

    name = "cars"
    hub_id = "tanganke/stanford_cars"
    # The repository also holds seven corrupted copies of the test split. Not checked against the hub.
    hub_files: ClassVar = {"train": "data/train-*", "test": "data/test-*"}
    num_examples: ClassVar = {"train": 8_144, "test": 8_041}
    num_classes = 196
    val_size = 814
