"""Examine a dataset before training on it: efficientnet-transfer doctor photos/ --out report/

Exit status 1 means that it found an error: something that would make a result on this data false.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.commands.console import exit_status
from transfer.errors import UserError, printable, unknown_name

if TYPE_CHECKING:
    from rich.table import Table

    from datamodules.doctor.inspection import Inspection
    from datamodules.images.decode import BadImage
    from datamodules.sheet import Source
    from datamodules.split import Split
    from transfer.runs.predictor import Run

_PACKAGES = ("imagehash", "matplotlib")
_SUSPECTS_KEPT, _SUSPECTS_PRINTED = 50, 10
_NAMED = 3  # images printed per finding
_CLASSES_PRINTED = 20
_MEMORY_NAMES = {"gpu": "90% of the GPU's memory in bf16", "ram": "half of the memory"}
_MIN_IMAGE_SIZE = 224  # smaller inputs lose: the networks halve the picture five times

_EPILOG = """\
errors (exit status 1): unreadable images; fewer than two classes, or not the official counts; a class without train or
without test images; an equal picture in train and test; more than 1% of the test images with a near duplicate in train.
Everything else is a warning or a note. Exit status 2: SUBJECT or an option is wrong.

"Equal" compares the decoded pixels, so that a PNG and a BMP of one picture are equal. "Near" are pictures whose
perceptual hashes (imagehash.phash, 64 bits) differ in at most --near_distance bits and whose 16x16 thumbnails correlate
by at least 0.9. These hashes differ by even numbers of bits. Images under 32 pixels are only compared for equality.
Drawings and glyphs resemble each other: look at the pairs, and lower --near_distance. Where a folder has no splits, val
and test are cut at random from all images, so that its duplicates land on both sides.

--run: the suspects are images that the network gives to another class with at least the probability that it gives that
class's own images on average (Northcutt et al. 2021), largest difference to the label's probability first. Training
images were fitted with their labels, so look at val and test first."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and gives the exit status: 1 if something would falsify a result."""
    parser = argparse.ArgumentParser(
        prog="efficientnet-transfer doctor",
        description="Counts, class balance, sizes, bad files, duplicates, leakage and suspect labels of a dataset.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("subject", metavar="SUBJECT", help="a dataset's name, a folder, a CSV or a parquet file")
    parser.add_argument("--data_root", metavar="DIR", help="folder that holds a named dataset's files")
    parser.add_argument("--run", type=Path, metavar="RUN_DIR", help="a finished run: lists images with suspect labels")
    parser.add_argument("--backbone", help="what to recommend sizes for; default: the run's, or lite0")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write doctor.json and class_balance.png there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report there")
    parser.add_argument("--near_distance", type=int, default=8, metavar="N", help="bits, 0 to 16; default: 8")
    parser.add_argument("--num_workers", type=int, help="processes; default: one a usable core, at most 8")
    parser.add_argument("--image_column", help="of a table")
    parser.add_argument("--label_column", help="of a table")
    parser.add_argument("--split_column", help="of a table")
    parser.add_argument("--label_separator", default="|", help="with --multilabel; default: |")
    parser.add_argument("--multilabel", action="store_true", help="an image may have any number of labels")
    arguments = vars(parser.parse_args(argv))
    return exit_status(lambda: int(doctor(**arguments)["falsifies_a_result"]))


def doctor(
    subject: str,
    data_root: str | None = None,
    run: Path | None = None,
    backbone: str | None = None,
    out: Path | None = None,
    json: Path | None = None,
    near_distance: int = 8,
    num_workers: int | None = None,
    **columns: Any,
) -> dict[str, Any]:
    """Prints the diagnosis, writes what was asked for, and gives the report that goes into the JSON file.

    Raises:
        UserError: no such dataset, folder or run, or an option outside its range.
    """
    require_packages()
    if json is not None and not json.parent.is_dir():
        raise UserError(f"--json {json}: no such folder")
    if not 0 <= near_distance <= 16:
        raise UserError(
            f"--near_distance {near_distance} (allowed: 0 to 16 bits; above 8 different pictures look near)"
        )
    if num_workers is not None and num_workers < 0:
        raise UserError(f"--num_workers {num_workers} (allowed: at least 0)")

    from datamodules.doctor.diagnosis import Finding, diagnose, sort_findings
    from datamodules.doctor.inspection import inspect_splits
    from transfer.config.schema import FinetuneConfig
    from transfer.environment import environment
    from transfer.files import write_json
    from transfer.networks.registry import get_backbone
    from transfer.runs.predictor import load_run

    start = time.perf_counter()
    loaded_run = load_run(run) if run is not None else None
    default = loaded_run.config.backbone if loaded_run else FinetuneConfig().backbone
    variant = get_backbone(backbone or default)
    source = open_subject(subject, data_root, columns)
    class_names, splits, skipped, complaint = load_splits(source)
    if loaded_run is not None and class_names and loaded_run.class_names != class_names:
        raise UserError(f"--run {run}: its classes ({_few(loaded_run.class_names)}) are not {_few(class_names)}")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)

    inspection = inspect_splits(splits, num_workers)
    diagnosis = diagnose(class_names, splits, inspection, near_distance, skipped)
    if complaint is not None:
        diagnosis.findings = sort_findings([Finding("error", "setup", complaint), *diagnosis.findings])
    suspects = find_suspects(loaded_run, splits, inspection) if loaded_run else {}
    report = {
        "subject": subject,
        "data_root": data_root,
        "falsifies_a_result": diagnosis.falsifies,
        "findings": [vars(finding) | {"count": len(finding.images)} for finding in diagnosis.findings],
        "classes": list(class_names),
        "splits": {
            name: {"size": len(split), "class_counts": split.class_counts(len(class_names))}
            for name, split in splits.items()
        },
        "images": inspection.summary(),
        "exact_duplicates": diagnosis.exact.report(diagnosis.gallery),
        "near_duplicates": {"near_distance": near_distance, **diagnosis.near.report(diagnosis.gallery)},
        "recommended": recommend(
            variant, inspection, len(splits.get("train", ())), len(class_names), source.sheet.default_image_size
        ),
        "run": None if run is None else str(run),
        "suspects": suspects,
        "seconds": round(time.perf_counter() - start, 1),
        "environment": environment(),
    }
    print_report(report)
    if out is not None:
        write_json(out / "doctor.json", report)
        if splits:
            draw_class_balance(report, out / "class_balance.png")
        print(f"written: {out / 'doctor.json'}" + (f", {out / 'class_balance.png'}" if splits else ""))
    if json is not None:
        write_json(json, report)
    return report


