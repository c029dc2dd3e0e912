"""Whether an image file says where it was taken."""

from __future__ import annotations

from contextlib import suppress

from PIL import ExifTags

from transfer.images.decode import BadImageError, open_image

_XMP = b"GPSLatitude"  # as it is written in an image's XMP


def tells_place(encoded: bytes, max_pixels: int) -> bool:
    """Return whether an image's metadata, EXIF or XMP, holds a place; False where they cannot be read.

    Args:
        encoded: the image's file.
        max_pixels: images with more are not opened.
    """
    with suppress(BadImageError), open_image(encoded, max_pixels) as image:
        return _XMP in encoded or bool(image.getexif().get_ifd(ExifTags.IFD.GPSInfo))
    return False
