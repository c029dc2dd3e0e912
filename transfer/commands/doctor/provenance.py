"""Whether a dataset is what it was, and its archives are the authors'."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.dataset.sheet import ReadOptions
from datamodules.doctor.diagnosis import Finding
from datamodules.doctor.pins import Pin, SplitPin, record_pin, recorded_pin
from datamodules.reading.official_files import find_archives, find_difference
from transfer.environment import versions

if TYPE_CHECKING:
    from datamodules.dataset.sheet import Source
    from datamodules.doctor.subject import Subject

_PACKAGES = ("efficientnet-transfer", "datasets", "pillow")


def check_provenance(
    source: Source, data: Subject, reading: Mapping[str, Any], pin: Path | None, pin_name: str | None
) -> list[Finding]:
    """Return what the archives beside the data and the file of pins say.

    Args:
        source: where the dataset comes from.
        data: what was read of it.
        reading: fields of `ReadOptions` that were given.
        pin: file of pins, which receives the data's at first sight; None: nothing is compared.
        pin_name: what that file calls the data; None: the name of the dataset, folder or table.

    Raises:
        DamagedFile: the file of pins is something else.
    """
    findings = check_archives(source)
    if pin is not None and data.splits:
        now = _pin_of(pin_name or _usual_name(source), data, reading)
        findings.append(_compare_or_record(now, pin, data.complaint is not None))
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


def _usual_name(source: Source) -> str:
    """Return the dataset's name; of the user's own data that of their folder or table, which may lie elsewhere."""
    root = source.options.root
    return root.resolve().name if source.sheet.name == "folder" and root is not None else source.sheet.name


def _pin_of(name: str, data: Subject, reading: Mapping[str, Any]) -> Pin:
    usual = ReadOptions()
    return Pin(
        dataset=name,
        options={name: reading[name] for name in sorted(reading) if reading[name] not in (None, getattr(usual, name))},
        splits={name: SplitPin(len(split), split.fingerprint()) for name, split in data.splits.items()},
        first_seen=datetime.now(UTC).date().isoformat(),
        versions=versions(_PACKAGES),
    )


def _compare_or_record(now: Pin, path: Path, is_refused: bool) -> Finding:
    before = recorded_pin(path, now)
    if before is None and is_refused:
        return Finding("warning", "pin", f"not pinned in {path}: training refuses the data as they are")
    before = before or record_pin(path, now)
    if before is now:
        counts = ", ".join(f"{name} {split.images:,}" for name, split in now.splits.items())
        return Finding("note", "pin", f"{now.dataset} is pinned in {path} from now on: {counts}")
    if not (differences := before.differences(now)):
        return Finding("note", "pin", f"{now.dataset} is as {path} pinned it on {before.first_seen}")
    listed = "; ".join(f"{name}: {difference}" for name, difference in differences.items())
    return Finding(
        "error",
        "pin",
        f"{now.dataset} is not as {path} pinned it on {before.first_seen} ({listed}): results on it are not comparable."
        f" Restore the data; or, if the change is meant, remove the entry of {now.dataset} from the file; or, if these"
        " are other data with the same name, give them one of their own with --pin_name NAME",
    )
