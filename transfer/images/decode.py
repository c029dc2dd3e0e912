"""Files and bytes into pixels: every image enters here, as uint8 RGB, or is refused with the reason.

`decode_image` decodes the whole image, exactly; `datamodules.images.pictures` what a training crop needs of it.
"""

from __future__ import annotations

import io
import math
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from transfer.errors import DamagedFile, UserError
from transfer.images.depth import DEFAULT_DECODING, Decoding, Extent, deep_values, extent_of
from transfer.images.jpeg import check_jpeg, decode_jpeg, read_jpeg_header
from transfer.preprocessing import MAX_PIXELS

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
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_END = b"IEND\xaeB`\x82"
# A long comment in a PNG is no attack on the memory, and nobody reads it here.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
_OPENING = threading.Lock()
if hasattr(os, "register_at_fork"):  # or a worker process that starts while another thread opens an image would wait
    os.register_at_fork(before=_OPENING.acquire, after_in_parent=_OPENING.release, after_in_child=_OPENING.release)


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


def decode_image(source: bytes | Path, decoding: Decoding = DEFAULT_DECODING) -> Pixels:
    """Return the image as a person sees it: upright, on white where it is transparent, the first frame if animated.

    Args:
        source: the encoded bytes, or the file that holds them.
        decoding: what becomes black and white in deep images, and how large an image may be.

    Returns:
        RGB pixels, uint8. Shape: (H, W, 3)

    Raises:
        BadImageError: the image is missing, empty, damaged, no image at all, too large, or of unknown value range.
    """
    encoded = read_encoded(source)
    with open_image(encoded, decoding.max_pixels) as image:
        return _pixels(image, encoded, decoding)


def eight_bit_pixels(encoded: bytes) -> Pixels | None:
    """Return what `decode_image` returns for an image of 8 bits, or None for a deeper one.

    Raises:
        BadImageError: as `decode_image`.
    """
    with open_image(encoded) as image:
        _load_large(image)
        return _pixels(image, encoded, DEFAULT_DECODING) if deep_values(image, encoded) is None else None


def measure_image(source: bytes | Path, decoding: Decoding = DEFAULT_DECODING) -> Extent | None:
    """Decode an image, and return its smallest and largest value if it has more than 8 bits, else None.

    Raises:
        BadImageError: as `decode_image`, except that any finite range is accepted.
    """
    encoded = read_encoded(source)
    with open_image(encoded, decoding.max_pixels) as image:
        _load_large(image)
        values = deep_values(image, encoded)
        if values is None:
            _pixels(image, encoded, decoding)
            return None
        extent = extent_of(values)
        if not math.isfinite(extent.low + extent.high):
            raise BadImageError("NaN or infinite pixels")
        return extent


def upright_pixels(image: Image.Image, decoding: Decoding = DEFAULT_DECODING) -> Pixels:
    """Return a PIL image as a person sees it: upright and over white where it is transparent. uint8 RGB (H, W, 3).

    Raises:
        BadImageError: pixels of an unknown value range.
    """
    try:
        return _pixels(image, b"", decoding)
    except UserError:
        raise
    except ValueError as error:
        raise BadImageError(str(error)) from error


def _pixels(image: Image.Image, encoded: bytes, decoding: Decoding) -> Pixels:
    _load_large(image)
    values = _own_values(image, encoded, decoding)
    if values is None:
        image.load()  # which turns a TIFF upright
    turn = _TURNS.get(image.getexif().get(_EXIF_ORIENTATION, 1))
    if values is not None and values.shape[2:] == (3,) and turn is None:
        return values
    picture = image if values is None else Image.fromarray(values)
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    picture = picture.convert("RGB")
    return np.asarray(picture if turn is None else picture.transpose(turn))


def _load_large(image: Image.Image) -> None:
    """Load what Pillow would refuse at a size that `open_image` has allowed."""
    if image.format == "TIFF" and image.width * image.height > (Image.MAX_IMAGE_PIXELS or image.width * image.height):
        with _without_limit():
            image.load()


def _own_values(image: Image.Image, encoded: bytes, decoding: Decoding) -> Pixels | None:
    """Return the 8-bit values, not yet upright, of what Pillow would decode wrongly or without seeing damage."""
    if encoded and image.format in ("JPEG", "MPO"):
        if image.mode in ("RGB", "L"):
            return decode_jpeg(encoded, image.height, image.width)
        check_jpeg(encoded, image.mode)
    if image.format == "PNG" and encoded and _PNG_END not in encoded:
        raise BadImageError("truncated: a PNG without its end")
    values = deep_values(image, encoded)
    return None if values is None else decoding.eight_bits(values)


@cache
def readable_formats() -> tuple[str, ...]:
    """Return those of `PICTURE_FORMATS` that the installed Pillow and its plugins read."""
    Image.init()
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    return tuple(name for name in PICTURE_FORMATS if name in Image.OPEN)


@contextmanager
def open_image(encoded: bytes, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open an image by Pillow in one of `readable_formats`, and turn whatever goes wrong into a BadImageError."""
    try:
        with _opened(encoded) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise BadImageError(
                    f"{width} x {height} = {width * height:,} pixels are more than `max_pixels`={max_pixels} allows:"
                    " scale the picture down or, if you trust it and have the memory (3 bytes a pixel, for each"
                    " worker), raise the limit where the network is trained or served"
                )
            yield image
    except (BadImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        reason = f"not an image of a format that is read ({', '.join(readable_formats())})"
        if encoded[4:8] == b"ftyp" and encoded[8:12] in _NEEDED:
            reason = _NEEDED[encoded[8:12]]
        raise BadImageError(f"{reason} ({len(encoded)} bytes starting {encoded[:8]!r})") from None
    except Exception as error:  # on broken files Pillow's plugins raise OSError, SyntaxError, struct.error, ...
        raise BadImageError(" ".join(str(error).split()) or type(error).__name__) from error


def _opened(encoded: bytes) -> Image.Image:
    formats = readable_formats()
    with _without_limit():
        return Image.open(io.BytesIO(encoded), formats=formats)


@contextmanager
def _without_limit() -> Iterator[None]:
    with _OPENING:  # Pillow's own limit is a global that other threads read
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def image_shape(source: bytes | Path, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Return the (height, width) of what `decode_image` returns, in pixels, from the header alone.

    Raises:
        BadImageError: the image is missing, empty, no image at all, or too large.
    """
    encoded = read_encoded(source)
    header = read_jpeg_header(encoded)
    if header is not None and header.height * header.width <= max_pixels:
        return header.height, header.width
    with open_image(encoded, max_pixels) as image:
        width, height = image.size
        return (width, height) if image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS else (height, width)


def read_encoded(source: bytes | Path) -> bytes:
    """Return an image's encoded bytes.

    Raises:
        BadImageError: the file is missing, empty, not a regular one, or cannot be read.
    """
    if isinstance(source, Path):
        try:
            is_regular = stat.S_ISREG(source.stat().st_mode)  # a FIFO would be waited for, /dev/zero never end
            source = source.read_bytes() if is_regular else source
        except (OSError, ValueError) as error:
            raise BadImageError((getattr(error, "strerror", None) or str(error)).lower()) from error
        if isinstance(source, Path):
            raise BadImageError("not a regular file")
    if not source:
        raise BadImageError("empty (0 bytes)")
    return source