def require_packages() -> None:
    """Refuses to start without the packages of the extra `doctor`.

    Raises:
        UserError: one of them is missing.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise UserError(
            f"doctor.py needs the packages of the extra 'doctor' ({' and '.join(missing)} missing): "
            "pip install 'efficientnet-transfer[doctor]'"
        )


def open_subject(subject: str, data_root: str | None, columns: dict[str, Any]) -> Source:
    """Return the source of a dataset's name, or of the user's own folder or table; nothing is read yet.

    Raises:
        UserError: neither a dataset nor a path.
    """
    from datamodules import get_sheet, list_datasets
    from datamodules.sheet import ReadOptions, Source

    if subject not in list_datasets():
        if not Path(subject).expanduser().exists():
            if Path(subject).name != subject:
                raise UserError(f"no such file or folder: {subject}")
            raise UserError(f"no such file or folder, and {unknown_name('dataset', subject, list_datasets())}")
        if data_root is not None:
            raise UserError(f"--data_root {data_root}: give either a path or a dataset's name with --data_root")
        subject, data_root = "folder", subject
    elif subject == "folder" and data_root is None:
        raise UserError("dataset 'folder' needs --data_root, or give the path itself: doctor photos/")
    sheet = get_sheet(subject)
    # All bad images are wanted. Where loading does not look for them, the inspection does, and once is enough.
    on_bad_image = "skip" if sheet.checks_all_images else "error"
    return Source(sheet, ReadOptions(data_root=data_root, on_bad_image=on_bad_image, **columns))


def load_splits(
    source: Source,
) -> tuple[tuple[str, ...], Mapping[str, Split], Sequence[BadImage], str | None]:
    """Return class names, splits and unreadable images as training gets them.

    If training refuses them, return them as they are in the source, and the complaint.

    Raises:
        UserError: A named dataset could not be loaded at all.
    """
    from datamodules.dataset import read_dataset, read_source

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the unreadable images are findings
        try:
            dataset = read_dataset(source)
        except UserError as error:
            complaint = str(error)
        else:
            return dataset.class_names, dataset.splits, dataset.skipped, None
        try:
            class_names, splits = read_source(source)
        except UserError:
            if source.sheet.name != "folder":
                raise
            return (), {}, (), complaint
    return class_names, {name: splits[name] for name in ("train", "val", "test") if name in splits}, (), complaint


def recommend(
    variant: Any, inspection: Inspection, train_size: int, num_classes: int, default_image_size: int | None
) -> dict[str, Any]:
    """An image size from the images and the network, and a batch size from an estimate of the memory.

    The size is the median short side in steps of 32, but at least 224 and at most the network's own resolution; a data
    sheet's own size comes first. The batch is finetune's default, less where that does not fit or where an epoch
    would have under 8 steps; learning rates are tuned for it, so more room is no reason for more.
    """
    import numpy as np
    import torch

    from transfer.config.schema import DataConfig
    from transfer.costs.memory import largest_batch, training_memory, usable_memory
    from transfer.weights.build import build_classifier

    if not len(inspection):
        return {}
    short = float(np.median(inspection.short_side))
    size = default_image_size or min(variant.resolution, max(_MIN_IMAGE_SIZE, int(short) // 32 * 32))
    memory, of = usable_memory()
    with torch.device("meta"):
        classifier = build_classifier(variant.name, max(num_classes, 1))
    needed = training_memory(classifier, size, precision="bf16-mixed" if of == "gpu" else "32-true")
    fits = largest_batch(memory, needed)
    default = DataConfig().batch_size
    most = min(default, max(8, train_size // 8), default if fits is None else max(fits, 1))
    return {
        "backbone": variant.name,
        "image_size": size,
        "median_short_side": short,
        "batch_size": 1 << (most.bit_length() - 1),
        "largest_batch_that_fits": fits,
        "training_bytes_per_image": needed.per_image,
        "memory_bytes": memory,
        "memory_of": of,
        "is_an_estimate": True,
    }


def find_suspects(run: Run, splits: Mapping[str, Split], inspection: Inspection) -> dict[str, list[dict[str, Any]]]:
    """Up to 50 images of each split whose label the run's network doubts, worst first; val and test come first."""
    import numpy as np

    from datamodules.doctor.suspects import predict_split, rank_suspects
    from datamodules.images.transforms import build_eval_transform

    seen = run.preprocessing
    transform = build_eval_transform(seen.image_size, seen.crop_ratio, seen.interpolation, seen.resize)
    suspects = {}
    for name in sorted(splits, key=("val", "test", "train").index):
        number = inspection.split_names.index(name)
        readable = splits[name].select(inspection.position[inspection.split == number])
        if not len(readable):
            continue
        multilabel = readable.labels.ndim == 2
        probabilities = predict_split(run.classifier, readable, transform, seen.mean, seen.std, multilabel)
        labels = readable.labels.numpy()
        is_label = labels > 0 if multilabel else np.eye(len(run.class_names), dtype=bool)[labels]
        suspects[name] = [
            {
                "image": readable.image_name(image),
                "label": run.class_names[doubted],
                "label_probability": round(float(probabilities[image, doubted]), 4),
                "suggested": run.class_names[other],
                "suggested_probability": round(float(probabilities[image, other]), 4),
            }
            for image, doubted, other in rank_suspects(probabilities, is_label)[:_SUSPECTS_KEPT]
        ]
    return suspects


