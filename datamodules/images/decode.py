"""Files and bytes into pixels: every image enters here, as uint8 RGB, or is refused with the reason.

`decode_image` decodes the whole image, exactly. `open_picture` decodes on demand: where a training crop allows it, a
plain JPEG is decoded at reduced scale, and not below the last row of the crop.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from datamodules.images.jpeg import JpegHeader, read_jpeg_header
from transfer.errors import DamagedFile, UserError

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # left, top, right, bottom
# Any other file beside the images (Thumbs.db, labels.txt) is counted, never decoded.
IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width
_REDUCTIONS = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    1: cv2.IMREAD_COLOR,
}
# Rows of the largest usual block that is coded together.
_BLOCK_ROWS = 16


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
    with _open(_read(source)) as image:
        return upright_pixels(image)


def upright_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Return a PIL image as a person sees it: upright and over white where it is transparent. uint8 RGB (H, W, 3).

    Raises:
        BadImageError: pixels of an unknown value range.
    """
    return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))


@contextmanager
def _open(encoded: bytes) -> Iterator[Image.Image]:
    """Open an image by Pillow, and turn whatever goes wrong with it into a BadImageError."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            yield image
    except BadImageError:
        raise
    except UnidentifiedImageError:
        raise BadImageError(f"not an image ({len(encoded)} bytes starting {encoded[:8]!r})") from None
    except Exception as error:  # on broken files Pillow's plugins raise OSError, SyntaxError, struct.error, ...
        raise BadImageError(" ".join(str(error).split()) or type(error).__name__) from error


class Picture(Protocol):
    """An image of which all pixels can be asked for, or those of a box."""

    height: int
    width: int

    def pixels(self) -> Pixels:
        """Return the whole image. Shape: (height, width, 3), RGB."""

    def crop(self, box: Box, min_side: int) -> Pixels:
        """Return the box, perhaps at a reduced scale that leaves both sides at least `min_side` pixels.

        Shape: (h, w, 3), RGB.
        """


class DecodedPicture:
    """A picture that has been decoded already."""

    def __init__(self, pixels: Pixels) -> None:
        self.height, self.width = pixels.shape[:2]
        self._pixels = pixels

    def pixels(self) -> Pixels:
        return self._pixels

    def crop(self, box: Box, min_side: int) -> Pixels:
        left, top, right, bottom = box
        return self._pixels[top:bottom, left:right]


class JpegPicture:
    """A plain JPEG, decoded on demand.

    `pixels` calls `decode_image`. `crop` decodes by OpenCV, from the first row to the crop's last, at 1/2, 1/4 or 1/8
    of the size if the crop has enough pixels. At full scale the result is Pillow's, to the bit; at a reduced scale the
    crop's edges move to the next whole pixel.
    """

    def __init__(self, encoded: bytes, header: JpegHeader) -> None:
        self.height, self.width = header.height, header.width
        self._encoded, self._header = encoded, header

    def pixels(self) -> Pixels:
        return decode_image(self._encoded)

    def crop(self, box: Box, min_side: int) -> Pixels:
        left, top, right, bottom = box
        side = min(right - left, bottom - top)
        reduction = next((factor for factor in _REDUCTIONS if side // factor >= min_side), 1)
        decoded = self._decode(bottom, reduction)
        if decoded is None:  # what OpenCV refuses, Pillow reads, or says what is wrong with it
            return self.pixels()[top:bottom, left:right]
        left, top, right, bottom = ((edge + reduction // 2) // reduction for edge in box)
        pixels: Any = cv2.cvtColor(decoded[top:bottom, left:right], cv2.COLOR_BGR2RGB)
        return pixels

    def _decode(self, bottom: int, reduction: int) -> Pixels | None:
        rows, encoded = self.height, self._encoded
        needed = (bottom // _BLOCK_ROWS + 1) * _BLOCK_ROWS  # one more at least: the upsampling of colours looks ahead
        if self._header.one_scan and needed + _BLOCK_ROWS <= rows:
            # A decoder that is told of fewer rows stops after them. The end marker goes too: at it, libjpeg would
            # complain of the bytes that it has not read.
            rows, at = needed, self._header.height_at
            encoded = b"".join((encoded[:at], rows.to_bytes(2, "big"), encoded[at + 2 : -2]))
        try:
            flags = _REDUCTIONS[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
            decoded: Any = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
        except cv2.error:
            return None
        expected = (-(-rows // reduction), -(-self.width // reduction), 3)
        return decoded if decoded is not None and decoded.shape == expected else None


def open_picture(source: bytes | Path) -> Picture:
    """Return an image of which perhaps only a crop is wanted; anything but a plain JPEG is decoded at once.

    Raises:
        BadImageError: as `decode_image`; for a JPEG, only when pixels are asked for.
    """
    encoded = _read(source)
    header = read_jpeg_header(encoded)
    return DecodedPicture(decode_image(encoded)) if header is None else JpegPicture(encoded, header)


def image_shape(source: bytes | Path) -> tuple[int, int]:
    """Return the (height, width) of what `decode_image` returns, in pixels, from the header alone.

    Raises:
        BadImageError: the image is missing, empty, no image at all, or too large.
    """
    encoded = _read(source)
    header = read_jpeg_header(encoded)
    if header is not None:
        return header.height, header.width
    with _open(encoded) as image:
        width, height = image.size
        return (width, height) if image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS else (height, width)


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
