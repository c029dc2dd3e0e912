"""Whether a dataset is what it was, and its archives are the authors'."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.dataset.sheet import ReadOptions
from datamodules.doctor.diagnosis import Finding
from datamodules.doctor.pins import Pin, SplitPin, find_pin, read_pins, write_pins
from datamodules.reading.official_files import find_archives, find_difference
from transfer.environment import versions

if TYPE_CHECKING:
    from datamodules.dataset.sheet import Source
    from datamodules.doctor.subject import Subject

_PACKAGES = ("efficientnet-transfer", "datasets", "pillow")


def check_provenance(
    subject: str, source: Source, data: Subject, reading: Mapping[str, Any], pin: Path | None
) -> list[Finding]:
    """Return what the archives beside the data and the file of pins say.

    Args:
        subject: the dataset's name or path, as it was asked for.
        source: what it stands for.
        data: what was read of it.
        reading: fields of `ReadOptions` that were given.
        pin: file of pins, which receives the data's at first sight; None: nothing is compared.

    Raises:
        DamagedFile: the file of pins is something else.
    """
    findings = check_archives(source)
    if pin is not None and data.splits:
        findings.append(_compare_or_record(_pin_of(subject, source, data, reading), pin, data.complaint is not None))
    return findings


def check_archives(source: Source) -> list[Finding]:
    """Return whether each archive that lies where a named dataset is looked for is the authors'."""
    layout, root = source.sheet.layout, source.options.root
    if layout is None or root is None:
        return []
    findings = []
    for archive in find_archives(layout, root, source.sheet.name):
        releases = layout.releases(archive.name)
        if difference := find_difference(archive, releases):
            message = f"{archive} is not the authors' archive ({difference}): what was extracted from it may differ too"
            findings.append(Finding("warning", "archive", message))
        elif any(release.sha256 or release.md5 for release in releases):
            findings.append(Finding("note", "archive", f"{archive} is the authors' archive, by its checksum"))
    return findings


def _pin_of(subject: str, source: Source, data: Subject, reading: Mapping[str, Any]) -> Pin:
    usual = ReadOptions()
    own = source.sheet.name == "folder" and source.options.root is not None
    return Pin(
        dataset=source.options.root.resolve().name if own and source.options.root else subject,
        options={name: reading[name] for name in sorted(reading) if reading[name] not in (None, getattr(usual, name))},
        splits={name: SplitPin(len(split), split.fingerprint()) for name, split in data.splits.items()},
        first_seen=datetime.now(UTC).date().isoformat(),
        versions=versions(_PACKAGES),
    )


def _compare_or_record(now: Pin, path: Path, is_refused: bool) -> Finding:
    pins = read_pins(path)
    before = find_pin(pins, now)
    if before is None and is_refused:
        return Finding("warning", "pin", f"not pinned in {path}: training refuses the data as they are")
    if before is None:
        write_pins(path, [*pins, now])
        counts = ", ".join(f"{name} {split.images:,}" for name, split in now.splits.items())
        return Finding("note", "pin", f"{now.dataset} is pinned in {path} from now on: {counts}")
    if not (differences := before.differences(now)):
        return Finding("note", "pin", f"{now.dataset} is as {path} pinned it on {before.first_seen}")
    listed = "; ".join(f"{name}: {difference}" for name, difference in differences.items())
    return Finding(
        "error",
        "pin",
        f"{now.dataset} is not as {path} pinned it on {before.first_seen} ({listed}): results on it are not comparable."
        f" Restore the data, or, if the change is meant, remove the entry of {now.dataset} from the file",
    )
