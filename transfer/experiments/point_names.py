"""Names beside the points of a picture, none of which covers a point that has a name, its interval or another name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from matplotlib.transforms import Bbox

_SIZE = 7  # of the letters, in points
_GAP = 5  # between a point and its name, in points
_LINES = 12  # places to look for room, above and below


@dataclass(frozen=True)
class PointName:
    """The name of a point.

    Attributes:
        axes: matplotlib's axes, which have the point.
        text: the name; an empty one only keeps others from the point.
        colour: of the name.
        x, low, high: where the point is, and from where to where its interval reaches.
        above: whether the name is better above than below.
        right: how far to the right of x the point is drawn, in points of type.
    """

    axes: Any
    text: str
    colour: str
    x: float
    low: float
    high: float
    above: bool = False
    right: float = 0


def keep_apart(names: Sequence[PointName]) -> None:
    """Write names where there is room for them, above or below their points, in their order.

    Args:
        names: those of the same axes follow each other; all are of one figure, which has its size and its layout.
    """
    for figure in {name.axes.figure for name in names}:
        figure.draw_without_rendering()  # settles where everything is
    for _, group in groupby(names, lambda name: name.axes):
        own = list(group)
        taken = [_box_of_point(name) for name in own]
        for name in own:
            if name.text:
                taken.append(_write(name, taken))


def _box_of_point(name: PointName) -> Bbox:
    ends = name.axes.transData.transform([(name.x, name.low), (name.x, name.high)])
    pixels = name.axes.figure.dpi / 72
    return Bbox(ends).padded(2 * pixels).translated(name.right * pixels, 0)


def _write(name: PointName, taken: Sequence[Bbox]) -> Bbox:
    """Write a name where it covers nothing, or at last where it does, and return its box."""
    text = name.axes.annotate(
        *(name.text, (name.x, name.low)),
        **{"xytext": (name.right, 0), "textcoords": "offset points", "ha": "center", "fontsize": _SIZE},
        **{"color": name.colour, "parse_math": False, "zorder": 5},
    )
    for line in range(_LINES):
        for above in (name.above, not name.above):
            away = _GAP + line * _SIZE
            text.xy, text.xyann = (name.x, name.high if above else name.low), (name.right, away if above else -away)
            text.set_verticalalignment("bottom" if above else "top")
            if not any(text.get_window_extent().overlaps(box) for box in taken):
                return text.get_window_extent()
    return text.get_window_extent()
