"""A line of a plan."""

from __future__ import annotations

from typing import NamedTuple


class Figure(NamedTuple):
    """A line; `value` is the number in `text`, in bytes, seconds, images, images per second, or what the name says.

    `source` says whether it is counted, predicted, measured, given, assumed or simulated.
    """

    name: str
    value: float
    text: str
    source: str
