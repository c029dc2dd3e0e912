"""Files and bytes into pixels: every image enters here, as uint8 RGB, or is refused with its reason."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from transfer.errors import UserError

# What the network reads: any other file beside the images (Thumbs.db, labels.txt) is counted, never decoded.
IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
_IGNORED_FOLDERS = frozenset({"__MACOSX"})


class BadImageError(UserError):
    """An image that cannot be decoded faithfully; the text is the reason, in one line."""


@dataclass(frozen=True)
class BadImage:
    """What a loader worker returns in place of pixels, so that the main process can name the file.

    Args:
        name: the file's path, or the dataset row it came from.
        reason: why it was refused, in one line.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def decode_image(source: bytes | Path) -> NDArray[np.uint8]:
    """The picture as a person sees it: upright, over white where it is transparent, first frame if animated.

    Args:
        source: the encoded bytes, or the file that holds them.

    Shape:
        (H, W, 3), uint8, RGB.

    Raises:
        BadImageError: missing, empty, truncated, not an image, too large to be one, or of unknown value range.
    """
    encoded = _read(source)
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
    except BadImageError:
        raise
    except UnidentifiedImageError:
        raise BadImageError(f"not an image ({len(encoded)} bytes starting {encoded[:8]!r})") from None
    except Exception as error:  # on broken files Pillow's plugins raise OSError, SyntaxError, struct.error, ...
        raise BadImageError(" ".join(str(error).split()) or type(error).__name__) from error


def _read(source: bytes | Path) -> bytes:
    if isinstance(source, Path):
        try:
            source = source.read_bytes()
        except OSError as error:
            raise BadImageError((error.strerror or str(error)).lower()) from error
    if not source:
        raise BadImageError("empty (0 bytes)")
    return source


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise BadImageError("floating-point pixels have no known range; save the image with 8 or 16 bits")
    if image.mode.startswith("I"):
        return _sixteen_bits_to_rgb(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def _sixteen_bits_to_rgb(image: Image.Image) -> Image.Image:
    # Pillow's own convert() clips 16-bit values at 255, which turns an X-ray into a white sheet.
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadImageError(f"pixel values {values.min()}..{values.max()} exceed 16 bits; save with 8 or 16 bits")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")


def natural_key(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """A sort key that reads digits as numbers, so that `2` comes before `10`; the text itself breaks ties."""
    parts = re.split(r"([0-9]+)", text.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part], text


def walk_files(folder: Path) -> Iterator[Path]:
    """Every file under `folder`, natural-sorted per folder; links are followed, hidden names are left out."""
    seen: set[str] = set()  # a link to a folder above would lead round in circles
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders[:] = []
            continue
        seen.add(real)
        visible = (name for name in folders if not name.startswith(".") and name not in _IGNORED_FOLDERS)
        folders[:] = sorted(visible, key=natural_key)
        yield from (Path(parent, name) for name in sorted(files, key=natural_key) if not name.startswith("."))


def is_image(path: Path) -> bool:
    """Whether the file name ends like an image's, in upper or lower case."""
    return path.suffix.lower() in IMAGE_EXTENSIONS


def list_images(path: Path) -> list[Path]:
    """The image files at `path`: itself if it is a file, otherwise all below it, natural-sorted.

    Raises:
        UserError: nothing there, or a folder without images.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"no such file or folder: {path}")
    images = [file for file in walk_files(path) if is_image(file)]
    if not images:
        raise UserError(f"no image in {path} or below it; image files end in {', '.join(sorted(IMAGE_EXTENSIONS))}")
    return images
