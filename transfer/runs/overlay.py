"""Pictures of class maps: a photo, and beside it what several networks saw in it, as in Figure 7 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from transfer.errors import printable

PHOTO_SIDE = 400  # of the box into which each photo is fitted, in pixels
_MARGIN, _LINE_HEIGHT, _FONT_SIZE = 12, 22, 16
_FONTS = ("DejaVuSans.ttf", "Arial Unicode.ttf", "arial.ttf")  # Pillow's own font has ASCII alone
# Red, green, blue at 0, 1/4, 1/2, 3/4 and all of the maximum: blue over green and yellow to red.
_COLOURS = ((40, 60, 200), (20, 180, 220), (80, 220, 90), (250, 210, 40), (220, 20, 20))
_OPACITY = 0.65  # of the colour at the maximum; it fades to nothing where there is no evidence
_DIMMED = 0.35  # brightness of what the network did not see


@dataclass(frozen=True)
class Evidence:
    """What one network says of a photo.

    Attributes:
        class_map: (h, w) over `part` of the photo.
        part: left, top, right, bottom in shares of the photo's width and height.
        lines: of the caption: what it says, how that was found out, and the network's name.
    """

    class_map: NDArray[Any]
    part: tuple[float, float, float, float]
    lines: tuple[str, str, str]


def fit_photo(pixels: NDArray[np.uint8]) -> Image.Image:
    """The photo as large as the box allows. Shape: (H, W, 3), RGB."""
    height, width = pixels.shape[:2]
    scale = PHOTO_SIDE / max(height, width)
    size = max(1, round(scale * width)), max(1, round(scale * height))
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def draw_picture(photo: Image.Image, caption: tuple[str, str], evidence: Sequence[Evidence]) -> Image.Image:
    """The photo, and beside it each network's overlay, with captions below.

    Args:
        photo: see `fit_photo`.
        caption: two lines.
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
    """Says in the first column what the colours mean."""
    draw = ImageDraw.Draw(picture)
    bar = Image.fromarray(colours(np.tile(np.linspace(0, 1, 120), (_FONT_SIZE, 1))).astype(np.uint8))
    start, end = "evidence: none ", " most"
    left = _MARGIN + round(font.getlength(start))
    draw.text((_MARGIN, top), start, "black", font)
    picture.paste(bar, (left, top + 2))
    draw.text((left + bar.width, top), end, "black", font)


def overlay(photo: Image.Image, class_map: NDArray[Any], part: tuple[float, float, float, float]) -> Image.Image:
    """The photo in grey with the map's positive values in colour; a frame around `part`, all else dimmed.

    The map is stretched over `part`, bilinearly, as by Zhou et al.

    Args:
        photo: all of it, at any scale.
        class_map: (h, w) over `part`.
        part: of the photo that the network saw.
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
        frame = (left * width, top * height, right * width - 1, bottom * height - 1)
        ImageDraw.Draw(result).rectangle([round(edge) for edge in frame], outline="white")
    return result


def colours(strength: NDArray[Any]) -> NDArray[Any]:
    """The colour of each value from 0 to 1. Shape: (H, W) -> (H, W, 3), 0 to 255."""
    stops = np.linspace(0, 1, len(_COLOURS))
    return np.stack([np.interp(strength, stops, channel) for channel in np.transpose(_COLOURS)], -1)


def stretch(class_map: NDArray[Any], y: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """The map's values at every (y, x), bilinear between the centres of its cells and constant outside of them.

    Args:
        class_map: (h, w), its cells tiling 0 to 1 in both directions.

    Shape:
        y (H,), x (W,) -> (H, W).
    """
    rows, columns = ((np.arange(cells) + 0.5) / cells for cells in class_map.shape)
    wide = np.stack([np.interp(x, columns, row) for row in class_map])
    return np.stack([np.interp(y, rows, column) for column in wide.T], axis=1)


def load_font() -> ImageFont.FreeTypeFont | Any:
    """A font of this machine that has more than ASCII, if there is one."""
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, _FONT_SIZE)
        except OSError:
            continue
    return ImageFont.load_default(_FONT_SIZE)


def shorten(text: str, font: ImageFont.FreeTypeFont, keep_end: bool) -> str:
    """Text in one line that fits under a photo, cut off at its end or at its beginning."""
    text = printable(" ".join(text.split()))
    if font.getlength(text) <= PHOTO_SIDE:
        return text
    while font.getlength(f"{text}...") > PHOTO_SIDE:
        text = text[1:] if keep_end else text[:-1]
    return f"...{text}" if keep_end else f"{text}..."
