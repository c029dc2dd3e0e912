"""The schema of a run's data: which images and labels are read, how, and how they are augmented and batched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from transfer.preprocessing import MAX_PIXELS

# Fields that concern batches; the others decide how the data are read.
LOADER_FIELDS = (
    *("batch_size", "num_workers", "min_crop_area", "vertical_flip", "quarter_turns", "color_jitter"),
    *("cache", "cache_dir"),
)


@dataclass(kw_only=True)
class DataConfig:
    """Data"""

    batch_size: int = 64
    """images per process and step"""
    num_workers: int | None = None
    """decoders per loader: processes, or on a CPU threads in evaluation; unset: usable cores - 1, at most 8"""
    train_on: Literal["train", "trainval"] = "train"
    """trainval adds val to train, for a final fit once all is chosen; no validation, the final weights are tested"""
    per_class: int | None = None
    """train on so many images of each class, or all of a class with fewer; val and test stay whole"""
    fraction: float | None = None
    """train on this share of each class, at least one image; above 0, at most 1; val and test stay whole"""
    draw: int = 0
    """seed of folds, and of what per_class or fraction takes; the run's seed leaves the data as they are"""
    val_fraction: float = 0.1
    """share of your own data held out for val if it has none; above 0, below 0.5"""
    test_fraction: float = 0.1
    """share of your own data held out for test if it has no splits; above 0, below 0.5"""
    min_crop_area: float | None = None
    """smallest share of the image's area in a random crop, above 0 to 1; unset: the dataset's, 0.08 as in the paper"""
    vertical_flip: bool = False
    """flip half of the training images upside down, for photos without an above and below"""
    quarter_turns: bool = False
    """turn training images by 0, 90, 180 or 270 degrees, for microscopes and cameras that look down"""
    color_jitter: float = 0.0
    """strength of random brightness, contrast, saturation and (a quarter) hue in training, 0: off; typically 0.4"""
    multilabel: bool = False
    """several labels per image; implies --loss.name bce"""
    image_column: str | None = None
    """column of a table that holds the images or their paths; unset: the dataset's own"""
    label_column: str | None = None
    """column of a table with the labels, or a column of 0 and 1 for each label (cat,dog); unset: the dataset's own"""
    split_column: str | None = None
    """column of a table that holds train, val or test for each row"""
    group_column: str | None = None
    """column of a table whose equal values (such as a patient's) stay in one split"""
    label_separator: str = "|"
    """separator between several labels in one cell of a table"""
    folder_layout: Literal["auto", "classes", "splits"] = "auto"
    """what the folders in data_root are: classes, splits (others are left out), or auto: what their names say"""
    cache: Literal["none", "ram", "disk"] = "none"
    """decode and resize each image once, into memory or a file; training crops then come from the resized image"""
    cache_dir: str | None = None
    """folder for cache disk; unset: efficientnet-transfer in XDG_CACHE_HOME, or else in ~/.cache"""
    hub_id: str | None = None
    """owner/name of another copy of a published dataset on the hub, or below data_root"""
    stream: bool = False
    """fetch images from the hub while training, for data too large for the disk; needs 1, 2, 4 or 8 workers"""
    bit_depth: int | None = None
    """bits used in images of more than 8, such as a camera's 12 in a 16-bit file; unset: by the values of all images"""
    metric: Literal["top1", "mean_per_class"] | None = None
    """what your own data are judged by: top1, or mean_per_class, in which every class counts the same, whatever its
    number of images; unset: top1"""
    max_pixels: int = MAX_PIXELS
    """images with more pixels are refused, as an attack on the memory"""
