"""Pooled features of a frozen backbone, computed once: a file that later runs map into memory.

A file is named by what its numbers depend on: the backbone's tensors and structure, content and order of the images,
their preprocessing, the engine that computes and the precision of the file. It holds a header, int64 labels, then the
features, image after image, and appears under its name only when it is complete. The header ends with a digest of what
follows, which is compared whenever the file is opened.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch
import xxhash
from lightning_fabric import Fabric
from torch import Tensor

from transfer.errors import BadValue, DamagedFile, MissingData
from transfer.files import open_regular, reserve, sync_folder
from transfer.locks import held
from transfer.progress import track
from transfer.training.machines import refuse_separate_folders

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Changes with the layout of the file and with how features are computed.
_VERSION = 3
_HEADER_BYTES = 128  # so that the numbers behind it are aligned


@dataclass(frozen=True)
class Features:
    """Of the images of a split, in the split's order.

    Attributes:
        features: float32 or bfloat16, mapped from a file. Shape: (N, F)
        labels: int64. Shape: (N,)
    """

    features: Tensor
    labels: Tensor

    def leading(self, num_features: int) -> Features:
        """Return the same images with the first features alone."""
        return Features(self.features[:, :num_features], self.labels)


class ImageLoader(Protocol):
    """Batches of (images, labels), in the same order in every iteration."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...

    def __len__(self) -> int: ...

    def positions(self) -> list[int]:
        """Return the position in the split of each image, in order."""


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
    num_features: int,
    dtype: str,
    engine: Callable[[Tensor], Tensor],
    build_loader: Callable[[], ImageLoader],
    normalize: Callable[[Tensor], Tensor],
    fabric: Fabric,
) -> Features:
    """Return the features of all images, read from the file; if there is none, each process computes its share.

    Other runs that want the same file wait meanwhile.

    Args:
        path: the file; see `feature_file`.
        num_images: images of all processes together.
        num_features: features of an image.
        dtype: data type of the file; see `DTYPES`.
        engine: makes features, float32, of images on the device of `fabric`.
        build_loader: returns this process's loader.
        normalize: makes the loader's images the network's, on the device.
        fabric: launched.

    Raises:
        UserError: a folder that cannot be written, too little space, or a loader that left images out.
    """
    size = _HEADER_BYTES + num_images * (8 + num_features * DTYPES[dtype].itemsize)
    header = f"EfficientNet features {_VERSION} {dtype} {num_images} {num_features} ".encode()
    partial = path.with_suffix(".partial")  # also what a killed process left behind: it starts anew
    with _explain(path.parent), _alone(path, fabric):
        refuse_separate_folders(path.parent, "cache_dir")
        if not fabric.broadcast(fabric.global_rank == 0 and _is_complete(path, header, size)):
            if fabric.global_rank == 0:
                _make_room(partial, size, dtype)
            fabric.barrier()
            seen = _write(
                _map(partial, num_images, num_features, dtype, "r+"), engine, build_loader(), normalize, fabric
            )
            total = int(fabric.all_reduce(torch.tensor(seen, device=fabric.device), reduce_op="sum"))  # type: ignore[arg-type]
            if total != num_images:
                raise BadValue(f"{path.name}: {total} of {num_images} images came from the loader")
            if fabric.global_rank == 0:
                _complete(partial, header, path)
            fabric.barrier()
    return _map(path, num_images, num_features, dtype, "c")


