"""One look at every image of all splits, in parallel: what it is, what it shows in a few bytes, or why it fails.

Needs the package ImageHash (extra `doctor`).
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from datamodules.dataset.split import Split
from datamodules.loading.workers import start_worker
from transfer.images.decode import BadImage, BadImageError, decode_image, open_image, read_encoded
from transfer.images.depth import DEFAULT_DECODING, Decoding
from transfer.progress import track

_THUMBNAIL = 16  # pixels a side; below, different photos of the same kind of scene correlate like copies
_BATCH = 64
_MAX_WORKERS = 8
# Formats whose further frames are other pictures. (A phone's MPO holds a preview or a depth map.)
_ANIMATED = frozenset({"GIF", "WEBP", "PNG", "TIFF"})


@dataclass(frozen=True)
class ImageRecord:
    """What is kept of an image: a kilobyte.

    Args:
        width, height: in pixels, upright.
        format, mode: of the file, in Pillow's words (`JPEG`, `CMYK`).
        num_bytes: of the file.
        frames: more than 1 in an animation or a file with pages.
        mean: of all values of the pixels, 0 to 255.
        std: of the channel that varies most, 0 to 127.5.
        digest: 128 bits of BLAKE2b over size and RGB values, so that a copy in another lossless format has the same.
        perceptual: `imagehash.phash` of 64 bits.
        thumbnail: uint8 (16, 16, 3).
    """

    width: int
    height: int
    format: str
    mode: str
    num_bytes: int
    frames: int
    mean: float
    std: float
    digest: bytes
    perceptual: int
    thumbnail: NDArray[np.uint8]


def inspect_image(source: bytes | Path, decoding: Decoding = DEFAULT_DECODING) -> ImageRecord:
    """Decode an image as training does, and measure it.

    Raises:
        BadImageError: it cannot be decoded.
    """
    import imagehash

    encoded = read_encoded(source)
    pixels = decode_image(encoded, decoding)
    with open_image(encoded, decoding.max_pixels) as file:
        format, mode = file.format or "", file.mode
        frames = getattr(file, "n_frames", 1) if format in _ANIMATED else 1
    height, width = pixels.shape[:2]
    digest = hashlib.blake2b(f"{width}x{height}".encode(), digest_size=16)
    digest.update(pixels.tobytes())
    picture = Image.fromarray(pixels)
    bits = imagehash.phash(picture).hash
    return ImageRecord(
        width=width,
        height=height,
        format=format,
        mode=mode,
        num_bytes=len(encoded),
        frames=frames,
        mean=float(pixels.mean()),
        std=float(pixels.std(axis=(0, 1)).max()),
        digest=digest.digest(),
        perceptual=int.from_bytes(np.packbits(bits).tobytes(), "big"),
        thumbnail=np.asarray(picture.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)),
    )


class InspectionDataset(Dataset[ImageRecord | BadImage]):
    """The records of a split's images, by position; runs in loader workers."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> ImageRecord | BadImage:
        try:
            return inspect_image(self.split.encoded(index), self.split.decoding)
        except BadImageError as error:
            return BadImage(self.split.image_name(index), str(error))


@dataclass
class Inspection:
    """The readable images of all splits, one after another, as columns; and the others by name.

    Args:
        split_names: in the order of the splits.
        split: which of them an image belongs to. Shape: (N,)
        position: of the image in its split. Shape: (N,)
        labels: its label, as hashable as text: equal exactly where the labels are.
        width, height, num_bytes, frames, mean, std: see `ImageRecord`. Shape: (N,)
        format, mode, digest: see `ImageRecord`.
        perceptual: Shape: (N,)
        thumbnails: Shape: (N, 16, 16, 3)
        unreadable: split -> bad images.
    """

    split_names: list[str]
    split: NDArray[np.int8]
    position: NDArray[np.int64]
    labels: list[bytes]
    width: NDArray[np.int64]
    height: NDArray[np.int64]
    num_bytes: NDArray[np.int64]
    frames: NDArray[np.int64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    format: list[str]
    mode: list[str]
    digest: list[bytes]
    perceptual: NDArray[np.uint64]
    thumbnails: NDArray[np.uint8]
    unreadable: dict[str, list[BadImage]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.split)

    @property
    def short_side(self) -> NDArray[np.int64]:
        """The smaller of width and height, in pixels. Shape: (N,)"""
        return np.minimum(self.width, self.height)

    def summary(self) -> dict[str, Any]:
        """Return counts, formats, modes, and quantiles of size (pixels, bytes), brightness and contrast (0 to 255)."""
        columns = {
            "width": self.width,
            "height": self.height,
            "short_side": self.short_side,
            "bytes": self.num_bytes,
            "brightness": self.mean,
            "contrast": self.std,
        }
        names = ("min", "p05", "median", "p95", "max")
        quantiles = {
            name: dict(zip(names, np.quantile(values, (0, 0.05, 0.5, 0.95, 1)).round(1).tolist(), strict=True))
            for name, values in columns.items()
            if len(values)
        }
        formats, modes = (dict(Counter(values).most_common()) for values in (self.format, self.mode))
        return {"readable": len(self), **quantiles, "formats": formats, "modes": modes}


def _usable_cores() -> int:
    # The main process only collects, so no core is left free for it as in training.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MAX_WORKERS)


def inspect_splits(splits: Mapping[str, Split], num_workers: int | None = None) -> Inspection:
    """Inspect every image of all splits in worker processes that read, decode and hash.

    Args:
        splits: by name.
        num_workers: processes; 0 is this one, None one for each usable core, up to 8.
    """
    workers = _usable_cores() if num_workers is None else num_workers
    columns: dict[str, list[Any]] = {name: [] for name in ImageRecord.__dataclass_fields__}
    of_split: list[int] = []
    positions: list[int] = []
    labels: list[bytes] = []
    unreadable: dict[str, list[BadImage]] = {name: [] for name in splits}
    for number, (name, split) in enumerate(splits.items()):
        loader = DataLoader(
            cast("Dataset[Any]", InspectionDataset(split)),
            batch_size=_BATCH,
            num_workers=min(workers, -(-len(split) // _BATCH)),
            collate_fn=list,
            worker_init_fn=start_worker,
        )
        encoded_labels = split.labels.numpy()
        position = -1
        for records in track(loader, f"inspecting {name}"):
            for record in records:
                position += 1
                if isinstance(record, BadImage):
                    unreadable[name].append(record)
                    continue
                of_split.append(number)
                positions.append(position)
                labels.append(encoded_labels[position].tobytes())
                for column, values in columns.items():
                    values.append(getattr(record, column))
    thumbnails = columns["thumbnail"]
    return Inspection(
        split_names=list(splits),
        split=np.array(of_split, np.int8),
        position=np.array(positions, np.int64),
        labels=labels,
        width=np.array(columns["width"], np.int64),
        height=np.array(columns["height"], np.int64),
        num_bytes=np.array(columns["num_bytes"], np.int64),
        frames=np.array(columns["frames"], np.int64),
        mean=np.array(columns["mean"]),
        std=np.array(columns["std"]),
        format=columns["format"],
        mode=columns["mode"],
        digest=columns["digest"],
        perceptual=np.array(columns["perceptual"], np.uint64),
        thumbnails=np.stack(thumbnails) if thumbnails else np.zeros((0, _THUMBNAIL, _THUMBNAIL, 3), np.uint8),
        unreadable=unreadable,
    )
