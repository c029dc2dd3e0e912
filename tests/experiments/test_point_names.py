"""Names beside the points of a picture cover neither points nor each other."""

from __future__ import annotations

from itertools import combinations

import pytest
from matplotlib.figure import Figure

from transfer.experiments.point_names import PointName, keep_apart


def written(points: list[tuple[str, float, float, float]], **options: bool) -> tuple[Figure, list[PointName]]:
    """Return a picture of points (name, x, low, high), with their names."""
    figure = Figure(figsize=(4, 4), dpi=150, layout="constrained")
    axes = figure.add_subplot(xlim=(0, 100), ylim=(0, 100))
    names = [PointName(axes, text, "black", x, low, high, **options) for text, x, low, high in points]
    keep_apart(names)
    return figure, names


def test_names_of_close_points_are_apart() -> None:
    figure, names = written([("lite0", 50, 50, 50), ("lite1", 52, 50, 50), ("lite2", 54, 49, 49), ("b0", 56, 30, 60)])
    texts = figure.axes[0].texts
    assert [text.get_text() for text in texts] == ["lite0", "lite1", "lite2", "b0"]
    boxes = [text.get_window_extent() for text in texts]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    to_pixels = figure.axes[0].transData
    for name in names:
        for end in (name.low, name.high):
            assert not any(box.contains(*to_pixels.transform((name.x, end))) for box in boxes)


@pytest.mark.parametrize("above", [False, True])
def test_a_lonely_name_is_on_its_better_side(above: bool) -> None:
    figure, _ = written([("lite0", 50, 40, 60)], above=above)
    (text,) = figure.axes[0].texts
    low, high = (figure.axes[0].transData.transform((50, y))[1] for y in (40, 60))
    assert text.get_window_extent().y0 > high if above else text.get_window_extent().y1 < low


def test_a_point_without_a_name_keeps_others_away() -> None:
    figure, _ = written([("", 50, 44, 46), ("lite0", 50, 50, 50)])
    (text,) = figure.axes[0].texts
    assert text.get_text() == "lite0"
    assert text.get_window_extent().y0 > figure.axes[0].transData.transform((50, 50))[1]
