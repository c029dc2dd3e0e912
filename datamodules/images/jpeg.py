"""The header of a JPEG: what must be known to decode a part of it."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

# Baseline, extended sequential and progressive, Huffman-coded.
_START_OF_FRAME = (0xC0, 0xC1, 0xC2)
_EXIF_ORIENTATION = 0x0112


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
    if encoded[:2] != b"\xff\xd8" or encoded[-2:] != b"\xff\xd9":
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
            if segment[0] != 8 or segment[5] not in (1, 3) or not _has_allowed_size(height, width):
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


def _has_allowed_size(height: int, width: int) -> bool:
    return height > 0 < width and height * width <= (Image.MAX_IMAGE_PIXELS or height * width)
