"""The small pictures that a run keeps for its report, as a safetensors file, which is read without running code."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from transfer.errors import DamagedFile
from transfer.files import open_regular, written_whole
from transfer.records import checked
from transfer.run_files import REPORT_PHOTOS

SIDE = 192  # longest side of a picture, in pixels
_FORMAT = "efficientnet-transfer report photos"
_MOST_BYTES = 2**25


@dataclass(frozen=True)
class Facts:
    """What the file says of its pictures.

    Attributes:
        split: the split that the photos are of; None without any.
        map_method: how the class maps were computed; empty without any.
        map_classes: the class that each map shows the evidence for, by the image's index.
        batch_labels: the classes of each training image, in words.
        remarks: why something is missing, in words.
    """

    split: str | None = None
    map_method: str = ""
    map_classes: dict[str, str] = field(default_factory=dict)
    batch_labels: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Photos:
    """JPEG files of a run's photos.

    Attributes:
        facts: what is known of them.
        photos: photos of the split, by the image's index in it.
        maps: the same with a class map on top.
        batch: training images as the network saw them.
    """

    facts: Facts = Facts()
    photos: Mapping[int, bytes] = field(default_factory=dict)
    maps: Mapping[int, bytes] = field(default_factory=dict)
    batch: list[bytes] = field(default_factory=list)

    def save(self, run_dir: Path) -> None:
        """Write the file into a run's folder, whole or not at all."""
        from safetensors.numpy import save

        groups = {"photo": self.photos, "map": self.maps, "batch": dict(enumerate(self.batch))}
        arrays = {
            f"{name}/{index:06}": np.frombuffer(jpeg, np.uint8)
            for name, pictures in groups.items()
            for index, jpeg in pictures.items()
        }
        with written_whole(run_dir / REPORT_PHOTOS) as file:
            file.write(save(arrays, {_FORMAT: json.dumps(asdict(self.facts))}))


def shrink(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return a picture whose longer side is `SIDE`. Shape: (H, W) or (H, W, 3)"""
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    return Image.fromarray(pixels).resize((max(1, round(scale * width)), max(1, round(scale * height))))


def encode_jpeg(picture: Image.Image) -> bytes:
    """Return a picture as a JPEG file."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return file.getvalue()


def read_photos(run_dir: Path) -> Photos | None:
    """Return the pictures that a run kept; None if it kept none.

    Raises:
        DamagedFile: the file is damaged, or another one.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = run_dir / REPORT_PHOTOS
    if not path.exists():
        return None
    with open_regular(path) as file:
        content = file.read(_MOST_BYTES)
    groups: dict[str, dict[int, bytes]] = {"photo": {}, "map": {}, "batch": {}}
    try:
        arrays = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        facts = json.loads(header["__metadata__"][_FORMAT])
        for key, array in arrays.items():
            name, _, index = key.partition("/")
            groups[name][int(index)] = array.astype(np.uint8).tobytes()
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DamagedFile(f"{path}: damaged, or not the photos of a report") from None
    batch = [jpeg for _, jpeg in sorted(groups["batch"].items())]
    return Photos(checked(facts, Facts, path), groups["photo"], groups["map"], batch)
