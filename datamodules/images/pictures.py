"""Pictures of which perhaps only a crop is wanted.

Where the crop allows it, a plain JPEG is decoded at reduced scale, and not below the crop's last row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from datamodules.images.decode import Pixels, decode_image, read_encoded
from datamodules.images.jpeg import JpegHeader, read_jpeg_header

Box = tuple[int, int, int, int]  # left, top, right, bottom
_REDUCTIONS = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    1: cv2.IMREAD_COLOR,
}
# Rows of the largest usual block that is coded together.
_BLOCK_ROWS = 16


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
    encoded = read_encoded(source)
    header = read_jpeg_header(encoded)
    return DecodedPicture(decode_image(encoded)) if header is None else JpegPicture(encoded, header)
