"""Durations in words: what they are in seconds, and what is refused."""

from __future__ import annotations

import pytest

from transfer.config.durations import clock, format_duration, parse_duration
from transfer.errors import BadValue


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1.5h", 5400),
        ("1h30m", 5400),
        (" 2 H 5 s ", 7205),
        ("00:00:10:00", 600),
        ("01:02:03:04", 86400 + 2 * 3600 + 3 * 60 + 4),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text, "budget") == seconds


@pytest.mark.parametrize("text", ["", "10", "soon", "-5m", "0m", "5m1h", "10:00", "infs", "m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(BadValue, match=r"^`budget`='.*' \(allowed: a time above 0, as 90s, 10m, 1h30m or"):
        parse_duration(text, "budget")


def test_a_duration_is_written_in_its_largest_units() -> None:
    seconds = (-3, 0.4, 45, 59.6, 200, 599, 600, 1330, 5999, 3900)
    texts = ["0 s", "0 s", "45 s", "1 min", "3 min 20 s", "9 min 59 s", "10 min", "22 min", "1 h 40 min", "65 min"]
    assert [format_duration(value) for value in seconds] == texts


def test_lightnings_clock_is_read_back() -> None:
    assert [clock(seconds) for seconds in (0, 600, 93784)] == ["00:00:00:01", "00:00:10:00", "01:02:03:04"]
    assert parse_duration(clock(93784), "budget") == 93784