def print_report(report: dict[str, Any]) -> None:
    """The short form on the terminal: tables, findings with a few names, recommendations."""
    from rich.console import Console

    # File and class names are data: no markup, no emoji codes, no control characters.
    console = Console(markup=False, highlight=False, emoji=False)
    splits = report["splits"]
    sizes = ", ".join(f"{name} {content['size']:,}" for name, content in splits.items())
    console.print(
        f"{printable(report['subject'])}: {len(report['classes'])} classes; {sizes or 'no images'}", soft_wrap=True
    )
    if splits:
        console.print(_class_table(report), _size_table(report["images"]), _duplicate_table(report))
    for name, rows in report["suspects"].items():
        if rows:
            console.print(_suspect_table(name, rows))
    if recommended := report["recommended"]:
        console.print(_advice(recommended), soft_wrap=True)
    for finding in report["findings"]:
        console.print(f"{finding['severity']}: {printable(finding['message'])}", soft_wrap=True)
        for image in finding["images"][:_NAMED]:
            console.print(f"    {_shorten(printable(image))}", soft_wrap=True)
        if finding["count"] > _NAMED:
            console.print(f"    ... and {finding['count'] - _NAMED:,} more (--out DIR writes all)", soft_wrap=True)
    if not report["findings"]:
        console.print("nothing found")


