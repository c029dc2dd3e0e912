"""Images decoded and resized once: in shared memory, or in a file that all workers, processes and runs map into memory.

An image is stored as evaluation resizes it before the crop, or unchanged where that would enlarge it. So evaluation
reads the same pixels with and without a cache, to the bit. Training, and every transform of the user's own, gets the
resized image: small crops of it are less sharp than those of the original.

A file's name depends on everything its pixels depend on: content and order of the encoded images, the resizing, and
Pillow's release. The file holds `_header`, a checksum of 64 bits (XXH3) for each image, then uint8 RGB pixels, image
after image. It gets its name only when it is complete; every process compares each image with its checksum once.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
import torch
from numpy.typing import NDArray

from datamodules.dataset.split import Split
from datamodules.loading.image_cache import ImageCache, checksum
from transfer.errors import BadValue, DamagedFile, unknown_name
from transfer.files import default_cache_dir, reserve
from transfer.images.decode import (
    BadImage,
    BadImageError,
    Pixels,
    decode_image,
    image_shape,
    read_encoded,
)
from transfer.images.resizing import Resize
from transfer.locks import held
from transfer.progress import track

CACHES = ("none", "ram", "disk")
# Changes with the layout of the file and with what is done to an image before it is stored.
_VERSION = 2
_MEMORY_STATUS = Path("/proc/meminfo")
_SHARED_MEMORY = Path("/dev/shm")

T = TypeVar("T")


def check_cache(cache: str) -> None:
    """Check that the name is one of `CACHES`.

    Raises:
        BadValue: it is not; the text lists the names.
    """
    if cache not in CACHES:
        raise unknown_name("cache", cache, CACHES)


def build_cache(split: Split, resize: Resize, cache: str, cache_dir: Path | None = None) -> ImageCache:
    """Return the resized images of a split, from `cache_dir` if they are there.

    Otherwise all cores build them now, while other processes that want the same file wait. Every encoded image is read
    in either case, to find out whether it has changed.

    Args:
        split: the images.
        resize: evaluation's resizing; images that it would enlarge are stored unchanged.
        cache: `ram` for memory that this process shares with its workers, or `disk`.
        cache_dir: folder for `disk`; None is `default_cache_dir()`.

    Raises:
        UserError: an image cannot be read (the text names it), space or memory runs short, or the folder cannot be
            written.
    """
    digest, shapes = _survey(split, resize)
    total = int(3 * shapes.prod(axis=1).sum())
    if cache == "ram":
        return _build_in_memory(split, resize, shapes, total)
    folder = default_cache_dir() if cache_dir is None else cache_dir
    kind = "squash" if resize.squash else "short"
    path = folder / f"{re.sub(r'[^A-Za-z0-9.]+', '_', split.name)[-60:]}-{resize.size}-{kind}-{digest}.images"
    header = _header(digest)
    size = len(header) + 8 * len(shapes) + total
    if not _is_complete(path, header, size):
        with _explain(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with held(path.with_name(f"{path.name}.lock")):
                if not _is_complete(path, header, size):
                    _build_file(path, split, resize, shapes, header, size)
    checksums = np.fromfile(path, np.uint64, len(shapes), offset=len(header))
    return ImageCache(path, len(header) + checksums.nbytes, shapes, checksums)


def _header(digest: str) -> bytes:
    return f"EfficientNet image cache {_VERSION} {digest}\n".encode()


def _is_complete(path: Path, header: bytes, size: int) -> bool:
    try:
        with path.open("rb") as file:
            return path.stat().st_size == size and file.read(len(header)) == header
    except OSError:
        return False


def _survey(split: Split, resize: Resize) -> tuple[str, NDArray[np.int64]]:
    """Return a digest of everything the pixels depend on, 128 bits in hex, and every image's shape in the cache."""

    def look(index: int) -> tuple[bytes, tuple[int, int]]:
        encoded = read_encoded(split.encoded(index))
        height, width = image_shape(encoded, split.decoding.max_pixels)
        return hashlib.blake2b(encoded, digest_size=16).digest(), resize.shrunk_shape(height, width)

    seen = _map_images(split, look, f"reading {split.name}")
    settings = f"{_VERSION} {PIL.__version__} {resize.size} {resize.resample.name} {resize.squash}"
    settings += f" {split.decoding.integer_range} {split.decoding.float_range}"
    digest = hashlib.blake2b(settings.encode(), digest_size=16)
    for content, _ in seen:
        digest.update(content)
    return digest.hexdigest(), np.array([shape for _, shape in seen], dtype=np.int64).reshape(-1, 2)


