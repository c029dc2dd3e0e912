"""Examine a dataset before training on it: efficientnet-transfer doctor photos/ --out_dir report/

Exit status 1 means that it found an error: something that would make a result on this data false.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.doctor import NEAR_DISTANCE
from transfer.commands.console import add_allow_user_code, add_reading, check_folder, exit_status
from transfer.commands.next_steps import say_next
from transfer.config.screens import add_help
from transfer.errors import BadValue, MissingData, some_of
from transfer.files import expanded

if TYPE_CHECKING:
    from datamodules.doctor.diagnosis import Diagnosis
    from transfer.commands.doctor.suspects import Judge, Suspects
    from transfer.networks.function import FunctionVariant
    from transfer.networks.rows import Variant
    from transfer.runs.predictor import Run

_EPILOG = """\
errors (exit status 1): unreadable images; fewer than two classes, or not the official counts; a class without train or
without test images; an equal picture in train and test; more than 1% of the test images with a near duplicate in train;
other images or labels than --pin FILE recorded.
Everything else is a warning or a note. Exit status 2: SUBJECT or an option is wrong.

"Equal" compares the decoded pixels, so that a PNG and a BMP of one picture are equal. "Near" are pictures whose
perceptual hashes (imagehash.phash, 64 bits) differ in at most --near_distance bits and whose 16x16 thumbnails correlate
by at least 0.9. These hashes differ by even numbers of bits. Images under 32 pixels are only compared for equality.
Drawings and glyphs resemble each other: look at the pairs, and lower --near_distance. Where a folder has no splits, val
and test are cut at random from all images, so that its duplicates land on both sides.

