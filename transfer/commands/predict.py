"""Classify photos with a finished run or a bundle: efficientnet-transfer predict RUN_DIR photos/ --format csv"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from transfer.calibration.guarantees import UNKNOWN, Guarantees
from transfer.commands.console import add_allow_user_code, add_engine, check_folder, exit_status
from transfer.commands.predict_guarantees import add_guarantees, read_guarantees, report_certainty, report_temperature
from transfer.errors import BadValue, MissingData, check_count, printable
from transfer.files import expanded, written_whole
from transfer.markdown import harmless_cell

if TYPE_CHECKING:
    from torch import Tensor

    from transfer.predictions import Prediction
    from transfer.runs.predictor import Run


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
    parser.add_argument("--format", choices=("csv", "json"), default="csv", help="json is one object a line")
    parser.add_argument("--out", type=expanded, metavar="FILE", help="default: the terminal")
    top_k = "classes per image, most probable first; default: 1, or every label that a multi-label run gives"
    parser.add_argument("--top_k", type=int, help=top_k)
    add_guarantees(parser)
    parser.add_argument(
        "--data.batch_size", "--batch_size", dest="batch_size", type=int, default=64, help="images per step"
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
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 1 if some files could not be read and all others could."""
    arguments = vars(build_parser().parse_args(argv))
    demands = {name: arguments.pop(name) for name in ("abstain", "coverage", "max_error", "sets")}

    def command() -> int:
        return int(bool(predict(**arguments, guarantees=read_guarantees(**demands))))

    return exit_status(command, build_parser)


def predict(
    run_dir: Path,
    images: list[Path],
    format: str = "csv",
    out: Path | None = None,
    top_k: int | None = None,
    batch_size: int = 64,
    num_workers: int | None = None,
    checkpoint: str = "best",
    engine: str = "auto",
    allow_user_code: bool = False,
    guarantees: Guarantees = Guarantees(),  # noqa: B008  # frozen
) -> list[str]:
    """Write a row for each image, in the order given.

    Unreadable files, an engine other than float32 PyTorch, and what the calibration does are named on stderr.

    Args:
        run_dir: folder of a finished run, or a bundle.
        images: files, or folders to search for images.
        format: `csv`, or `json` for one object a line.
        out: file that receives the rows; None prints them.
        top_k: classes per image, 1 to the number of classes, most probable first; None: the most probable one, or every
            label that a multi-label run gives.
        batch_size: images per step, at least 1.
        num_workers: threads that decode, or beside a GPU processes; None: one less than the usable cores, at most 8.
        checkpoint: `best` or `last`.
        engine: what computes the network; see `choose_engine`.
        allow_user_code: see `load_run`.
        guarantees: by which rule a class is `unknown`, and whether a column `set` holds a set of classes.

    Returns:
        The files that could not be read.

    Raises:
        MissingData: `run_dir` is not a run, there is no image, or the folder of `out` does not exist.
        DamagedFile: the run's network computes no probabilities.
        BadValue: an argument is out of range, or val cannot give the guarantees.
    """
    from transfer.bundle.folder import is_bundle

    check_arguments(out, batch_size, num_workers)
    if is_bundle(run_dir):
        from transfer.commands.predict_bundle import predict_with_bundle

        return predict_with_bundle(
            run_dir, images, format, out, top_k, batch_size, num_workers, engine, checkpoint, guarantees
        )
    from transfer.runs.predictor import load_run

    run = load_run(run_dir, f"{checkpoint}.ckpt", allow_user_code=allow_user_code)
    return predict_with_run(run, images, format, out, top_k, batch_size, num_workers, engine, guarantees)


