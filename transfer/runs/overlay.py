"""Pictures of class maps: a photo, and beside it the maps of one or more networks, as in Figure 7 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from transfer.errors import printable

PHOTO_SIDE = 400  # side of the box that each photo is fitted into, in pixels
_MARGIN, _LINE_HEIGHT, _FONT_SIZE = 12, 22, 16
_FONTS = ("DejaVuSans.ttf", "Arial Unicode.ttf", "arial.ttf")  # Pillow's own font only has ASCII
# (red, green, blue) at 0, 1/4, 1/2, 3/4 and all of the maximum: from blue through green and yellow to red.
_COLOURS = ((40, 60, 200), (20, 180, 220), (80, 220, 90), (250, 210, 40), (220, 20, 20))
_OPACITY = 0.65  # opacity of the colour at the maximum; 0 where there is no evidence
_DIMMED = 0.35  # brightness of the parts that the network did not see


@dataclass(frozen=True)
class Evidence:
    """The evidence of one network for its class of a photo.

    Attributes:
        class_map: class map (h, w) over `part` of the photo.
        part: left, top, right and bottom of the part that the network saw, as shares of the photo's width and height.
        lines: lines of the caption: the prediction, the method, and the network's name.
    """

    class_map: NDArray[Any]
    part: tuple[float, float, float, float]
    lines: tuple[str, str, str]


def fit_photo(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return an RGB photo (H, W, 3), resized to fit the box."""
    height, width = pixels.shape[:2]
    scale = PHOTO_SIDE / max(height, width)
    size = max(1, round(scale * width)), max(1, round(scale * height))
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def draw_picture(photo: Image.Image, caption: tuple[str, str], evidence: Sequence[Evidence]) -> Image.Image:
    """Return the photo and each network's overlay beside it, with captions below.

    Args:
        photo: photo as returned by `fit_photo`.
        caption: two lines below the photo.
        evidence: evidence of each network.
    """
    panels = [photo, *(overlay(photo, e.class_map, e.part) for e in evidence)]
    captions = [caption, *(e.lines for e in evidence)]
    font = load_font()
    column = PHOTO_SIDE + _MARGIN
    below = 2 * _MARGIN + photo.height
    picture = Image.new("RGB", (column * len(panels) + _MARGIN, below + 3 * _LINE_HEIGHT + _MARGIN), "white")
    draw = ImageDraw.Draw(picture)
    for i, (panel, lines) in enumerate(zip(panels, captions, strict=True)):
        left = _MARGIN + column * i
        picture.paste(panel, (left, _MARGIN))
        for j, line in enumerate(lines):
            text = shorten(line, font, keep_end=j == 2)
            draw.text((left, below + j * _LINE_HEIGHT), text, "black", font)
    draw_scale(picture, below + 2 * _LINE_HEIGHT, font)
    return picture


def draw_scale(picture: Image.Image, top: int, font: ImageFont.FreeTypeFont) -> None:
    """Draw the scale of colours into the first column."""
    draw = ImageDraw.Draw(picture)
    bar = Image.fromarray(colours(np.tile(np.linspace(0, 1, 120), (_FONT_SIZE, 1))).astype(np.uint8))
    start, end = "evidence: none ", " most"
    left = _MARGIN + round(font.getlength(start))
    draw.text((_MARGIN, top), start, "black", font)
    picture.paste(bar, (left, top + 2))
    draw.text((left + bar.width, top), end, "black", font)


def overlay(photo: Image.Image, class_map: NDArray[Any], part: tuple[float, float, float, float]) -> Image.Image:
    """Return the photo in grey with the map's positive values in colour, a frame around `part`, and the rest dimmed.

    The map is stretched over `part` bilinearly, as in Zhou et al.

    Args:
        photo: the whole photo, at any scale.
        class_map: class map (h, w) over `part`.
        part: left, top, right and bottom of the part that the network saw, as shares of the photo.
    """
    width, height = photo.size
    left, top, right, bottom = part
    x = ((np.arange(width) + 0.5) / width - left) / (right - left)  # 0 to 1 within the part
    y = ((np.arange(height) + 0.5) / height - top) / (bottom - top)
    seen = ((y >= 0) & (y <= 1))[:, None, None] & ((x >= 0) & (x <= 1))[:, None]
    maximum = max(float(class_map.max()), np.finfo(np.float32).tiny)
    strength = stretch(class_map.clip(min=0) / maximum, y, x)
    opacity = (_OPACITY * np.sqrt(strength))[..., None]
    grey = np.asarray(photo.convert("L"), np.float64)[..., None]
    drawn = np.where(seen, (1 - opacity) * grey + opacity * colours(strength), _DIMMED * grey)
    result = Image.fromarray(drawn.round().astype(np.uint8))
    if part != (0, 0, 1, 1):
        x0, y0 = round(left * width), round(top * height)
        # A part may be thinner than a pixel of a small copy of the photo.
        x1, y1 = max(round(right * width) - 1, x0), max(round(bottom * height) - 1, y0)
        ImageDraw.Draw(result).rectangle((x0, y0, x1, y1), outline="white")
    return result


def colours(strength: NDArray[Any]) -> NDArray[Any]:
    """Return the colour of each value from 0 to 1. Shape: (H, W) -> (H, W, 3), 0 to 255."""
    stops = np.linspace(0, 1, len(_COLOURS))
    return np.stack([np.interp(strength, stops, channel) for channel in np.transpose(_COLOURS)], -1)


def stretch(class_map: NDArray[Any], y: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """Return the map's values at every (y, x), bilinear between the centres of its cells and constant outside them.

    Args:
        class_map: class map (h, w), whose cells tile 0 to 1 in both directions.
        y: vertical positions of the rows.
        x: horizontal positions of the columns.

    Shape:
        y (H,), x (W,) -> (H, W).
    """
    rows, columns = ((np.arange(cells) + 0.5) / cells for cells in class_map.shape)
    wide = np.stack([np.interp(x, columns, row) for row in class_map])
    return np.stack([np.interp(y, rows, column) for column in wide.T], axis=1)


def load_font() -> ImageFont.FreeTypeFont | Any:
    """Return a font of this machine with more than ASCII, or Pillow's own if there is none."""
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, _FONT_SIZE)
        except OSError:
            continue
    return ImageFont.load_default(_FONT_SIZE)


def shorten(text: str, font: ImageFont.FreeTypeFont, keep_end: bool) -> str:
    """Return the text as one line that fits under a photo, cut off at its beginning if `keep_end`, else at its end."""
    text = printable(" ".join(text.split()))
    if font.getlength(text) <= PHOTO_SIDE:
        return text
    while font.getlength(f"{text}...") > PHOTO_SIDE:
        text = text[1:] if keep_end else text[:-1]
    return f"...{text}" if keep_end else f"{text}..."
