"""What is wrong with a dataset before anything is trained on it: findings, each with a severity, and their evidence.

An `error` is what makes a reported result false; a `warning` what makes it doubtful; a `note` what is good to know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from datamodules.dataset.split import Split
from datamodules.doctor.inspection import Inspection
from datamodules.doctor.twins import MIN_SIDE, Gallery, Twins, find_exact_twins, find_near_twins
from transfer.errors import some_of
from transfer.images.decode import BadImage

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
NEAR_LEAK_SHARE = 0.01  # of the test images: from here on, near duplicates can move an accuracy by a percent
MIN_TRAIN_IMAGES = 10
MAX_IMBALANCE = 10.0
_BLANK_STD = 1.0  # of 255; JPEG of one colour stays below
_MAX_ASPECT = 4.0


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Args:
        severity: see the module's docstring.
        check: what was looked at, in one word.
        message: what was found, why it matters, what to do.
        images: names of the images concerned, all of them; several in one string where they belong together.
    """

    severity: Severity
    check: str
    message: str
    images: list[str] = field(default_factory=list)


@dataclass
class Diagnosis:
    """All findings, and the duplicates."""

    findings: list[Finding]
    gallery: Gallery
    exact: Twins
    near: Twins


def diagnose(
    class_names: Sequence[str],
    splits: Mapping[str, Split],
    inspection: Inspection,
    near_distance: int,
    skipped: Sequence[BadImage] = (),
) -> Diagnosis:
    """Return everything that labels, sizes and pixels tell, the most severe finding first.

    Args:
        class_names: in index order.
        splits: what was inspected.
        inspection: see `inspect_splits`.
        near_distance: largest distance of the perceptual hashes of near duplicates, in bits, 0 to 63.
        skipped: unreadable images that are no longer in the splits.
    """
    gallery = Gallery(splits, inspection, class_names)
    counts = {name: split.class_counts(len(class_names)) for name, split in splits.items()}
    findings = [*check_readable(inspection, skipped), *check_classes(class_names, counts), *check_images(gallery)]
    exact, near = find_exact_twins(gallery), find_near_twins(gallery, near_distance)
    findings += [*check_exact(exact, gallery), *check_near(near, exact, gallery)]
    return Diagnosis(sort_findings(findings), gallery, exact, near)


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Return errors first, then warnings, then notes."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def check_readable(inspection: Inspection, skipped: Sequence[BadImage] = ()) -> list[Finding]:
    """Find images that cannot be decoded."""
    found = [image for images in inspection.unreadable.values() for image in images]
    bad = [str(image) for image in (*skipped, *found)]
    message = f"{_count(len(bad), 'image')} that cannot be read: repair or remove, or train with `on_bad_image`=skip"
    return [Finding("error", "unreadable", message, bad)] if bad else []


def check_classes(class_names: Sequence[str], counts: Mapping[str, list[int]]) -> list[Finding]:
    """Find too few classes, classes without images in a split, tiny classes and imbalance."""
    if not counts:
        return []
    findings = []
    if len(class_names) < 2:
        findings.append(
            Finding("error", "classes", f"{_count(len(class_names), 'class')} found; at least 2 are needed")
        )
    if "test" not in counts:
        findings.append(Finding("warning", "splits", "no test split: nothing to report a result on"))
    severities: dict[str, Severity] = {"train": "error", "test": "error", "val": "warning"}
    for name, severity in severities.items():
        values = counts.get(name)
        if values and (empty := [c for c, count in zip(class_names, values, strict=True) if count == 0]):
            message = f"no {name} image of {len(empty)} of {len(class_names)} classes: {some_of(empty, 10)}"
            findings.append(Finding(severity, "classes", message))
    train = counts.get("train", [])
    if tiny := [f"{c} ({count})" for c, count in zip(class_names, train, strict=False) if 0 < count < MIN_TRAIN_IMAGES]:
        message = f"{_count(len(tiny), 'class')} with less than {MIN_TRAIN_IMAGES} training images: {some_of(tiny, 10)}"
        findings.append(Finding("warning", "tiny_classes", message))
    if (ratio := imbalance(train)) and ratio > MAX_IMBALANCE:
        message = (
            f"the largest class has {ratio:.0f} times the training images of the smallest: read mean_per_class beside "
            "top1; if every class counts the same, set `metric`=mean_per_class, and for finetune"
            " `loss.logit_adjustment`=true"
        )
        findings.append(Finding("warning", "imbalance", message))
    return findings


def imbalance(counts: Sequence[int]) -> float | None:
    """Return the images of the largest class over those of the smallest that has any; None without images."""
    present = [count for count in counts if count]
    return max(present) / min(present) if present else None


