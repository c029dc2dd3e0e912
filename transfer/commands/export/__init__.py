"""Export finished runs as a bundle: efficientnet-transfer export RUN_DIR --out mymodel/ --format onnx,openvino

A bundle is a folder, or one .zip file, that runs elsewhere: the network in several formats, everything that its images
need, and golden inputs by which `efficientnet-transfer check` proves it there. A bundle can be exported again.
Several runs, seeds or folds, become one bundle, which averages their probabilities.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.commands.console import exit_status
from transfer.commands.next_steps import say_next
from transfer.commands.tables import print_table
from transfer.config.screens import add_help
from transfer.errors import BadValue, MissingData, printable, some_of, unknown_name
from transfer.files import expanded

if TYPE_CHECKING:
    from transfer.bundle.folder import BundleFolder
    from transfer.bundle.record import Record

MAX_DROP = 0.5


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `efficientnet-transfer export`."""
    parser = argparse.ArgumentParser(
        prog="efficientnet-transfer export", description="Export finished runs as a bundle that runs elsewhere."
    )
    add = parser.add_argument
    runs = "folder of a run, or of several whose probabilities are averaged; or a bundle to export again"
    add("runs", metavar="RUN_DIR", nargs="+", help=runs)
    add("--out", type=expanded, required=True, metavar="PATH", help="the bundle: a new folder, or a .zip file")
    formats = (
        "of onnx, openvino, torch and torchscript, separated by commas; default: those that are installed, without"
        " torchscript, or the bundle's"
    )
    add("--format", dest="formats", type=_words, metavar="NAMES", help=formats)
    add("--int8", action="store_true", help="also in 8 bits, calibrated on training images")
    drop = f"accuracy on val that 8 bits may cost, in percentage points; default: {MAX_DROP}"
    add("--max_drop", type=float, default=MAX_DROP, metavar="POINTS", help=drop)
    golden = "golden inputs: 8 photos of val, which leave with the bundle (the default where there is val), or noise"
    add("--golden", choices=("photos", "noise"), help=golden)
    add("--checkpoint", choices=("best", "last"), help="default: best; metrics are the best one's")
    add("--data_root", type=expanded, metavar="PATH", help="where the run's data lie now")
    add("--overwrite", action="store_true", help="replace a bundle at PATH")
    add_help(parser)
    return parser


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = vars(build_parser().parse_args(argv))
    return exit_status(lambda: export(**arguments), build_parser)