--run: the suspects are images that the network gives to another class with at least the probability that it gives that
class's own images on average (Northcutt et al. 2021), largest difference to the label's probability first. A run has
fitted its training images with their labels, so look at val and test first. A choice's folder, runs/<data>_choose/<n>,
tells of train and val by predictions that have not seen the label."""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `efficientnet-transfer doctor`."""
    parser = argparse.ArgumentParser(
        prog="efficientnet-transfer doctor",
        description="Counts, class balance, sizes, bad files, duplicates, leakage and suspect labels of a dataset.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("subject", metavar="SUBJECT", help="a dataset's name, a folder, a CSV or a parquet file")
    add("--data_root", metavar="DIR", help="folder that holds a named dataset's files")
    add("--run", type=expanded, metavar="RUN_DIR", help="a finished run, or a choice: lists images with suspect labels")
    add("--backbone", help="what to recommend sizes for; default: the run's, or lite0")
    add("--out_dir", "--out", type=expanded, metavar="DIR", help="write doctor.json, tables and pictures there")
    add("--json", type=expanded, metavar="FILE", help="write the whole report there")
    add("--pin", type=expanded, metavar="FILE", help="compare with the fingerprints in FILE, or record them at first")
    add("--pin_name", metavar="NAME", help="what --pin calls the data; default: the name of the dataset or folder")
    add(
        "--near_distance", type=int, default=NEAR_DISTANCE, metavar="N", help=f"bits, 0 to 16; default: {NEAR_DISTANCE}"
    )
    workers = "processes; default: one per usable core, at most 8"
    add("--data.num_workers", "--num_workers", dest="num_workers", type=int, metavar="N", help=workers)
    add_reading(parser, otherwise="")
    labels = "an image may have any number of labels"
    add("--data.multilabel", dest="multilabel", type=_parse_bool, metavar="{true,false}", default=False, help=labels)
    add("--multilabel", action="store_true", help=argparse.SUPPRESS)  # the short spelling takes no value
    for name, kind in (("per_class", int), ("fraction", float), ("draw", int)):
        add(f"--data.{name}", f"--{name}", dest=name, type=kind, metavar="N", help="of train, as in finetune")
    add_allow_user_code(parser)
    add_help(parser)
    return parser


def _parse_bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 1 if something would falsify a result."""
    arguments = vars(build_parser().parse_args(argv))

    def command() -> int:
        report = doctor(**arguments)
        _say_next(report, arguments["out_dir"])
        return int(report["falsifies_a_result"])

    return exit_status(command, build_parser)


def _say_next(report: dict[str, Any], out_dir: Path | None) -> None:
    subject, data_root = report["subject"], report["data_root"]
    if report["falsifies_a_result"]:
        if out_dir is None:
            say_next("unsound data", subject)
    elif expanded(subject).exists():
        say_next("a sound folder", subject)
    else:
        say_next("a sound dataset", [subject, *(["--data_root", data_root] if data_root else [])])


def doctor(
    subject: str,
    data_root: str | None = None,
    run: Path | None = None,
    backbone: str | None = None,
    out_dir: Path | None = None,
    json: Path | None = None,
    near_distance: int = NEAR_DISTANCE,
    num_workers: int | None = None,
    pin: Path | None = None,
    pin_name: str | None = None,
    allow_user_code: bool = False,
    **reading: Any,
) -> dict[str, Any]:
    """Print the diagnosis of a dataset, write what was asked for, and return the report.

    Args:
        subject: a dataset's name, a folder, a CSV or a parquet file.
        data_root: folder that holds a named dataset's files.
        run: folder of a finished run or of a choice, which looks for suspect labels; see `load_judge`.
        backbone: the network to recommend sizes for; None: the run's, or that of a default run.
        out_dir: folder that receives the files of `write_report`.
        json: file that receives the report.
        near_distance: bits by which the hashes of near duplicates may differ, 0 to 16.
        num_workers: processes, at least 0; None: one per usable core, at most 8.
        pin: file that the fingerprints are compared with, or recorded in at first sight.
        pin_name: what that file calls the data; None: the name of the dataset, folder or table.
        reading: fields of `ReadOptions`, such as `label_column` and `multilabel`; None: their defaults.

    Raises:
        MissingData: there is no such folder or run.
        BadValue: an argument is out of range, or there is no such dataset.
        DamagedFile: a named dataset cannot be read.
    """
    check_arguments(json, pin, pin_name, near_distance, num_workers)
    from datamodules.doctor.diagnosis import diagnose
    from datamodules.doctor.inspection import inspect_splits
    from datamodules.doctor.subject import open_subject, read_subject
    from transfer.commands.doctor.provenance import check_provenance
    from transfer.commands.doctor.report import build_report, print_report
    from transfer.commands.doctor.suspects import find_suspects, load_judge

    started = time.perf_counter()
    judge = load_judge(run, allow_user_code) if run is not None else None
    variant = _choose_variant(backbone, judge)
    source = open_subject(subject, data_root, {k: v for k, v in reading.items() if v is not None})
    data = read_subject(source)
    check_classes(judge.run if judge else None, data.class_names)
    if out_dir is not None:
        out_dir.mkdir(parents=True, exist_ok=True)
    inspection = inspect_splits(data.splits, num_workers)
    suspects = find_suspects(judge, data.splits, inspection) if judge else None
    diagnosis = diagnose(data.class_names, data.splits, inspection, near_distance, data.skipped)
    diagnosis.findings += check_provenance(source, data, reading, pin, pin_name)
    report: dict[str, Any] = {"subject": subject, "data_root": data_root, "run": run and str(run)}
    report |= build_report(data, inspection, diagnosis, variant, near_distance, suspects)
    report["seconds"] = round(time.perf_counter() - started, 1)
    print_report(report)
    _save(report, diagnosis, suspects, out_dir, json)
    return report


def _choose_variant(backbone: str | None, judge: Judge | None) -> Variant | FunctionVariant:
    """Return the network to recommend sizes for: the one that was asked for, the run's, or that of a default run."""
    from transfer.config.schema import FinetuneConfig
    from transfer.networks.registry import get_backbone

    run = judge.run if judge else None
    return get_backbone(backbone or (run.config.backbone if run else FinetuneConfig().backbone))


def _save(
    report: dict[str, Any], diagnosis: Diagnosis, suspects: Suspects | None, out_dir: Path | None, json: Path | None
) -> None:
    """Write the files that were asked for, and say where they are, or that there are pictures to be had."""
    from transfer.commands.doctor.report import write_report
    from transfer.files import write_json

    if out_dir is not None:
        print(f"written: {', '.join(map(str, write_report(report, diagnosis, suspects, out_dir)))}")
    elif diagnosis.exact.groups or diagnosis.near.groups or any(report["suspects"].values()):
        print("--out_dir DIR writes the twins and suspects as sheets of pictures, and their names as tables")
    if json is not None:
        write_json(json, report)


def check_classes(run: Run | None, class_names: Sequence[str]) -> None:
    """Refuse a run that was trained on other classes than those of the data, if both are known."""
    if run is not None and class_names and run.class_names != tuple(class_names):
        raise BadValue(f"`run`={run.run_dir}: its classes ({some_of(run.class_names)}) are not {some_of(class_names)}")


def check_arguments(
    json: Path | None, pin: Path | None, pin_name: str | None, near_distance: int, num_workers: int | None
) -> None:
    """Refuse, before any work is done, files that cannot be written or read, and numbers that no diagnosis could use.

    Raises:
        MissingData: a folder does not exist, or the package of the extra `doctor` is not installed.
        BadValue: a folder is where a file is meant, a number is out of range, or data that are not pinned get a name.
        DamagedFile: `pin` is something else than a file of pins.
    """
    from datamodules.doctor.pins import read_pins

    require_package()
    check_folder("json", json)
    check_folder("pin", pin)
    if pin is not None:
        read_pins(pin)
    elif pin_name is not None:
        raise BadValue(f"`pin_name`={pin_name} without `pin`: give the file of pins, too")
    if not 0 <= near_distance <= 16:
        raise BadValue(
            f"`near_distance`={near_distance} (allowed: 0 to 16 bits; above {NEAR_DISTANCE}"
            " different pictures look near)"
        )
    if num_workers is not None and num_workers < 0:
        raise BadValue(f"`num_workers`={num_workers} (allowed: at least 0)")


def require_package() -> None:
    """Check that the package of the extra `doctor` is installed.

    Raises:
        MissingData: it is missing.
    """
    if find_spec("imagehash") is None:
        raise MissingData(
            "doctor needs the package of the extra 'doctor' (imagehash missing): pip install"
            " 'efficientnet-transfer[doctor]'"
        )
