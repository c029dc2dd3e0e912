"""Bytes as people write and read them."""

from __future__ import annotations

import math
import re

from transfer.errors import BadValue

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def parse_bytes(text: str, argument: str) -> int:
    """Return the bytes that a text names, such as `16GiB` or `500 MB`; the unit's case does not matter.

    Args:
        text: the number and its unit.
        argument: name of the argument, for the message.

    Raises:
        UserError: no number above 0, or no unit that is known here.
    """
    units = {unit.lower(): size for unit, size in UNITS.items()}
    found = re.fullmatch(r"([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-z]+)", text.strip().lower())
    try:
        size = float(found[1]) * units[found[2]] if found else math.nan
    except (ValueError, KeyError):
        size = math.nan
    if not (math.isfinite(size) and size >= 1):
        raise BadValue(f"`{argument}`={text!r}: give a number and a unit (allowed: {', '.join(UNITS)}), as 16GiB")
    return int(size)


def format_bytes(size: float, digits: int = 4) -> str:
    """Return a size with this number of digits, in the largest binary unit of which it has at least one."""
    unit = next((unit for unit in ("TiB", "GiB", "MiB", "KiB") if abs(size) >= UNITS[unit]), "B")
    return f"{size / UNITS[unit]:.{digits}g} {unit}"