def _shorten(text: str, most: int = 300) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")


def _table(title: str, first: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _class_table(report: dict[str, Any]) -> Table:
    names = list(report["splits"])
    table = _table("images per class", "class", *names)
    rows = list(zip(report["classes"], *(report["splits"][name]["class_counts"] for name in names), strict=True))
    if len(rows) > _CLASSES_PRINTED:
        rows.sort(key=lambda row: -row[1])
        half = _CLASSES_PRINTED // 2
        table.title = f"images per class: the {half} largest and the {half} smallest of {len(rows)}"
        rows = rows[:half] + rows[-half:]
    for class_name, *counts in rows:
        table.add_row(printable(class_name), *(f"{count:,}" for count in counts))
    return table


def _size_table(images: dict[str, Any]) -> Table:
    formats = ", ".join(f"{name} {count:,}" for name, count in images["formats"].items())
    table = _table(f"readable images: {images['readable']:,} ({formats})", "", "min", "5%", "median", "95%", "max")
    for row in ("width", "height", "bytes", "brightness", "contrast"):
        if row in images:
            table.add_row(row, *(f"{value:,.0f}" for value in images[row].values()))
    return table


def _duplicate_table(report: dict[str, Any]) -> Table:
    table = _table("images with a twin", "in", "equal", "near")
    exact, near = (report[f"{kind}_duplicates"]["images_with_a_twin"] for kind in ("exact", "near"))
    for where in exact:
        first, _, second = where.partition("/")
        table.add_row(f"{second} of one in {first}" if second else first, f"{exact[where]:,}", f"{near[where]:,}")
    return table


def _suspect_table(split: str, rows: list[dict[str, Any]]) -> Table:
    shown = rows[:_SUSPECTS_PRINTED]
    fitted = "; the network was fitted to these labels" if split == "train" else ""
    table = _table(f"suspect labels in {split}: the first {len(shown)} of {len(rows)}{fitted}", "image")
    table.add_column("label", overflow="fold")
    table.add_column("rather", overflow="fold")
    for row in shown:
        label, other = (f"{printable(row[k])} {row[f'{k}_probability']:.2f}" for k in ("label", "suggested"))
        table.add_row(printable(row["image"]), label, other)
    return table


def _advice(recommended: dict[str, Any]) -> str:
    fits, of = recommended["largest_batch_that_fits"], recommended["memory_of"]
    memory = "" if fits is None else f" (about {fits:,} fit in {_MEMORY_NAMES[of]}, an estimate)"
    return (
        f"recommended for {recommended['backbone']}: --image_size {recommended['image_size']} (median short side "
        f"{recommended['median_short_side']:.0f}), --data.batch_size {recommended['batch_size']}{memory}"
    )


def draw_class_balance(report: dict[str, Any], path: Path) -> None:
    """A bar for each class, stacked by split: 1000 pixels wide, 22 a class high and at most 20,000."""
    from matplotlib.figure import Figure

    classes = report["classes"]
    pixels = min(160 + 22 * len(classes), 20_000)
    figure = Figure(figsize=(10, pixels / 100), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    left = [0] * len(classes)
    for name, split in report["splits"].items():
        axes.barh(range(len(classes)), split["class_counts"], left=left, label=name, height=0.8)
        left = [before + count for before, count in zip(left, split["class_counts"], strict=True)]
    labels = [_shorten(printable(name), 40) for name in classes]
    axes.set_yticks(range(len(classes)), labels, parse_math=False)
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.set_xlabel("images")
    figure.legend(loc="outside upper right", ncols=len(report["splits"]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box in place of a letter that no font has
        figure.savefig(path)