def predict_with_run(
    run: Run,
    images: list[Path],
    format: str,
    out: Path | None,
    top_k: int | None,
    batch_size: int,
    num_workers: int | None,
    engine: str,
    guarantees: Guarantees,
) -> list[str]:
    """Write a row for each image, and return the files that could not be read; see `predict`."""
    import torch

    from transfer.inference.names import needs_cpu, num_examples

    paths = find_images(images)
    check_top_k(top_k, run.class_names)
    if guarantees:
        guarantees.check(run.calibrated(), run.class_names)
    unreadable: list[str] = []
    unknown: list[str] = []
    run.classifier.to("cuda" if torch.cuda.is_available() and not needs_cpu(engine) else "cpu")
    run = run.with_engine(engine, len(paths), partial(read_examples, run, paths, num_workers, num_examples(engine)))
    rows = predict_rows(run, paths, top_k, batch_size, num_workers, unreadable, unknown, guarantees)
    write_output(rows, format, out, run.config.data.label_separator)
    report(run, len(paths), len(unreadable))
    report_temperature(run.temperature)
    if guarantees:
        report_certainty(run.calibrated(), guarantees, len(unknown), len(paths) - len(unreadable))
    return unreadable


def check_arguments(out: Path | None, batch_size: int, num_workers: int | None) -> None:
    """Check, before anything is read, what does not depend on the network.

    Raises:
        MissingData: the folder of `out` does not exist.
        BadValue: an argument is out of range.
    """
    check_count("batch_size", batch_size)
    if num_workers is not None and num_workers < 0:
        raise BadValue(f"`num_workers`={num_workers} (allowed: at least 0)")
    check_folder("out", out)


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


def check_top_k(top_k: int | None, class_names: Sequence[str]) -> None:
    """Check that there are so many classes.

    Raises:
        BadValue: there are not.
    """
    if top_k is not None and not 1 <= top_k <= len(class_names):
        raise BadValue(f"`top_k`={top_k} (allowed: 1 to {len(class_names)}, the number of classes)")


def read_examples(run: Run, paths: list[Path], num_workers: int | None, most: int) -> Tensor:
    """Return images from all over, normalised, that engines are compared on: the readable ones of so many files."""
    from datamodules.images.transforms import build_eval_transform, normalize
    from datamodules.loading.predicting import build_predict_loader

    chosen = paths[:: max(1, len(paths) // most)][:most]
    transform = build_eval_transform(run.preprocessing)
    images, _, _ = next(iter(build_predict_loader(chosen, transform, most, num_workers, run.decoding)))
    return normalize(images, run.preprocessing)


def report(run: Run, num_images: int, num_unreadable: int) -> None:
    """Say on stderr what computed, if not float32 PyTorch, which engines `auto` refused, and what could not be read."""
    from transfer.inference.classifier import EngineClassifier

    assert isinstance(run.classifier, EngineClassifier)
    record = run.classifier.record
    if record is not None and (record.images_compared or record.refused):
        print(f"engine: {record}", file=sys.stderr)
    if num_unreadable:
        print(f"{num_unreadable} of {num_images} images could not be read", file=sys.stderr)


def predict_rows(
    run: Run,
    paths: list[Path],
    top_k: int | None,
    batch_size: int,
    num_workers: int | None,
    unreadable: list[str],
    unknown: list[str],
    guarantees: Guarantees,
) -> Iterator[dict[str, Any]]:
    """Yield a row for each readable image.

    Its fields are image, class, probability, and class_2, probability_2, ... up to `top_k`. Without `top_k` a
    multi-label run has image, labels and probabilities instead, as lists. With sets there is `set`, a list.
    """
    from datamodules.images.transforms import build_eval_transform
    from datamodules.loading.predicting import build_predict_loader

    transform = build_eval_transform(run.preprocessing)
    for images, names, bad in build_predict_loader(paths, transform, batch_size, num_workers, run.decoding):
        for image in bad:
            unreadable.append(image.name)
            print(printable(f"unreadable: {image}"), file=sys.stderr)
        if not names:
            continue
        for name, prediction in zip(names, run.predictions(images, top_k or 1, guarantees), strict=True):
            if prediction.unknown:
                unknown.append(name)
            yield prediction_row(name, prediction, run.config.data.multilabel and top_k is None)


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
