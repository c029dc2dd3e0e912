"""A network on its way between code bases: its tensors, and in the file's header what tensors do not say.

The header holds padding, BatchNorm epsilon, normalisation, image size and classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from transfer.errors import BadValue, MissingData
from transfer.files import written_whole
from transfer.networks.rows import Variant
from transfer.preprocessing import Preprocessing
from transfer.seen_images import KEY
from transfer.weights.files import TRAINED_LIKE
from transfer.weights.integrity import DIGEST, digest
from transfer.weights.rows import WeightsRow

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class PortableNetwork:
    """A network's tensors with everything that they do not say themselves.

    Attributes:
        state: the tensors, under the names of `Classifier`.
        variant: the table row or scaled network that has these tensors.
        like: the row or family it was trained like, whose settings say padding, BatchNorm constants and activation.
        preprocessing: how its images are prepared.
        head: a name in HEADS or an import path; None: a backbone alone.
        class_names: in the order of the logits; None: unknown.
        multilabel: whether an image has several labels; None: unknown.
        trained_images: the text of its `SeenImages`; None: unknown.
        assumes_preprocessing: whether `preprocessing` is only what its family usually does.
    """

    state: dict[str, Tensor]
    variant: Variant
    like: WeightsRow
    preprocessing: Preprocessing
    head: str | None
    class_names: tuple[str, ...] | None = None
    multilabel: bool | None = None
    trained_images: str | None = None
    assumes_preprocessing: bool = False

    @property
    def num_classes(self) -> int:
        """Number of outputs of the head; 0 without one."""
        if self.class_names is not None:
            return len(self.class_names)
        return next((len(self.state[key]) for key in ("head.fc.weight", "head.weight") if key in self.state), 0)

    @property
    def in_channels(self) -> int:
        """Number of channels of the images."""
        return self.state["backbone.stem.conv.weight"].shape[1]

    def metadata(self) -> dict[str, str]:
        """Return the header of its file."""
        preprocessing = {name: value for name, value in asdict(self.preprocessing).items() if value is not None}
        entries: dict[str, str | None] = {
            "format": "pt",
            TRAINED_LIKE: self.like.name,
            "backbone": self.variant.name,
            "preprocessing": None if self.assumes_preprocessing else json.dumps(preprocessing),
            "head": self.head,
            "class_names": None if self.class_names is None else json.dumps(self.class_names, ensure_ascii=False),
            "multilabel": None if self.multilabel is None else json.dumps(self.multilabel),
            KEY: self.trained_images,
        }
        return {name: text for name, text in entries.items() if text is not None}


def describe_preprocessing(preprocessing: Preprocessing, in_channels: int) -> str:
    """Return how to prepare an image, in words."""
    if in_channels == len(preprocessing.mean):
        channels = "RGB" if in_channels == 3 else "grey"
    else:
        channels = f"{in_channels} channels (mean and std below are those of RGB: adapt them)"
    size = preprocessing.image_size
    resized = math.floor(size / preprocessing.crop_ratio)
    what = "the short side" if preprocessing.resize == "short_side" else "both sides, whatever the shape,"
    ranges = {"integers": preprocessing.integer_range, "floats": preprocessing.float_range}
    deep = "".join(f"{known[0]:g}..{known[1]:g} of deep {kind} to 0..255; " for kind, known in ranges.items() if known)
    return (
        f"{channels}; {deep}resize {what} to {resized} px ({preprocessing.interpolation}, antialiased); crop the"
        f" central {size} x {size} px; scale to 0..1; subtract mean {_rgb(preprocessing.mean)} and divide by std"
        f" {_rgb(preprocessing.std)}"
        f" (crop ratio {preprocessing.crop_ratio:.4g})"
    )


def _rgb(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def check_destination(dest: Path, overwrite: bool) -> None:
    """Refuse a path that `save_tensors` could not or should not write.

    Args:
        dest: the file to write.
        overwrite: whether it may replace a file.

    Raises:
        MissingData: its folder does not exist.
        BadValue: another suffix, a folder, or a file that exists already.
    """
    if dest.suffix != SUFFIX:
        raise BadValue(f"{dest}: only {SUFFIX} files are written; call it {dest.with_suffix(SUFFIX)}")
    if not dest.parent.is_dir():
        raise MissingData(f"{dest}: no such folder {dest.parent}; make it first")
    if dest.is_dir():
        raise BadValue(f"{dest} is a folder; give a file's name")
    if dest.exists() and not overwrite:
        raise BadValue(f"{dest} exists; `overwrite` replaces it")


def save_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], dest: Path) -> None:
    """Write a safetensors file whole or not at all, with the digest of its content in its header.

    Raises:
        OSError: the disk is full or refuses the file.
    """
    with written_whole(dest) as file:
        file.write(save(dict(tensors), {**metadata, DIGEST: digest(tensors, metadata)}))
