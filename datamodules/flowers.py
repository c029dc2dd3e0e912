"""Oxford Flowers-102: flowers common in the United Kingdom.

Contents: 8,189 photographs, 40 to 258 per class.
Splits: the official train 1,020, val 1,020 (10 per class each) and test 6,149 (20 to 238 per class).
    Published results train on train + val = 2,040 after choosing on val; mirrors that swap train and test, or
    cut anew, are common.
Classes: 102, in the official order of the ids.
Licence: none stated by the copies on the hub.
Citation: M.-E. Nilsback and A. Zisserman, "Automated Flower Classification over a Large Number of Classes", 2008.
Published accuracy (EfficientNet paper, Table 5): 98.5 % (B5), 98.8 % (B7).
Metric: mean per class in the literature that the paper follows; whether the paper's own is that too is not said.
"""

from __future__ import annotations

from typing import ClassVar

from datamodules.base import TransferDataModule


class FlowersDataModule(TransferDataModule):
    """Flowers-102, as `dpdl-benchmark/oxford_flowers102`: official splits and order, in 3.4 GB."""

    name = "flowers"
    hub_id = "dpdl-benchmark/oxford_flowers102"
    hub_revision = "544b55c9af69a05742ead7571cd7ae23cfcd758b"
    split_names: ClassVar = {"train": "train", "val": "validation", "test": "test"}
    num_examples: ClassVar = {"train": 1_020, "val": 1_020, "test": 6_149}
    num_classes = 102
    metric = "mean_per_class"
