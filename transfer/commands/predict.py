"""Classify photos with a finished run or a bundle: efficientnet-transfer predict RUN_DIR photos/ --format csv"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from transfer.calibration.guarantees import UNKNOWN, Guarantees
from transfer.commands.console import add_allow_user_code, add_engine, check_folder, exit_status
from transfer.commands.next_steps import say_next
from transfer.commands.predict_guarantees import add_guarantees, read_guarantees, report_certainty, report_temperature
from transfer.commands.predict_options import Batch, Options, Predictor
from transfer.commands.predict_sheet import Sheet, check_sheet
from transfer.commands.predict_summary import Summary, print_first
from transfer.config.screens import add_help
from transfer.errors import BadValue, MissingData, printable
from transfer.files import expanded, written_whole
from transfer.markdown import harmless_cell
from transfer.predictions import Prediction
from transfer.progress import print_above, track

if TYPE_CHECKING:
    from rich.console import Console


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `efficientnet-transfer predict`."""
    parser = argparse.ArgumentParser(
        prog="efficientnet-transfer predict",
        description="Classify images with a run of finetune or a bundle.",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", type=expanded, help="folder of a run, or a bundle")
    parser.add_argument(
        "images", metavar="IMAGES", type=expanded, nargs="+", help="files, or folders searched for images"
    )
    format = "json is one object a line, table the first rows; default: table on a terminal, else csv"
    parser.add_argument("--format", choices=("table", "csv", "json"), help=format)
    parser.add_argument("--out", type=expanded, metavar="FILE", help="receives all rows; default: the terminal")
    sheet = "a page that shows, for each class, the photos that are surest and least sure to be of it"
    parser.add_argument("--sheet", type=expanded, metavar="FILE.html", help=sheet)
    top_k = "classes per image, most probable first; default: 1, or every label that a multi-label run gives"
    parser.add_argument("--top_k", type=int, help=top_k)
    add_guarantees(parser)
    batch_size = f"images per step; default: {Options.batch_size}"
    parser.add_argument(
        "--data.batch_size", "--batch_size", dest="batch_size", type=int, default=Options.batch_size, help=batch_size
    )
    parser.add_argument(
        "--data.num_workers",
        "--num_workers",
        dest="num_workers",
        type=int,
        help="threads that decode, or beside a GPU processes; default: usable cores - 1, at most 8",
    )
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    add_engine(parser, default="auto")
    add_allow_user_code(parser)
    add_help(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 1 if some files could not be read and all others could."""
    arguments = vars(build_parser().parse_args(argv))
    demands = {name: arguments.pop(name) for name in ("abstain", "coverage", "max_error", "sets")}
    own = {name: arguments.pop(name) for name in ("run_dir", "images", "format", "out", "sheet")}

    def command() -> int:
        from transfer.bundle.folder import is_bundle

        unreadable = predict(**own, options=Options(**arguments, guarantees=read_guarantees(**demands)))
        if is_bundle(own["run_dir"]):
            say_next("predicted by a bundle", own["run_dir"])
        else:
            say_next("predicted", own["run_dir"], own["images"][0])
        return int(bool(unreadable))

    return exit_status(command, build_parser)


def predict(
    run_dir: Path,
    images: Sequence[Path],
    format: str | None = None,
    out: Path | None = None,
    options: Options = Options(),  # noqa: B008  # frozen
    sheet: Path | None = None,
) -> list[str]:
    """Write a row for each image, in the order given, and sum them up at the end.

    The summary, unreadable files, an engine other than float32 PyTorch, and what the calibration does are told on
    stderr.

    Args:
        run_dir: folder of a finished run, or a bundle.
        images: files, or folders to search for images.
        format: `csv`, `json` for one object a line, or `table` for the first rows as a table; None: `table` on a
            terminal, else `csv`.
        out: file that receives the rows; None prints them.
        options: how images are predicted.
        sheet: page that receives the surest and the least sure photos of each class.

    Returns:
        The files that could not be read.

    Raises:
        MissingData: `run_dir` is not a run, there is no image, or the folder of `out` or `sheet` does not exist.
        DamagedFile: the run's network computes no probabilities.
        BadValue: an argument is out of range, or val cannot give the guarantees.
    """
    options.check()
    check_folder("out", out)
    check_folder("sheet", sheet)
    check_sheet(sheet, out)
    if format == "table" and out is not None:
        raise BadValue(f"`format`=table with `out`={out}: a table is for the terminal (allowed with `out`: csv, json)")
    paths, guarantees = find_images(images), options.guarantees
    predictor = open_predictor(run_dir, paths, options)
    options.check_classes(predictor.class_names)
    if guarantees:
        guarantees.check(predictor.calibrated(), predictor.class_names)
    summary = Summary(predictor.multilabel)
    as_labels = predictor.multilabel and options.top_k is None
    chosen = format or ("table" if out is None and sys.stdout.isatty() else "csv")
    shows_rows = out is None and sys.stdout.isatty()
    batches = track(predictor.predict(paths), "predicting", -(-len(paths) // options.batch_size), hidden=shows_rows)
    gathered = Sheet()
    rows = predict_rows(batches if sheet is None else gathered.watch(batches), as_labels, summary)
    write_output(rows, chosen, out, predictor.separator)
    report(summary, predictor, guarantees)
    if sheet is not None:
        gathered.write(sheet, predictor.decoding)
        print(f"sheet: {sheet}", file=sys.stderr)
    return summary.unreadable


def report(summary: Summary, predictor: Predictor, guarantees: Guarantees) -> None:
    """Say on stderr what became of the images, and what computed and calibrated the answers."""
    summary.print(plain_console(sys.stderr))
    if line := predictor.engine():
        print(line, file=sys.stderr)
    if summary.unreadable:
        total = summary.num_images + len(summary.unreadable)
        print(f"{len(summary.unreadable)} of {total} images could not be read", file=sys.stderr)
    report_temperature(predictor.temperature)
    if guarantees:
        report_certainty(predictor.calibrated(), guarantees, summary.num_unknown, summary.num_images)


def plain_console(file: TextIO) -> Console:
    """Return a console that takes names for what they are: no markup, no emoji codes."""
    from rich.console import Console

    return Console(file=file, markup=False, highlight=False, emoji=False)


def find_images(images: Sequence[Path]) -> list[Path]:
    """Return the images to classify.

    Raises:
        MissingData: there is none.
    """
    from transfer.images.listing import list_images

    paths = [path for given in images for path in list_images(given)]
    if not paths:
        raise MissingData(f"no image in {', '.join(map(str, images))}")
    return paths


def open_predictor(run_dir: Path, paths: Sequence[Path], options: Options) -> Predictor:
    """Return a run or a bundle that is ready for these images; torch is imported only where it computes.

    Raises:
        UserError: it is neither, damaged, or an option is not for it.
    """
    from transfer.bundle.folder import is_bundle

    if is_bundle(run_dir):
        from transfer.commands.predict_bundle import open_bundle

        return open_bundle(run_dir, options)
    from transfer.commands.predict_run import open_run

    return open_run(run_dir, paths, options)


def predict_rows(batches: Iterable[Batch], as_labels: bool, summary: Summary) -> Iterator[dict[str, Any]]:
    """Yield a row for each readable image, and name the others on stderr.

    Its fields are image, class, probability, and class_2, probability_2, ... up to `top_k`; or image, labels and
    probabilities, as lists. With sets there is `set`, a list.

    Args:
        batches: predictions.
        as_labels: whether rows have labels.
        summary: receives every image.
    """
    for batch in batches:
        for image in batch.unreadable:
            summary.unreadable.append(image.name)
            print_above(printable(f"unreadable: {image}"))
        for name, prediction in zip(batch.names, batch.predictions, strict=True):
            summary.add(name, prediction)
            yield prediction_row(name, prediction, as_labels)


def prediction_row(name: str, prediction: Prediction, as_labels: bool) -> dict[str, Any]:
    """Return what is written of one image; see `predict_rows`.

    Args:
        name: the image's.
        prediction: its prediction, with as many classes in `top` as are written.
        as_labels: whether to write its labels instead.
    """
    row: dict[str, Any] = {"image": name}
    if as_labels:
        found = [] if prediction.unknown else [(label, round(value, 6)) for label, value in prediction.labels]
        labels = [UNKNOWN] if prediction.unknown else [label for label, _ in found]
        return {**row, "labels": labels, "probabilities": [value for _, value in found]}
    for rank, (class_name, value) in enumerate(prediction.top, start=1):
        suffix = "" if rank == 1 else f"_{rank}"
        row |= {f"class{suffix}": class_name, f"probability{suffix}": round(value, 6)}
    if prediction.unknown:
        row["class"] = UNKNOWN
    if prediction.class_set is not None:
        row["set"] = list(prediction.class_set)
    return row


def write_output(rows: Iterator[dict[str, Any]], format: str, out: Path | None, separator: str) -> None:
    """Write rows to a file, whole or not at all, or as they come to the terminal."""
    if format == "table":
        return print_first(rows, plain_console(sys.stdout), separator)
    if out is None:
        return write_rows(rows, format, sys.stdout, separator)
    with written_whole(out) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        write_rows(rows, format, text, separator)
        text.detach()  # or it would close the file


def write_rows(rows: Iterator[dict[str, Any]], format: str, file: TextIO, separator: str) -> None:
    """Write rows as they come; in CSV, `separator` stands between the items of a list."""
    writer = None
    for row in rows:
        if format == "json":
            print(json.dumps(row), file=file, flush=True)
            continue
        if writer is None:
            writer = csv.DictWriter(file, fieldnames=list(row))
            writer.writeheader()
        cells = {name: separator.join(map(str, v)) if isinstance(v, list) else v for name, v in row.items()}
        writer.writerow({name: harmless_cell(v) if isinstance(v, str) else v for name, v in cells.items()})
