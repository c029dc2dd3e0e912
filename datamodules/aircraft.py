"""FGVC-Aircraft: aircraft models at the level of variants.

Contents: 10,000 photographs, 33 or 34 per class and split, each with a 20-pixel photographer's banner at the
    bottom, which the authors ask to remove; whether the hub's copy still has it is not known.
Splits: the official train 3,334, val 3,333 and test 3,333. Published results train on train + val = 6,667
    after choosing on val.
Classes: 100 variants, ASCII-sorted from 707-320 to Yak-42.
Licence: non-commercial research only; the photographers keep the copyright.
Citation: S. Maji et al., "Fine-Grained Visual Classification of Aircraft", arXiv:1306.5151, 2013.
Published accuracy (EfficientNet paper, Table 5): 90.7 % (B3), 92.9 % (B7).
Metric: mean per class in the literature that the paper follows; whether the paper's own is that too is not said.
"""

from __future__ import annotations

from typing import ClassVar

from datamodules.base import TransferDataModule


class AircraftDataModule(TransferDataModule):
    """FGVC-Aircraft variants, as `Donghyun99/FGVC-Aircraft`.

    The name of its label column has not been checked against the hub; `--label_column` overrides it.
    """

    name = "aircraft"
    hub_id = "Donghyun99/FGVC-Aircraft"
    hub_revision = "3237e2c15db36fa9016794561b7aae6b49eef9a2"
    split_names: ClassVar = {"train": "train", "val": "val", "test": "test"}
    num_examples: ClassVar = {"train": 3_334, "val": 3_333, "test": 3_333}
    num_classes = 100
    metric = "mean_per_class"