def _build_file(path: Path, split: Split, resize: Resize, shapes: NDArray[np.int64], header: bytes, size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise BadValue(
            f"{path.parent}: the image cache of {split.name} takes {_gigabytes(size)}, {_gigabytes(free)} are free;"
            " make room, set `cache_dir` to a folder on another disk, or set `cache` to ram or none"
        )
    partial = path.with_suffix(".partial")  # also what a killed process left behind: it starts anew
    try:
        with partial.open("wb") as file:
            descriptor = file.fileno()
            reserve(file, size)
            checksums = np.zeros(len(shapes), np.uint64)
            start = len(header) + checksums.nbytes

            def write(index: int, position: int, pixels: Pixels) -> None:
                checksums[index] = checksum(pixels)
                _write_all(descriptor, pixels.tobytes(), start + position)

            _write_images(split, resize, shapes, write)
            _write_all(descriptor, header + checksums.tobytes(), 0)
            os.fsync(descriptor)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _write_all(descriptor: int, content: bytes, position: int) -> None:
    rest = memoryview(content)
    while rest:  # a disk that fills up takes a part first
        written = os.pwrite(descriptor, rest, position)
        rest, position = rest[written:], position + written


def _build_in_memory(split: Split, resize: Resize, shapes: NDArray[np.int64], total: int) -> ImageCache:
    free = _free_memory()
    if free is not None and free < total:
        raise BadValue(
            f"`cache`=ram: the images of {split.name} take {_gigabytes(total)}, {_gigabytes(free)} of memory are"
            f" free (shared memory, {_SHARED_MEMORY}, counts too); set `cache` to disk or none"
        )
    storage = torch.empty(total, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]  # torch's types
    target = storage.numpy()

    def write(index: int, position: int, pixels: Pixels) -> None:
        target[position : position + pixels.size] = pixels.reshape(-1)

    _write_images(split, resize, shapes, write)
    return ImageCache(storage, 0, shapes)


def _free_memory() -> int | None:
    """Return how many bytes shared memory may still take; None where the system does not tell."""
    if not _MEMORY_STATUS.is_file():
        return None
    match = re.search(r"^MemAvailable: +(\d+) kB", _MEMORY_STATUS.read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        return None
    free = 1024 * int(match[1])
    return min(free, shutil.disk_usage(_SHARED_MEMORY).free) if _SHARED_MEMORY.is_dir() else free


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


@contextmanager
def _explain(folder: Path) -> Iterator[None]:
    """Turn what the operating system refuses into a UserError that says what to do."""
    try:
        yield
    except OSError as error:
        raise BadValue(
            f"{folder}: the image cache cannot be written: {(error.strerror or str(error)).lower()};"
            " set `cache_dir` to another folder, or `cache` to none"
        ) from error


def _write_images(
    split: Split, resize: Resize, shapes: NDArray[np.int64], write: Callable[[int, int, Pixels], None]
) -> None:
    """Decode and resize all images, and call `write` with each one's number, first byte and pixels."""
    ends = np.cumsum(3 * shapes.prod(axis=1))

    def store(index: int) -> None:
        pixels = decode_image(split.encoded(index), split.decoding)
        if pixels.shape[:2] != tuple(shapes[index]):
            pixels = resize.whole(pixels)
        write(index, int(ends[index]) - pixels.size, pixels)

    _map_images(split, store, f"caching {split.name}")


def _map_images(split: Split, function: Callable[[int], T], what: str) -> list[T]:
    """Call `function` with every position, in threads; refuse an image that cannot be read by its name."""

    def named(index: int) -> T:
        try:
            return function(index)
        except BadImageError as error:
            raise DamagedFile(
                f"{BadImage(split.image_name(index), str(error))}\n"
                "Repair the image, or set `on_bad_image`=skip to leave bad images out."
            ) from None

    with ThreadPoolExecutor() as pool:
        results = pool.map(named, range(len(split)))
        return list(track(results, what, len(split)))
