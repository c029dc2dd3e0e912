"""Durations as people write and read them."""

from __future__ import annotations

import re

from transfer.errors import BadValue

_UNITS = re.compile(r"(?=\d)(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d):(\d\d)")


def parse_duration(text: str, argument: str) -> float:
    """Return the seconds that a text names, such as `90s`, `10m`, `1h30m` or Lightning's `00:00:10:00`.

    Args:
        text: hours, minutes and seconds with their units, in this order; or DD:HH:MM:SS.
        argument: name of the argument, for the message.

    Raises:
        BadValue: no duration above 0.
    """
    words = text.strip().lower().replace(" ", "")
    seconds = 0.0
    if found := _CLOCK.fullmatch(words):
        seconds = sum(float(number) * unit for number, unit in zip(found.groups(), (86400, 3600, 60, 1), strict=True))
    elif found := _UNITS.fullmatch(words):
        seconds = sum(float(number or 0) * unit for number, unit in zip(found.groups(), (3600, 60, 1), strict=True))
    if not seconds > 0:
        raise BadValue(f"`{argument}`={text!r} (allowed: a time above 0, as 90s, 10m, 1h30m or 00:00:10:00)")
    return seconds


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units: `45 s`, `3 min 20 s`, `22 min`, `1 h 5 min`."""
    total = round(max(seconds, 0))
    if total < 60:
        return f"{total} s"
    if total < 600:
        return f"{total // 60} min" + (f" {total % 60} s" if total % 60 else "")
    minutes = round(total / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def clock(seconds: float) -> str:
    """Return a duration as Lightning's `max_time` takes it, DD:HH:MM:SS, at least a second."""
    total = max(round(seconds), 1)
    return f"{total // 86400:02d}:{total // 3600 % 24:02d}:{total // 60 % 60:02d}:{total % 60:02d}"
