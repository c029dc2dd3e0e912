"""Oxford-IIIT Pets: breeds of cats and dogs.

Contents: 7,349 photographs, 93 to 100 per class in train and 88 to 100 in test.
Splits: train 3,312, val 368, test 3,669. The official trainval split has 3,680 images; val is a tenth of it,
    stratified, the same in every run, because there is no official one. Test is the official test; the 3,369
    in the EfficientNet paper's Table 6 is a misprint.
Classes: 37, in the official order, alphabetical without regard to case.
Licence: CC BY-SA 4.0.
Citation: O. M. Parkhi et al., "Cats and Dogs", 2012.
Published accuracy (EfficientNet paper, Table 5): 94.8 % (B4), 95.4 % (B6).
Metric: mean per class in the literature that the paper follows; whether the paper's own is that too is not said.
"""

from __future__ import annotations

from typing import ClassVar

from datamodules.base import TransferDataModule


class PetsDataModule(TransferDataModule):
    """Oxford-IIIT Pets, as `timm/oxford-iiit-pet` (790 MB)."""

    name = "pets"
    hub_id = "timm/oxford-iiit-pet"
    hub_revision = "10b688881011725fa2fa3d856a47536c9a7e6968"
    num_examples: ClassVar = {"train": 3_680, "test": 3_669}
    num_classes = 37
    val_size = 368
    metric = "mean_per_class"
