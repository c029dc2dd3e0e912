"""What a bundle says of itself: `model.json` as dataclasses, sealed by a digest of its own text."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from transfer.bundle.member import Data, Member
from transfer.errors import DamagedFile, printable
from transfer.files import read_object, write_text
from transfer.images.depth import Decoding
from transfer.images.prepare import read_preprocessing
from transfer.preprocessing import Preprocessing
from transfer.records import Interval, checked

MODEL = "model.json"
TENSORS = "model.safetensors"
SCHEMA_VERSION = 1

# How files become pixels before `preprocessing`, for who writes a reader of his own; `transfer.images.decode` does it.
READING = {
    "orientation": "turned upright by EXIF",
    "transparency": "composited over white",
    "animation": "the first frame",
    "colours": "converted to 8-bit RGB by Pillow; no colour profile is applied",
    "deep images": "integer_range and float_range say which values become 0 and 255, linearly; without integer_range"
    " 0 and 65535; without float_range such images are refused",
    "resizing": "antialiased as by Pillow, to floor(image_size / crop_ratio); the other side is rounded down",
    "crop": "the central square; half a pixel is rounded to even",
    "grey": "where mean has one value: Pillow's conversion to L (ITU-R 601) after the crop",
    "normalisation": "(value / 255 - mean) / std in float32",
}


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """How sure its answers are; all of it is in `calibration.safetensors`.

    Attributes:
        num_images: images of val that it was measured on.
        ece_before, ece_after: expected calibration error in [0, 1] without the temperature, and with it, cross-fitted.
    """

    num_images: int
    ece_before: float
    ece_after: float


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What 8 bits cost on val.

    Attributes:
        float32, accuracy: share of the images that float32 and the format answer rightly, in [0, 1]; with several
            labels per image, share of the labels.
        drop: float32's minus the format's, with its 95% interval over the same images.
    """

    float32: float
    accuracy: float
    drop: float
    interval: Interval

    def __str__(self) -> str:
        change, low, high = (f"{-100 * share:+z.2f}" for share in (self.drop, self.interval.high, self.interval.low))
        return (
            f"{100 * self.accuracy:.2f}% rightly, float32 {100 * self.float32:.2f}%: {change} points (95% interval"
            f" {low} to {high})"
        )


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How close a format comes to the float32 PyTorch classifier, from decoded images to logits.

    Attributes:
        images: `val`, or `golden` for the golden inputs alone.
        num_images: how many.
        num_seen: how many of them a network was trained on: all where a probe's last fit took val, too.
        largest_difference: of logits.
        relative_difference: the same, as a share of the largest logit.
        same_top1: share of the images with the same most probable class.
        milliseconds: time per image, by batch size.
        cpu: processor that took this time, and its threads.
        parts: for 8 bits, what is in them; see `transfer.bundle.eight_bits.parts_in_8_bits`.
        loss: for 8 bits, what they cost.
    """

    images: Literal["val", "golden"]
    num_images: int
    num_seen: int
    largest_difference: float
    relative_difference: float
    same_top1: float
    milliseconds: dict[str, float]
    cpu: str
    parts: Literal["weights", "weights and activations"] | None = None
    loss: Loss | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """The content of `model.json`.

    Attributes:
        name: of the model, such as `photos_lite0`.
        members: the networks whose probabilities are averaged, in the order of their features; most often one.
        class_names: in the order of the logits.
        multilabel: whether an image may have several labels.
        threshold: probability from which on such a label is given.
        temperature: what logits are divided by before they become probabilities.
        separator: between the labels of an image in CSV.
        preprocessing: how images are prepared.
        max_pixels: images with more are refused.
        reading: in words, how files become pixels.
        metrics, intervals: by split; of several members, of their average on the splits that they have in common.
        golden: what the golden inputs are: `photos` of val, or `noise`.
        formats: those that the bundle holds, and how close each comes.
        calibration: what val says about its answers; None where it was not calibrated on val.
        versions: of Python and the packages that wrote the bundle.
        git_commit: of this project.
        files: every other file of the bundle, with its SHA-256.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    members: tuple[Member, ...]
    class_names: tuple[str, ...]
    multilabel: bool
    threshold: float
    temperature: float
    separator: str
    preprocessing: Preprocessing
    max_pixels: int
    reading: dict[str, str] = field(default_factory=lambda: dict(READING))
    metrics: dict[str, dict[str, float]]
    intervals: dict[str, dict[str, Interval]]
    golden: Literal["photos", "noise"]
    formats: dict[str, Agreement]
    calibration: Calibrated | None
    versions: dict[str, str | None]
    git_commit: str | None
    files: dict[str, str] = field(default_factory=dict)

    @property
    def decoding(self) -> Decoding:
        """How image files become pixels."""
        return Decoding.of(self.preprocessing, self.max_pixels)

    @property
    def data(self) -> Data:
        """What the first member was trained on; all have the same images, though perhaps cut into other splits."""
        return self.members[0].data

    @property
    def num_parameters(self) -> int:
        """Parameters of all members."""
        return sum(member.network.num_parameters for member in self.members)

    @property
    def label_threshold(self) -> float | None:
        """Probability from which on a label is given; None where an image has one."""
        return self.threshold if self.multilabel else None


def write_record(folder: Path, record: Record) -> None:
    """Write `model.json` into a bundle's folder, with the digest of its text as the last entry."""
    content = asdict(checked(asdict(record), Record, folder / MODEL))  # as it will be read: 1.0 in place of 1
    write_text(folder / MODEL, _text({**content, "digest": _digest(content)}))


def read_record(path: Path) -> Record:
    """Return the content of a `model.json`.

    Raises:
        MissingData: there is no such file.
        DamagedFile: it is of a newer version, was changed since it was written, or holds what it may not.
    """
    content = read_object(path)
    version = content.get("schema_version")
    if type(version) is not int or version > SCHEMA_VERSION:
        raise DamagedFile(
            f"{path}: schema version {printable(repr(version))[:40]} (readable here: at most {SCHEMA_VERSION}); update"
            " efficientnet-transfer"
        )
    sealed = dict(content)
    if sealed.pop("digest", None) != _digest(sealed) or path.read_bytes() != _text(content).encode():
        raise DamagedFile(f"{path}: changed since it was written: it has another digest; export or copy it again")
    record = checked(sealed, Record, path)
    read_preprocessing(asdict(record.preprocessing), path)
    for name in record.files:
        if not is_safe_name(name):
            raise DamagedFile(f"{path}: {printable(name)!r} is no file inside the bundle")
    temperatures = (record.temperature, *(member.temperature for member in record.members))
    within = 0 <= record.threshold <= 1 and all(0 < one < float("inf") for one in temperatures)
    if not (within and record.max_pixels > 0 and record.class_names and record.members):
        raise DamagedFile(f"{path}: no classes or networks, or a threshold, temperature or max_pixels that cannot be")
    return record


def is_safe_name(name: str) -> bool:
    """Return whether a name is a relative path of plain parts, on any system."""
    parts = PurePosixPath(name).parts
    plain = name.isprintable() and not set(name) & set('\\:*?"<>|')
    return plain and "/".join(parts) == name and name not in ("", ".", MODEL) and not {"/", ".."} & set(parts)


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(_text(content).encode()).hexdigest()
