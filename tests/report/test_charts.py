"""Charts: what is drawn and named, and axes whose labels have room."""

from __future__ import annotations

import re

import pytest

from transfer.report.charts import Series, draw_lines


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_points_have_their_names_and_intervals() -> None:
    ends = {"low": [0.4, 0.5], "high": [0.6, 0.7]}
    line = Series("ours", [5, 50], [0.5, 0.6], joined=False, labels=["<b0>", "b$7$"], **ends)
    svg = draw_lines("A & B", ("ms", ""), [line], percent=True, log=True).svg
    assert {"&lt;b0&gt;", "b$7$", "ms", "5", "50"} <= {*texts(svg)}
    bare = draw_lines("A & B", ("ms", ""), [Series("ours", [5, 50], [0.5, 0.6], joined=False)], log=True).svg
    assert svg.count("LineCollection") == 1 and "LineCollection" not in bare
    assert 'aria-label="A &amp; B"' in svg and "<b0>" not in svg


@pytest.mark.parametrize(
    ("x", "expected"),
    [([1, 20], ["1", "2", "5", "10", "20"]), ([1e-5, 1e-1], ["1e-05", "0.0001", "0.001", "0.01", "0.1"])],
)
def test_a_logarithmic_axis_has_plain_numbers_and_few_of_a_long_one(x: list[float], expected: list[str]) -> None:
    found = texts(draw_lines("", ("", ""), [Series("a", x, [10000.0, 20000.0])], log=True).svg)
    assert [text for text in found if float(text) < 1000 and min(x) <= float(text) <= max(x)] == expected


def test_a_short_logarithmic_axis_and_one_of_a_single_point_have_labels() -> None:
    for x in ([10.0, 14.0], [4.0]):
        found = texts(draw_lines("", ("", ""), [Series("a", x, [10000.0] * len(x))], log=True).svg)
        inside = [float(text) for text in found if float(text) < 1000]
        assert len(inside) >= 3 and min(inside) < max(x) and max(inside) > min(x)
