"""JPEG: what must be known of a file to decode a part of it, and a decoder that notices damage.

Pillow and OpenCV ask libjpeg for pixels and pass over its warnings: what is broken comes out as grey or as noise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

# Baseline, extended sequential and progressive, Huffman-coded.
_START_OF_FRAME = (0xC0, 0xC1, 0xC2)
_EXIF_ORIENTATION = 0x0112
_END = b"\xff\xd9"
# What libjpeg remarks on without any doubt about the pixels.
_HARMLESS = ("Warning: unknown JFIF revision", "Unknown Adobe color transform")
_UNKNOWN = "Could not determine subsampling"
_BEFORE_END = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")


@dataclass(frozen=True)
class JpegHeader:
    """What must be known of a JPEG to decode a part of it.

    Args:
        height: in pixels.
        width: in pixels.
        height_at: position of the height's two bytes in the file.
        one_scan: whether the pixels come once, from top to bottom, and without restart markers.
    """

    height: int
    width: int
    height_at: int
    one_scan: bool


def read_jpeg_header(encoded: bytes) -> JpegHeader | None:
    """Return the header of a complete, upright 8-bit RGB or grey JPEG; None for any other file."""
    # A cut-off file has to reach Pillow, which says so: OpenCV may fill up with grey.
    if encoded[:2] != b"\xff\xd8" or encoded[-2:] != _END:
        return None
    position, frame, restarts = 2, None, False
    while position + 4 <= len(encoded) and encoded[position] == 0xFF:
        marker, length = encoded[position + 1], int.from_bytes(encoded[position + 2 : position + 4], "big")
        if marker == 0xFF:  # any number of these may stand before a marker
            position += 1
            continue
        segment = encoded[position + 4 : position + 2 + length]
        if marker == 0xE1 and not _is_upright(segment):
            return None
        restarts |= marker == 0xDD
        if marker in _START_OF_FRAME and len(segment) >= 6:
            height, width = (int.from_bytes(segment[at : at + 2], "big") for at in (1, 3))
            if segment[0] != 8 or segment[5] not in (1, 3) or 0 in (height, width):
                return None
            frame = (marker, height, width, position + 5, segment[5])
        if marker == 0xDA:
            if frame is None or not segment:
                return None
            kind, height, width, height_at, channels = frame
            return JpegHeader(height, width, height_at, kind != 0xC2 and segment[0] == channels and not restarts)
        position += 2 + length
    return None


def _is_upright(segment: bytes) -> bool:
    if segment[:6] == b"Exif\0\0":
        exif = Image.Exif()
        try:
            exif.load(segment)
        except Exception:  # as in decode_image: Pillow's own reader decides what to make of it
            return False
        return exif.get(_EXIF_ORIENTATION, 1) == 1
    return b"Orientation" not in segment  # XMP may say it too


def decode_jpeg(
    encoded: bytes, height: int, width: int, reduction: int = 1, *, stops_early: bool = False
) -> NDArray[np.uint8] | None:
    """Return the pixels of an RGB or grey JPEG, to the bit as Pillow decodes them; None if only Pillow knows its kind.

    Args:
        encoded: the file.
        height, width: of the whole image, as its header says.
        reduction: 1, 2, 4 or 8, by which both sides are divided, rounded up.
        stops_early: whether the header says fewer rows than the file has; then the rest of it is of no interest.

    Returns:
        RGB pixels. Shape: (h, w, 3)

    Raises:
        ValueError: the decoder doubts the pixels, or cannot decode the file; the text says why.
    """
    sides = -(-height // reduction), -(-width // reduction)
    pixels = np.empty((*sides, 3), np.uint8)
    smallest = {} if reduction == 1 else {"min_height": sides[0], "min_width": sides[1]}
    try:
        simplejpeg.decode_jpeg(encoded, buffer=pixels, **smallest)
    except ValueError as error:  # raised after a warning, too, when the pixels are there
        if _UNKNOWN in str(error):
            return None
        if not _is_harmless(str(error), encoded, stops_early):
            raise ValueError(f"damaged or truncated: {error}") from None
    return pixels


def check_jpeg(encoded: bytes, colour_space: str) -> None:
    """Decode a JPEG of other colours only to find damage.

    Args:
        encoded: the file.
        colour_space: what it is decoded to, such as `CMYK`.

    Raises:
        ValueError: the decoder doubts the pixels; the text says why.
    """
    try:
        simplejpeg.decode_jpeg(encoded, colour_space)
    except ValueError as error:
        if _UNKNOWN not in str(error) and not _is_harmless(str(error), encoded, stops_early=False):
            raise ValueError(f"damaged or truncated: {error}") from None


def _is_harmless(warning: str, encoded: bytes, stops_early: bool) -> bool:
    if warning.startswith(_HARMLESS):
        return True
    match = _BEFORE_END.match(warning)
    if match is None or stops_early:
        return match is not None
    # A camera's padding, and not what a decoder has lost.
    end = encoded.rfind(_END)
    return len(set(encoded[max(end - int(match[1]), 0) : end])) <= 1