def check_images(gallery: Gallery) -> list[Finding]:
    """Find pictures of one colour, odd shapes and sizes, animations, conversions, and formats that differ by split."""
    inspection = gallery.inspection
    short, long = inspection.short_side, np.maximum(inspection.width, inspection.height)
    median = float(np.median(short)) if len(short) else 0.0
    converted = np.array([mode not in ("RGB", "L") for mode in inspection.mode], bool)
    odd: tuple[tuple[Severity, str, Any, str], ...] = (
        ("warning", "blank", inspection.std < _BLANK_STD, "of a single colour"),
        ("note", "shape", long > _MAX_ASPECT * short, f"with sides over {_MAX_ASPECT:.0f}:1: the crop shows a part"),
        ("note", "small", short * 4 < median, f"under a quarter of the median short side of {median:.0f} pixels"),
        (
            "note",
            "tiny_images",
            short < MIN_SIDE,
            f"under {MIN_SIDE} pixels: too small to look for near duplicates",
        ),
        ("note", "animated", inspection.frames > 1, "with several frames or pages: only the first is used"),
        ("note", "converted", converted, f"to be converted to RGB from {some_of(_modes(inspection.mode), 10)}"),
    )
    findings = []
    for severity, check, mask, what in odd:
        if images := np.flatnonzero(mask).tolist():
            message = f"{_count(len(images), 'image')} {what}"
            findings.append(Finding(severity, check, message, [gallery.name(image) for image in images]))
    main = {}
    for number, name in enumerate(inspection.split_names):
        formats = Counter(inspection.format[image] for image in np.flatnonzero(inspection.split == number))
        if formats:
            main[name] = formats.most_common(1)[0][0]
    if len(set(main.values())) > 1:
        listed = ", ".join(f"{name} {format}" for name, format in main.items())
        message = f"the splits come in different formats ({listed}): compression tells them apart"
        findings.append(Finding("warning", "formats", message))
    return findings


def _modes(modes: Sequence[str]) -> list[str]:
    return sorted(set(modes) - {"RGB", "L"})


def check_exact(exact: Twins, gallery: Gallery) -> list[Finding]:
    """Find copies in two splits or under two labels, and copies within a split."""
    findings = []
    for (a, b), images in exact.found.items():
        if not images:
            continue
        between = [group for group in exact.groups if {a, b} <= {gallery.split(image) for image in group}]
        if a == b:
            between = [group for group in between if len(gallery.by_split(group)[a]) > 1]
            message = (
                f"{_count(len(images), 'image')} of {a} with an equal picture in {a} too: they count more than others"
            )
            findings.append(Finding("note", "duplicates", message, [gallery.join(group) for group in between]))
            continue
        falsifies = (a, b) == ("train", "test")
        why = "the test result is false; remove them from train" if falsifies else f"{b} is not independent of {a}"
        message = f"{_count(len(images), 'image')} of {b} with an equal picture in {a}: {why}"
        severity: Severity = "error" if falsifies else "warning"
        findings.append(Finding(severity, "leakage", message, [gallery.join(group) for group in between]))
    labels = gallery.inspection.labels
    conflicts = [group for group in exact.groups if len({labels[image] for image in group}) > 1]
    across = [_conflicts_with_test(group, gallery) for group in conflicts]
    severities: dict[bool, Severity] = {True: "error", False: "warning"}
    for tested, severity in severities.items():
        if groups := [group for group, is_across in zip(conflicts, across, strict=True) if is_across == tested]:
            where = "between train and test" if tested else "elsewhere than between train and test"
            message = f"{_count(len(groups), 'picture')} with different labels {where}: at most one of them is right"
            findings.append(Finding(severity, "label_conflict", message, [gallery.join(group) for group in groups]))
    return findings


def _conflicts_with_test(group: list[int], gallery: Gallery) -> bool:
    members = gallery.by_split(group)
    labels = gallery.inspection.labels
    return any(labels[a] != labels[b] for a in members["train"] for b in members.get("test", ()))


def check_near(near: Twins, exact: Twins, gallery: Gallery) -> list[Finding]:
    """Find near duplicates in two splits or under two labels."""
    findings = []
    names = gallery.inspection.split_names
    sizes = dict(zip(names, np.bincount(gallery.inspection.split, minlength=len(names)).tolist(), strict=True))
    for (a, b), with_twin in near.found.items():
        if not (images := with_twin - exact.found[a, b]):
            continue
        rows = [group for group in near.groups if sorted(map(gallery.split, group)) == sorted((a, b))]
        share = len(images) / sizes[b]
        counted = f"{_count(len(images), 'image')} of {b} ({100 * share:.2f}%) with a near duplicate in {a}"
        severity: Severity = "note" if a == b else "warning"
        if (a, b) == ("train", "test"):
            severity = "error" if share > NEAR_LEAK_SHARE else "warning"
            counted += f": more than {NEAR_LEAK_SHARE:.0%} falsify the result" if severity == "error" else ""
        check = "near_duplicates" if a == b else "near_leakage"
        findings.append(Finding(severity, check, counted, [gallery.join(group) for group in rows]))
    if conflicts := [g for g in near.groups if gallery.inspection.labels[g[0]] != gallery.inspection.labels[g[1]]]:
        message = f"{_count(len(conflicts), 'pair')} of near duplicates with different labels: look at them"
        findings.append(Finding("warning", "near_label_conflict", message, [gallery.join(g) for g in conflicts]))
    return findings


def _count(count: int, thing: str) -> str:
    return f"{count:,} {thing}" + ("" if count == 1 else "es" if thing.endswith("s") else "s")
