"""Fingerprints of datasets in a file that people share: recorded at first sight, compared ever after."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from transfer.files import read_json, write_text
from transfer.locks import held
from transfer.records import checked


@dataclass(frozen=True)
class SplitPin:
    """What a split was.

    Args:
        images: how many it has.
        fingerprint: of their bytes and labels, whatever their order; see `Split.fingerprint`.
    """

    images: int
    fingerprint: str


@dataclass(frozen=True)
class Pin:
    """What a dataset was when it was seen first.

    Args:
        dataset: its name, that of the folder or table, or one that the user gave.
        options: how it was read, where that is not the default: other labels or parts have other fingerprints.
        splits: each of its splits.
        first_seen: the day, as 2026-11-30.
        versions: version of each package that reads it.
    """

    dataset: str
    options: Mapping[str, Any]
    splits: Mapping[str, SplitPin]
    first_seen: str
    versions: Mapping[str, str | None]

    @property
    def key(self) -> tuple[str, str]:
        """What two pins of the same data have in common, as text."""
        return self.dataset, json.dumps(dict(self.options), sort_keys=True)

    def differences(self, now: Pin) -> dict[str, str]:
        """Return in which way each split differs now, in words; only those that do."""
        found = {}
        for name in sorted({*self.splits, *now.splits}):
            before, after = self.splits.get(name), now.splits.get(name)
            if before is None or after is None:
                found[name] = "no such split then" if before is None else "no such split any more"
            elif before.images != after.images:
                found[name] = f"{before.images:,} images then, {after.images:,} found"
            elif before.fingerprint != after.fingerprint:
                found[name] = "other images or labels"
        return found


@dataclass(frozen=True)
class _File:
    format: Literal[1]
    pins: list[Pin]


def read_pins(path: Path) -> list[Pin]:
    """Return the pins in a file; none if it does not exist.

    Raises:
        DamagedFile: it is something else than a file of pins.
    """
    return checked(read_json(path), _File, path).pins if path.exists() else []


def recorded_pin(path: Path, now: Pin) -> Pin | None:
    """Return the pin in a file of the same dataset, read in the same way; None if there is none.

    Raises:
        DamagedFile: it is something else than a file of pins.
    """
    return next((pin for pin in read_pins(path) if pin.key == now.key), None)


def record_pin(path: Path, now: Pin) -> Pin:
    """Add a pin to a file and return it, or the one of the same data that another process has added meanwhile.

    The file is sorted, so that those of two people differ only where their data do.

    Raises:
        DamagedFile: it is something else than a file of pins.
    """
    with held(path.with_name(f".{path.name}.lock")):
        if (before := recorded_pin(path, now)) is not None:
            return before
        pins = sorted([*read_pins(path), now], key=lambda pin: pin.key)
        content = {"format": 1, "pins": [asdict(pin) for pin in pins]}
        write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
    return now
