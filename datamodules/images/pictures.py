"""Pictures of which perhaps only a crop is wanted.

Where the crop allows it, a plain JPEG is decoded at reduced scale, and not below the crop's last row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from transfer.images.decode import Pixels, decode_image, read_encoded
from transfer.images.depth import DEFAULT_DECODING, Decoding
from transfer.images.jpeg import JpegHeader, decode_jpeg, read_jpeg_header
from transfer.images.resizing import Box

_REDUCTIONS = (8, 4, 2, 1)
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

    `pixels` calls `decode_image`. `crop` decodes at 1/2, 1/4 or 1/8 of the size if the crop has enough pixels; and not
    below its last row if the file is known to be sound, for damage shows at the end of the data only. At full scale the
    result is that of `pixels`, to the bit; at a reduced scale the crop's edges move to the next whole pixel.
    """

    def __init__(self, encoded: bytes, header: JpegHeader, decoding: Decoding, is_sound: bool) -> None:
        self.height, self.width = header.height, header.width
        self._encoded, self._header, self._decoding, self._is_sound = encoded, header, decoding, is_sound

    def pixels(self) -> Pixels:
        return decode_image(self._encoded, self._decoding)

    def crop(self, box: Box, min_side: int) -> Pixels:
        left, top, right, bottom = box
        side = min(right - left, bottom - top)
        reduction = next((factor for factor in _REDUCTIONS if side // factor >= min_side), 1)
        try:
            decoded = self._decode(bottom, reduction)
        except ValueError:
            decoded = None
        if decoded is None:  # Pillow reads it, or `decode_image` says what is wrong with it
            return self.pixels()[top:bottom, left:right]
        left, top, right, bottom = ((edge + reduction // 2) // reduction for edge in box)
        return decoded[top:bottom, left:right]

    def _decode(self, bottom: int, reduction: int) -> Pixels | None:
        rows, encoded = self.height, self._encoded
        needed = (bottom // _BLOCK_ROWS + 1) * _BLOCK_ROWS  # one more at least: the upsampling of colours looks ahead
        stops_early = self._is_sound and self._header.one_scan and needed + _BLOCK_ROWS <= rows
        if stops_early:  # a decoder that is told of fewer rows stops after them
            rows, at = needed, self._header.height_at
            encoded = b"".join((encoded[:at], rows.to_bytes(2, "big"), encoded[at + 2 :]))
        return decode_jpeg(encoded, rows, self.width, reduction, stops_early=stops_early)


def open_picture(source: bytes | Path, decoding: Decoding = DEFAULT_DECODING, *, is_sound: bool = False) -> Picture:
    """Return an image of which perhaps only a crop is wanted; anything but a plain JPEG is decoded at once.

    Args:
        source: the encoded bytes, or the file that holds them.
        decoding: see `decode_image`.
        is_sound: whether the image has been decoded before, without damage.

    Raises:
        BadImageError: as `decode_image`; for a JPEG, only when pixels are asked for.
    """
    encoded = read_encoded(source)
    header = read_jpeg_header(encoded)
    if header is None or header.height * header.width > decoding.max_pixels:
        return DecodedPicture(decode_image(encoded, decoding))
    return JpegPicture(encoded, header, decoding, is_sound)
