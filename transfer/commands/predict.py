"""Classify photos with a finished run: efficientnet-transfer predict RUN_DIR photos/ --format csv"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from transfer.commands.console import check_folder, exit_status
from transfer.errors import BadValue, MissingData
from transfer.files import expanded

if TYPE_CHECKING:
    from transfer.runs.predictor import Run


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `efficientnet-transfer predict`."""
    parser = argparse.ArgumentParser(
        prog="efficientnet-transfer predict", description="Classify images with a run of finetune."
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", type=expanded)
    parser.add_argument(
        "images", metavar="IMAGES", type=expanded, nargs="+", help="files, or folders searched for images"
    )
    parser.add_argument("--format", choices=("csv", "json"), default="csv", help="json is one object a line")
    parser.add_argument("--out", type=expanded, metavar="FILE", help="default: the terminal")
    parser.add_argument("--top_k", type=int, default=1, help="classes per image, most probable first")
    parser.add_argument(
        "--data.batch_size", "--batch_size", dest="batch_size", type=int, default=64, help="images per step"
    )
    parser.add_argument(
        "--data.num_workers",
        "--num_workers",
        dest="num_workers",
        type=int,
        help="loader processes; default: usable cores - 1, at most 8",
    )
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 1 if some files could not be read and all others could."""
    arguments = vars(build_parser().parse_args(argv))
    return exit_status(lambda: int(bool(predict(**arguments))), build_parser)


def predict(
    run_dir: Path,
    images: list[Path],
    format: str = "csv",
    out: Path | None = None,
    top_k: int = 1,
    batch_size: int = 64,
    num_workers: int | None = None,
    checkpoint: str = "best",
) -> list[str]:
    """Write a row for each image, in the order given, and name unreadable files on stderr.

    Args:
        run_dir: folder of a finished run.
        images: files, or folders to search for images.
        format: `csv`, or `json` for one object a line.
        out: file that receives the rows; None prints them.
        top_k: classes per image, 1 to the number of classes, most probable first.
        batch_size: images per step, at least 1.
        num_workers: loader processes, at least 0; None: one less than the usable cores, at most 8.
        checkpoint: `best` or `last`.

    Returns:
        The files that could not be read.

    Raises:
        MissingData: `run_dir` is not a run, there is no image, or the folder of `out` does not exist.
        BadValue: an argument is out of range.
    """
    from datamodules.images.listing import list_images
    from transfer.runs.predictor import load_run

    if batch_size < 1:
        raise BadValue(f"`batch_size`={batch_size} (allowed: at least 1)")
    if num_workers is not None and num_workers < 0:
        raise BadValue(f"`num_workers`={num_workers} (allowed: at least 0)")
    check_folder("out", out)
    run = load_run(run_dir, f"{checkpoint}.ckpt")
    paths = [path for given in images for path in list_images(given)]
    if not paths:
        raise MissingData(f"no image in {', '.join(map(str, images))}")
    if not 1 <= top_k <= len(run.class_names):
        raise BadValue(f"`top_k`={top_k} (allowed: 1 to {len(run.class_names)}, the number of classes)")
    unreadable: list[str] = []
    rows = predict_rows(run, paths, top_k, batch_size, num_workers, unreadable)
    if out is None:
        write_rows(rows, format, sys.stdout)
    else:
        with open(out, "w", newline="") as file:
            write_rows(rows, format, file)
    return unreadable


def predict_rows(
    run: Run, paths: list[Path], top_k: int, batch_size: int, num_workers: int | None, unreadable: list[str]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each readable image: image, class, probability, and class_2, probability_2, ... up to `top_k`."""
    import torch

    from datamodules.images.transforms import build_eval_transform
    from datamodules.loading.loaders import build_predict_loader

    run.classifier.to("cuda" if torch.cuda.is_available() else "cpu")
    transform = build_eval_transform(run.preprocessing)
    for images, names, bad in build_predict_loader(paths, transform, batch_size, num_workers, run.decoding):
        for image in bad:
            unreadable.append(image.name)
            print(f"unreadable: {image}", file=sys.stderr)
        if not names:
            continue
        top = run.probabilities(images).cpu().topk(top_k)
        for name, values, indices in zip(names, top.values.tolist(), top.indices.tolist(), strict=True):
            row: dict[str, Any] = {"image": name}
            for rank, (value, index) in enumerate(zip(values, indices, strict=True), start=1):
                suffix = "" if rank == 1 else f"_{rank}"
                row |= {f"class{suffix}": run.class_names[index], f"probability{suffix}": round(value, 6)}
            yield row


def write_rows(rows: Iterator[dict[str, Any]], format: str, file: TextIO) -> None:
    """Write rows as they come."""
    writer = None
    for row in rows:
        if format == "json":
            print(json.dumps(row), file=file, flush=True)
            continue
        if writer is None:
            writer = csv.DictWriter(file, fieldnames=list(row))
            writer.writeheader()
        writer.writerow(row)
