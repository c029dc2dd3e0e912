"""The picture of a choice: names cover neither each other nor the networks' intervals."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from transfer.commands.choose import figure
from transfer.commands.choose.figure import Point, draw_frontier
from transfer.records import Interval


@pytest.mark.parametrize("takes_tuned", [False, True])
def test_names_are_whole_apart_and_say_what_is_taken(
    takes_tuned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []

    def keep(picture: Figure, path: Path) -> Path:
        drawn.append(picture)
        return path

    monkeypatch.setattr(figure, "save_png", keep)
    close = (("lite1 at 240 px", 11.3, 0.874), ("lite2 at 260 px", 11.6, 0.8745))
    found = (("lite0 at 224 px", 5.0, 0.87), *close, ("v2-s at 384 px", 100.0, 0.88))
    points = [Point(name, ms, value, Interval(low=value - 0.012, high=value + 0.012)) for name, ms, value in found]
    tuned = Point("LP-FT", 11.6, 0.9, Interval(low=0.89, high=0.91))
    draw_frontier(points, [0, 1, 2, 3], 2, ("photos", "ms", "accuracy (%)"), tmp_path / "a.png", tuned, takes_tuned)
    (axes,) = drawn[0].axes
    taken = {True: "LP-FT", False: "lite2 at 260 px"}[takes_tuned]
    expected = [name + (" (taken)" if name == taken else "") for name, _, _ in (*found, tuned[:3])]
    assert [text.get_text() for text in axes.texts] == expected
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    ends = ([(p.latency_ms, 100 * p.interval.low), (p.latency_ms, 100 * p.interval.high)] for p in points)
    intervals = [Bbox(axes.transData.transform(pair)).padded(1) for pair in ends]
    assert not any(box.overlaps(interval) for box in boxes for interval in intervals)
    area = axes.get_window_extent()
    assert all(area.contains(box.x0, box.y0) and area.contains(box.x1, box.y1) for box in boxes)
