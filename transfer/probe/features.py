"""Pooled features of a frozen backbone, computed once: a file that later runs map into memory.

A file is named by what its numbers depend on: the backbone's tensors and structure, content and order of the images,
their preprocessing, and the precision of the computation and of the file. It holds `_header`, int64 labels, then the
features, image after image, and appears under its name only when it is complete.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from filelock import FileLock
from lightning_fabric import Fabric
from torch import Tensor
from tqdm import tqdm

from transfer.errors import DamagedFile, MissingData, UserError
from transfer.networks.classifier import Classifier

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Changes with the layout of the file and with how features are computed.
_VERSION = 1
_HEADER_BYTES = 64  # so that the numbers behind it are aligned


@dataclass(frozen=True)
class Features:
    """Of the images of a split, in the split's order.

    Attributes:
        features: float32 or bfloat16, mapped from a file. Shape: (N, F)
        labels: int64. Shape: (N,)
    """

    features: Tensor
    labels: Tensor


class ImageLoader(Protocol):
    """Batches of (images, labels), in the same order in every iteration."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...

    def __len__(self) -> int: ...

    def positions(self) -> list[int]:
        """Return the position in the split of each image, in order."""


def backbone_digest(classifier: Classifier) -> str:
    """Return 128 bits, in hex, of everything that the backbone computes with."""
    backbone = classifier.backbone
    digest = hashlib.blake2b(f"{backbone.variant} {backbone}".encode(), digest_size=16)
    for module in backbone.modules():
        digest.update(str(getattr(module, "static_size", None)).encode())
    for name, tensor in backbone.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def feature_file(folder: Path, name: str, dtype: str, *depends_on: object) -> Path:
    """Return the file of the features that depend on these values.

    Args:
        folder: the folder of such files.
        name: start of the file's name, for people.
        dtype: `float32` or `bfloat16`.
        depends_on: values whose `repr` differs wherever the features do.
    """
    settings = repr((_VERSION, dtype, *depends_on))
    return folder / f"{name}-{hashlib.blake2b(settings.encode(), digest_size=16).hexdigest()}.features"


def cached_features(
    path: Path,
    num_images: int,
    dtype: str,
    classifier: Classifier,
    build_loader: Callable[[], ImageLoader],
    normalize: Callable[[Tensor], Tensor],
    fabric: Fabric,
) -> Features:
    """Return the features of all images, read from the file; if there is none, each process computes its share.

    Other runs that want the same file wait meanwhile.

    Args:
        path: the file; see `feature_file`.
        num_images: images of all processes together.
        dtype: data type of the file; see `DTYPES`.
        classifier: in eval mode, on the device of `fabric`.
        build_loader: returns this process's loader.
        normalize: makes the loader's images the network's, on the device.
        fabric: launched.

    Raises:
        UserError: a folder that cannot be written, too little space, or a loader that left images out.
    """
    num_features = classifier.backbone.num_features
    size = _HEADER_BYTES + num_images * (8 + num_features * DTYPES[dtype].itemsize)
    header = f"EfficientNet features {_VERSION} {dtype} {num_images} {num_features}\n".encode().ljust(_HEADER_BYTES)
    partial = path.with_suffix(".partial")  # also what a killed process left behind: it starts anew
    with _explain(path.parent), _alone(path, fabric):
        if not fabric.broadcast(_is_complete(path, header, size)):
            if fabric.global_rank == 0:
                _make_room(partial, header, size)
            fabric.barrier()
            seen = _write(
                _map(partial, num_images, num_features, dtype, "r+"), classifier, build_loader(), normalize, fabric
            )
            total = int(fabric.all_reduce(torch.tensor(seen, device=fabric.device), reduce_op="sum"))  # type: ignore[arg-type]
            if total != num_images:
                raise UserError(f"{path.name}: {total} of {num_images} images came from the loader")
            if fabric.global_rank == 0:
                with partial.open("rb") as file:
                    os.fsync(file.fileno())
                partial.replace(path)
            fabric.barrier()
    return _map(path, num_images, num_features, dtype, "c")


def read_features(path: Path) -> Features:
    """Return the features in a file of `cached_features`, mapped into memory.

    Raises:
        UserError: there is no such file, or another one.
    """
    try:
        with path.open("rb") as file:
            words = file.read(_HEADER_BYTES).decode(errors="replace").split()
    except OSError as error:
        raise MissingData(
            f"{path}: {(error.strerror or str(error)).lower()}; efficientnet-transfer probe computes it"
        ) from None
    if words[:3] != ["EfficientNet", "features", str(_VERSION)]:
        raise DamagedFile(f"{path}: not a file of features")
    return _map(path, int(words[4]), int(words[5]), words[3], "c")


def _is_complete(path: Path, header: bytes, size: int) -> bool:
    try:
        with path.open("rb") as file:
            return path.stat().st_size == size and file.read(len(header)) == header
    except OSError:
        return False


@contextmanager
def _alone(path: Path, fabric: Fabric) -> Iterator[None]:
    """Hold the lock in the first process, for all processes of the run."""
    if fabric.global_rank > 0:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        yield


@contextmanager
def _explain(folder: Path) -> Iterator[None]:
    """Turn what the operating system refuses into a mistake with a way out; a full disk stays as it is."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{folder}: the features cannot be written: {(error.strerror or str(error)).lower()}; pass `cache_dir`=DIR"
        ) from error


def _make_room(partial: Path, header: bytes, size: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if free < size:
        raise UserError(
            f"{partial.parent}: the features take {size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; make room, pass"
            " `cache_dir`=DIR on another disk, or `feature_dtype`=bfloat16"
        )
    partial.unlink(missing_ok=True)  # a process of a killed run may still hold it
    with partial.open("wb") as file:
        file.write(header)
        file.truncate(size)


def _map(path: Path, num_images: int, num_features: int, dtype: str, mode: Any) -> Features:
    # "c" is copy on write: torch wants memory that it may write to.
    labels = np.memmap(path, np.int64, mode, _HEADER_BYTES, (num_images,))
    start = _HEADER_BYTES + labels.nbytes
    raw = np.memmap(path, np.uint8, mode, start, (num_images, num_features * DTYPES[dtype].itemsize))
    return Features(torch.from_numpy(raw).view(DTYPES[dtype]), torch.from_numpy(labels))


@torch.inference_mode()
def _write(
    target: Features,
    classifier: Classifier,
    loader: ImageLoader,
    normalize: Callable[[Tensor], Tensor],
    fabric: Fabric,
) -> int:
    """Fill in this process's images, and return how many there were."""
    positions = torch.tensor(loader.positions(), dtype=torch.int64)
    seen = 0
    for images, labels in tqdm(
        loader, desc="features", delay=3, leave=False, disable=True if fabric.global_rank > 0 else None
    ):
        with fabric.autocast():
            maps = classifier.forward_features(normalize(images.to(fabric.device, non_blocking=True)))
            features = classifier.forward_head(maps, pre_logits=True)
        mine = positions[seen : seen + len(labels)]
        target.features[mine] = features.to("cpu", target.features.dtype)
        target.labels[mine] = labels
        seen += len(labels)
    return seen
