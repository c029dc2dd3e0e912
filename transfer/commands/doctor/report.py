"""The doctor's report: what is in it, how a terminal shows it, and the picture of the classes."""

from __future__ import annotations

import csv
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.doctor.diagnosis import Finding, sort_findings
from datamodules.doctor.twins import list_groups
from transfer.commands.console import find_flags, name_flags
from transfer.commands.doctor.twins_sheet import draw_twins
from transfer.commands.suspect_files import write_suspects
from transfer.commands.tables import print_table
from transfer.config.auto import usual_method
from transfer.config.command_line import build_parser as build_finetune_parser
from transfer.config.data_schema import DataConfig
from transfer.costs.recommendation import recommend_sizes
from transfer.environment import environment
from transfer.errors import printable
from transfer.files import write_json, write_text

if TYPE_CHECKING:
    from rich.table import Table

    from datamodules.doctor.diagnosis import Diagnosis
    from datamodules.doctor.inspection import Inspection
    from datamodules.doctor.subject import Subject
    from transfer.commands.doctor.suspects import Suspects
    from transfer.networks.function import FunctionVariant
    from transfer.networks.rows import Variant

_SUSPECTS_PRINTED = 10
_NAMED = 3  # images printed per finding
_CLASSES_PRINTED = 20
_MEMORY_NAMES = {"gpu": "90% of the GPU's memory in bf16", "ram": "half of the memory"}


def build_report(
    data: Subject,
    inspection: Inspection,
    diagnosis: Diagnosis,
    variant: Variant | FunctionVariant,
    near_distance: int,
    suspects: Suspects | None,
) -> dict[str, Any]:
    """Return what is found in a dataset, as doctor.json has it.

    Args:
        data: what was read of the dataset.
        inspection: of its images.
        diagnosis: what is wrong with them.
        variant: the network to recommend sizes for.
        near_distance: bits by which the hashes of near duplicates may differ.
        suspects: images with a doubtful label; None if nobody looked for them.
    """
    said = {finding.message for finding in diagnosis.findings}
    remarks = [Finding("warning", "reading", remark) for remark in data.remarks if remark not in said]
    complaints = [] if data.complaint is None else [Finding("error", "setup", data.complaint)]
    findings = sort_findings([*complaints, *remarks, *diagnosis.findings])
    recommended: dict[str, Any] = {}
    if len(inspection):
        recommended = recommend_sizes(
            variant,
            short_sides=inspection.short_side.tolist(),
            num_classes=len(data.class_names),
            own_size=data.default_image_size,
        )
        if (train := data.splits.get("train")) is not None and train.labels.ndim == 1:
            recommended["method"] = usual_method(len(train))
    return {
        "falsifies_a_result": any(finding.severity == "error" for finding in findings),
        "findings": [vars(finding) | {"count": len(finding.images)} for finding in findings],
        "classes": list(data.class_names),
        "splits": {
            name: {"size": len(split), "class_counts": split.class_counts(len(data.class_names))}
            for name, split in data.splits.items()
        },
        "images": inspection.summary(),
        "exact_duplicates": diagnosis.exact.report(diagnosis.gallery),
        "near_duplicates": {"near_distance": near_distance, **diagnosis.near.report(diagnosis.gallery)},
        "groups": list_groups(diagnosis.gallery, diagnosis.exact, diagnosis.near),
        "recommended": recommended,
        "suspects": suspects.rows if suspects else {},
        "suspects_fitted": suspects.fitted if suspects else [],
        "environment": environment(),
    }


def print_report(report: dict[str, Any]) -> None:
    """Print the report's tables, its recommendations, and its findings with the names of a few images."""
    from rich.console import Console

    # File and class names are data: no markup, no emoji codes, no control characters.
    console = Console(markup=False, highlight=False, emoji=False)
    splits = report["splits"]
    sizes = ", ".join(f"{name} {content['size']:,}" for name, content in splits.items())
    console.print(
        f"{printable(report['subject'])}: {len(report['classes'])} classes; {sizes or 'no images'}", soft_wrap=True
    )
    if splits:
        print_table(_class_table(report), _size_table(report["images"]), _duplicate_table(report))
    for name, rows in report["suspects"].items():
        if rows:
            print_table(_suspect_table(name, rows, name in report["suspects_fitted"]))
    if recommended := report["recommended"]:
        console.print(_advice(recommended), soft_wrap=True)
    flags = find_flags(build_finetune_parser)  # what a finding advises is for the training
    for finding in report["findings"]:
        message = name_flags(finding["message"], flags)
        console.print(f"{finding['severity']}: {printable(message)}", soft_wrap=True)
        for image in finding["images"][:_NAMED]:
            console.print(f"    {_shorten(printable(image))}", soft_wrap=True)
        if finding["count"] > _NAMED:
            console.print(f"    ... and {finding['count'] - _NAMED:,} more (--out_dir DIR writes all)", soft_wrap=True)
    if not report["findings"]:
        console.print("nothing found")


def write_report(report: dict[str, Any], diagnosis: Diagnosis, suspects: Suspects | None, out_dir: Path) -> list[Path]:
    """Write the report's files and return their paths.

    They are doctor.json, class_balance.png if there are images, groups.csv and twins.png if any are twins, and
    suspects.csv and .png if they were looked for.
    """
    written = [out_dir / "doctor.json"]
    write_json(written[0], report)
    if report["splits"]:
        written.append(out_dir / "class_balance.png")
        draw_class_balance(report, written[1])
    if report["groups"]:
        written.append(out_dir / "groups.csv")
        text = io.StringIO()
        table = csv.DictWriter(text, fieldnames=("image", "label", "group"))
        table.writeheader()
        table.writerows(report["groups"])
        write_text(written[-1], text.getvalue())
    if (sheet := draw_twins(diagnosis, out_dir)) is not None:
        written.append(sheet)
    if suspects is not None:
        rows = [row for rows in suspects.rows.values() for row in rows]
        written += write_suspects(rows, suspects.pixels, out_dir)
    return written


def _shorten(text: str, most: int = 300) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


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


def _suspect_table(split: str, rows: list[dict[str, Any]], is_fitted: bool) -> Table:
    shown = rows[:_SUSPECTS_PRINTED]
    fitted = "; the network was fitted to these labels" if is_fitted else ""
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
    default = DataConfig().batch_size
    rest = f" --global_batch_size {default}" if recommended["batch_size"] < default else ""
    method = f", --method {recommended['method']}" if "method" in recommended else ""
    return (
        f"recommended for {recommended['backbone']}: --image_size {recommended['image_size']} (median short side "
        f"{recommended['median_short_side']:.0f}), --data.batch_size {recommended['batch_size']}{rest}{memory}{method}"
    )


def draw_class_balance(report: dict[str, Any], path: Path) -> None:
    """Draw a bar for each class, stacked by split, to an image file.

    The picture is 1000 pixels wide and 22 pixels high for each class, at most 20,000.
    """
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
