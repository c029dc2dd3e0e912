"""Files and bytes into pixels: every image enters here, as uint8 RGB, or is refused with the reason.

`decode_image` decodes the whole image, exactly; `datamodules.images.pictures` what a training crop needs of it.
"""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from datamodules.images.jpeg import read_jpeg_header
from transfer.errors import DamagedFile, UserError

Pixels = NDArray[np.uint8]
# The picture formats that are read, by Pillow's names, with their file extensions. Pillow knows more, and is not asked
# for them: to draw EPS it starts Ghostscript, and some others it recognises in any file.
PICTURE_FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
}
# Any other file beside the images (Thumbs.db, labels.txt) is counted, never decoded.
PICTURE_SUFFIXES = frozenset(suffix for suffixes in PICTURE_FORMATS.values() for suffix in suffixes)
# What is missing where Pillow lacks a format: its files say in bytes 8 to 12 what they are.
_NEEDED = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF needs Pillow 11.3 or later"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"mif1", b"msf1"), "HEIC needs a plugin: pip install pillow-heif"),
}
_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width


class WorkerError(UserError):
    """A UserError whose text stays readable when it is raised in a loader's worker process.

    torch raises it again in the main process, with the worker's traceback as its text: only the last part is kept.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text.rpartition(f"{type(self).__name__}: ")[2].strip())


class BadImageError(DamagedFile):
    """An image cannot be decoded faithfully; the text is the reason, in one line."""


class LostImageError(BadImageError):
    """An image's source cannot be read at the moment; the image itself may be fine."""


@dataclass(frozen=True)
class BadImage:
    """An image that cannot be read, and why.

    Args:
        name: the file's path, or the dataset row it came from.
        reason: why it was refused, in one line.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def decode_image(source: bytes | Path) -> NDArray[np.uint8]:
    """Return the image as a person sees it: upright, on white where it is transparent, the first frame if animated.

    Args:
        source: the encoded bytes, or the file that holds them.

    Returns:
        RGB pixels, uint8. Shape: (H, W, 3)

    Raises:
        BadImageError: the image is missing, empty, truncated, no image at all, too large, or of unknown value range.
    """
    with open_image(source) as image:
        return upright_pixels(image)


def upright_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Return a PIL image as a person sees it: upright and over white where it is transparent. uint8 RGB (H, W, 3).

    Raises:
        BadImageError: pixels of an unknown value range.
    """
    return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))


@cache
def readable_formats() -> tuple[str, ...]:
    """Return those of `PICTURE_FORMATS` that the installed Pillow and its plugins read."""
    Image.init()
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return tuple(name for name in PICTURE_FORMATS if name in Image.OPEN)


@contextmanager
def open_image(source: bytes | Path) -> Iterator[Image.Image]:
    """Open an image by Pillow in one of `readable_formats`, and turn whatever goes wrong into a BadImageError."""
    encoded = read_encoded(source)
    try:
        with Image.open(io.BytesIO(encoded), formats=readable_formats()) as image:
            yield image
    except BadImageError:
        raise
    except UnidentifiedImageError:
        reason = f"not an image of a format that is read ({', '.join(readable_formats())})"
        if encoded[4:8] == b"ftyp" and encoded[8:12] in _NEEDED:
            reason = _NEEDED[encoded[8:12]]
        raise BadImageError(f"{reason} ({len(encoded)} bytes starting {encoded[:8]!r})") from None
    except Exception as error:  # on broken files Pillow's plugins raise OSError, SyntaxError, struct.error, ...
        raise BadImageError(" ".join(str(error).split()) or type(error).__name__) from error


def image_shape(source: bytes | Path) -> tuple[int, int]:
    """Return the (height, width) of what `decode_image` returns, in pixels, from the header alone.

    Raises:
        BadImageError: the image is missing, empty, no image at all, or too large.
    """
    encoded = read_encoded(source)
    header = read_jpeg_header(encoded)
    if header is not None:
        return header.height, header.width
    with open_image(encoded) as image:
        width, height = image.size
        return (width, height) if image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS else (height, width)


def read_encoded(source: bytes | Path) -> bytes:
    """Return an image's encoded bytes.

    Raises:
        BadImageError: the file is missing, empty, not a regular one, or cannot be read.
    """
    if isinstance(source, Path):
        try:
            if not stat.S_ISREG(source.stat().st_mode):  # a FIFO would be waited for, /dev/zero never end
                raise BadImageError("not a regular file")
            source = source.read_bytes()
        except (OSError, ValueError) as error:
            raise BadImageError((getattr(error, "strerror", None) or str(error)).lower()) from error
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
