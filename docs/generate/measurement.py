"""What was measured, an entry each: every figure is read from a file in `benchmarks/`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@dataclass(frozen=True)
class Measurement:
    """An entry: what was measured, and how to measure it again."""

    what: str
    file: str
    """in `benchmarks/`, without `.json`"""
    result: Callable[[Any], str]
    """called with the file's content"""
    command: str
    conditions: str = ""
    """threads and seeds, which the file's hardware does not name"""


def load(name: str) -> Any:
    """Return the content of `benchmarks/<name>.json`."""
    return json.loads((BENCHMARKS / f"{name}.json").read_text())


def definitions(measurements: Sequence[Measurement]) -> str:
    """Return a Markdown list of measurements: what was measured, the result, how to repeat it and where it was run."""
    entries = []
    for row in measurements:
        content = load(row.file)
        where = ", ".join(filter(None, (hardware(content), row.conditions)))
        what = row.what[0].upper() + row.what[1:]
        lines = (row.result(content), f"`{row.command}`", f"{where}; {file_of(row.file)}")
        entries.append(f"{what}\n: " + "\\\n  ".join(lines))
    return "\n\n".join(entries)


def file_of(name: str) -> str:
    """Return the path of a file of results, as code."""
    return f"`benchmarks/{name}.json`"


def hardware(content: Any) -> str:
    """Return the machine of a measurement, such as `AMD EPYC, 2 cores`."""
    found = content.get("hardware") or content["environment"]["hardware"]
    machine = found[0] if isinstance(found, list) else found
    return f"{machine['cpu']}, {machine['cores']} cores"


def percent(share: float, digits: int = 1) -> str:
    """Return a share of 1 in percent."""
    return f"{100 * share:.{digits}f}%"


def times(ratio: float, digits: int = 2) -> str:
    """Return a ratio as `1.69 times`."""
    return f"{ratio:.{digits}f} times"


def spread(low: float, high: float, digits: int = 2) -> str:
    """Return a range as `1.65 to 1.72`."""
    return f"{low:.{digits}f} to {high:.{digits}f}"


def duration(seconds: float) -> str:
    """Return a time as `37 s` or `4 min 27 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