def read_features(path: Path) -> Features:
    """Return the features in a file of `cached_features`, mapped into memory.

    Raises:
        MissingData: there is no such file.
        DamagedFile: it is another one, or was damaged since it was written.
    """
    try:
        with open_regular(path) as file:
            words = file.read(_HEADER_BYTES).decode(errors="replace").split()
    except MissingData as error:
        raise MissingData(f"{error}; efficientnet-transfer probe computes it") from None
    try:
        dtype, num_images, num_features = words[3], int(words[4]), int(words[5])
        size = _HEADER_BYTES + num_images * (8 + num_features * DTYPES[dtype].itemsize)
    except (IndexError, KeyError, ValueError):
        raise DamagedFile(f"{path}: not a file of features") from None
    header = f"EfficientNet features {_VERSION} {dtype} {num_images} {num_features} ".encode()
    if not _is_complete(path, header, size):
        raise DamagedFile(f"{path}: not a whole file of features; efficientnet-transfer probe computes it again")
    return _map(path, num_images, num_features, dtype, "c")


def _is_complete(path: Path, header: bytes, size: int) -> bool:
    """Return whether a file is there, of this size and with this header, and as it was written."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != size or file.read(len(header)) != header:
                return False
            written = file.read(_HEADER_BYTES - len(header)).strip()
            if written == _digest(file):
                return True
    except OSError:
        return False
    warnings.warn(f"{path}: damaged since it was written: its digest is another", stacklevel=2)
    return False


def _digest(file: IO[bytes]) -> bytes:
    """Return the digest of what follows the header."""
    file.seek(_HEADER_BYTES)
    found = xxhash.xxh3_64()
    while part := file.read(2**24):
        found.update(part)
    return found.hexdigest().encode()


def _complete(partial: Path, header: bytes, path: Path) -> None:
    """Write the header and give the file its name, once all of it is on the disk."""
    with partial.open("r+b") as file:
        whole = header + _digest(file)
        file.seek(0)
        file.write(whole.ljust(_HEADER_BYTES - 1) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


@contextmanager
def _alone(path: Path, fabric: Fabric) -> Iterator[None]:
    """Hold the lock in the first process, for all processes of the run."""
    if fabric.global_rank > 0:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with held(path.with_name(f"{path.name}.lock")):
        yield


@contextmanager
def _explain(folder: Path) -> Iterator[None]:
    """Turn what the operating system refuses into a mistake with a way out; a full disk stays as it is."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            error.filename = error.filename or str(folder)
            raise
        raise MissingData(
            f"{folder}: the features cannot be written: {(error.strerror or str(error)).lower()}; pass `cache_dir`=DIR"
        ) from error


def _make_room(partial: Path, size: int, dtype: str) -> None:
    free = shutil.disk_usage(partial.parent).free
    if free < size:
        raise MissingData(
            f"{partial.parent}: the features take {size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; make room, or pass"
            f" `cache_dir`=DIR on another disk{' or `feature_dtype`=bfloat16' if dtype == 'float32' else ''}"
        )
    partial.unlink(missing_ok=True)  # a process of a killed run may still hold it
    try:
        with partial.open("wb") as file:
            reserve(file, size)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _map(path: Path, num_images: int, num_features: int, dtype: str, mode: Any) -> Features:
    # "c" is copy on write: torch wants memory that it may write to.
    labels = np.memmap(path, np.int64, mode, _HEADER_BYTES, (num_images,))
    start = _HEADER_BYTES + labels.nbytes
    raw = np.memmap(path, np.uint8, mode, start, (num_images, num_features * DTYPES[dtype].itemsize))
    return Features(torch.from_numpy(raw).view(DTYPES[dtype]), torch.from_numpy(labels))


@torch.no_grad()
def _write(
    target: Features,
    engine: Callable[[Tensor], Tensor],
    loader: ImageLoader,
    normalize: Callable[[Tensor], Tensor],
    fabric: Fabric,
) -> int:
    """Fill in this process's images, and return how many there were."""
    positions = torch.tensor(loader.positions(), dtype=torch.int64)
    seen = 0
    for images, labels in track(loader, "features", hidden=fabric.global_rank > 0):
        features = engine(normalize(images.to(fabric.device, non_blocking=True)))
        mine = positions[seen : seen + len(labels)]
        target.features[mine] = features.to("cpu", target.features.dtype)
        target.labels[mine] = labels
        seen += len(labels)
    return seen