def export(
    runs: str | Path | Sequence[str | Path],
    out: str | Path,
    formats: list[str] | None = None,
    int8: bool = False,
    max_drop: float = MAX_DROP,
    golden: str | None = None,
    checkpoint: str | None = None,
    data_root: str | Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write a bundle, whole or not at all, and print how close each format comes to the float32 PyTorch classifier.

    Args:
        runs: a run's folder; several, whose probabilities are averaged; or a bundle to export again.
        out: the bundle's folder, or its file if that ends in .zip.
        formats: of `onnx`, `openvino`, `torch` and `torchscript`; None: those that are installed, without
            `torchscript`, or those of the bundle.
        int8: whether to add 8 bits, where a format has them.
        max_drop: accuracy on val that 8 bits may cost, in percentage points, at least 0.
        golden: `photos` of val, or `noise`; None: photos where the run, of several the first, has a val split.
        checkpoint: `best` or `last`; None: best.
        data_root: where the runs' data lie now.
        overwrite: whether a bundle at `out` may be replaced.

    Raises:
        MissingData: there is no such run, its data are not there, or a package is not installed.
        BadValue: a network is code of the user's own, runs cannot be averaged, a format answers otherwise, or 8 bits
            cost too much.
        DamagedFile: the run or the bundle is damaged.
    """
    from transfer.bundle.folder import BundleFolder, check_destination, new_bundle
    from transfer.bundle.golden import describe_places

    paths = [expanded(path) for path in ([runs] if isinstance(runs, str | Path) else runs)]
    out = expanded(out)
    check_destination(out, overwrite)
    if not 0 <= max_drop <= 100:
        raise BadValue(f"`max_drop`={max_drop:g} (allowed: 0 to 100)")
    former = find_former(paths)
    if former is not None and (golden, checkpoint, data_root) != (None, None, None):
        raise BadValue(f"{former.path} is a bundle: `golden`, `checkpoint` and `data_root` are for a run")
    chosen = choose_formats(formats, int8, former)

    from transfer.bundle.writing import write_bundle
    from transfer.commands.export.source import from_bundle, from_runs

    if former is None:
        any_int8 = any(name.endswith("-int8") for name in chosen)
        root = None if data_root is None else expanded(data_root)
        source, photos = from_runs(paths, golden, checkpoint or "best", root, any_int8)
    else:
        source, photos = from_bundle(former), []
    with new_bundle(out) as folder:
        record = write_bundle(source, folder, chosen, max_drop)
        places = describe_places(BundleFolder(out, folder, record)) if record.golden == "photos" else ""
    print_bundle(out, record, photos, places)
    if len(paths) > 1 and "test" in record.metrics:
        print("test was read for the average, which test_reads.json of each run counts")


def find_former(paths: Sequence[Path]) -> BundleFolder | None:
    """Return the bundle that is exported again; None where runs are exported.

    Raises:
        BadValue: there is no path, or a bundle is not alone.
        MissingData, DamagedFile: the bundle is not whole.
    """
    from transfer.bundle.folder import is_bundle, open_folder

    if not paths:
        raise BadValue("`runs`: none is given")
    bundles = [path for path in paths if is_bundle(path)]
    if bundles and len(paths) > 1:
        raise BadValue(f"{bundles[0]} is a bundle, which is exported again alone; name the runs that it was made of")
    return open_folder(bundles[0]) if bundles else None


def choose_formats(formats: list[str] | None, int8: bool, former: BundleFolder | None) -> list[str]:
    """Return the formats to write, in the order of their table.

    Raises:
        BadValue: one is unknown, none has 8 bits, or a bundle that is exported again does not hold them.
        MissingData: a package is not installed.
    """
    from transfer.bundle.formats import FORMATS
    from transfer.bundle.models import INT8

    wide = [name for name in FORMATS if not name.endswith(INT8)]
    for name in formats or ():
        if name not in wide:
            raise unknown_name("format", name, wide)
    held = [] if former is None else list(former.record.formats)
    chosen = list(formats or held or [name for name in wide if FORMATS[name].by_default and lacking(name) is None])
    if int8:
        chosen += [name + INT8 for name in chosen if name + INT8 in FORMATS and name + INT8 not in chosen]
        if not any(name.endswith(INT8) for name in chosen):
            raise BadValue(f"`int8`=True: {', '.join(chosen)} has no 8 bits here (allowed: with onnx or openvino)")
    if not chosen:
        raise MissingData("`format`: nothing is installed that writes one")
    for name in chosen:
        if package := lacking(name):
            raise MissingData(f"`format`={name}: {package} is not installed; run: pip install {package}")
        if former is not None and name.endswith(INT8) and name not in held:
            raise BadValue(f"`int8`=True: {former.path} holds no {name}, and no training images; export its run")
    return [name for name in FORMATS if name in chosen]


def lacking(format: str) -> str | None:
    """Return a package that is needed to write a format and open it, and is not installed."""
    from transfer.bundle.formats import FORMATS

    writers = {"onnx": ("onnx",), "onnx-int8": ("onnx",), "openvino-int8": ("nncf",)}
    needed = (*writers.get(format, ()), FORMATS[format].package)
    return next((package for package in needed if find_spec(package) is None), None)


def print_bundle(out: Path, record: Record, photos: Sequence[str], places: str) -> None:
    """Print what was written, which photos leave with it, and how close each format comes."""
    from rich.table import Table

    from transfer.bundle.card import seen_images
    from transfer.bundle.golden import FOLDER, INDEX

    backbones = ", ".join(member.network.backbone for member in record.members)
    print(
        printable(
            f"{out}: {record.name} ({backbones}, {len(record.class_names)} classes), {len(record.files) + 1} files"
        )
    )
    if len(record.members) > 1:
        for line in describe_average(record):
            print(printable(line))
    if photos:
        print(printable(f"{len(photos)} photos of val leave with it, metadata and all: {some_of(photos, most=8)}"))
    elif record.golden == "photos":  # of a bundle that is exported again: all it knows is their names there
        names = [name for name in record.files if name.startswith(f"{FOLDER}/") and name.count(".") == 1]
        print(f"golden inputs: photos of val, {some_of(sorted({*names} - {INDEX}), most=8)}")
    else:
        print("golden inputs: noise, no photo leaves with it")
    if places:
        print(f"{places}; --golden noise leaves photos out")
    if record.calibration is not None:
        print(f"its calibration holds logits and features of {record.calibration.num_images:,} val images")
    print(f"compared with float32 PyTorch, from the decoded image to the logits; times: {_cpus(record)}")
    table = Table(box=None, pad_edge=False)
    table.add_column("format")
    heads = ("images", "largest difference", "of the largest logit", "same class", "ms at batch 1", "at 32", "8 bits")
    for head in heads:
        table.add_column(head, justify="right")
    for name, found in record.formats.items():
        loss = found.loss
        table.add_row(
            name,
            f"{found.num_images:,} {found.images}",
            f"{found.largest_difference:.2g}",
            f"{found.relative_difference:.1e}",
            f"{100 * found.same_top1:.2f}%",
            *(f"{found.milliseconds[size]:.2f}" for size in ("1", "32")),
            ""
            if loss is None
            else f"{found.parts}: "
            f"{100 * loss.accuracy:.2f}% ({100 * loss.float32:.2f}% in float32;"
            f" {-100 * loss.interval.high:+z.2f} to {-100 * loss.interval.low:+z.2f} points)",
        )
    print_table(table)
    if said := seen_images(record):
        print(said)
    say_next("exported", out)


def describe_average(record: Record) -> Iterator[str]:
    """Yield what the average of several runs answers on the splits that they share, beside their own figures."""
    for split in dict.fromkeys(split for member in record.members for split in member.metrics):
        name = "map" if record.multilabel else "top1"
        own = [f"{100 * found[name]:.2f}%" for m in record.members if name in (found := m.metrics.get(split, {}))]
        together, interval = record.metrics.get(split, {}).get(name), record.intervals.get(split, {}).get(name)
        figure = "not measured, as it is not the same for all of them, was trained on, or is not here"
        if together is not None:
            figure = f"{100 * together:.2f}%" + (f" ({interval.percent()})" if interval else "")
        yield f"{split} {name} of the average of {len(record.members)} runs: {figure}; of each: {', '.join(own)}"
    if record.calibration is None:
        yield "their average is not calibrated: no val split that all have and none was trained on is here"


def _cpus(record: Record) -> str:
    return "; ".join(dict.fromkeys(found.cpu for found in record.formats.values()))
