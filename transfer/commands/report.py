"""Write the page about finished runs: efficientnet-transfer report RUN_DIR [RUN_DIR ...] --out report.html

`finetune` and `probe` write it when they end. Several runs are shown side by side. Nothing is computed again: the page
shows what is in the runs' folders.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.commands.console import check_folder, exit_status
from transfer.config.schema import FinetuneConfig
from transfer.config.screens import add_help
from transfer.errors import BadValue, UserError
from transfer.files import expanded
from transfer.run_files import REPORT

if TYPE_CHECKING:
    from datamodules.datamodule import DataModule
    from transfer.networks.classifier import Classifier
    from transfer.runs.results import Results


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `efficientnet-transfer report`."""
    parser = argparse.ArgumentParser(
        prog="efficientnet-transfer report",
        description="Write the page about a finished run anew, or one about several runs, side by side: verdict,"
        " curves, metrics, confusions, the worst photos, calibration, cost, settings. One file, no network.",
    )
    parser.add_argument("run_dirs", metavar="RUN_DIR", type=expanded, nargs="+", help="folders of finished runs")
    parser.add_argument(
        "--out",
        type=expanded,
        metavar="FILE",
        help="the page; default: report.html in the run's folder, of several runs in this one",
    )
    add_help(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = build_parser().parse_args(argv)
    return exit_status(lambda: report(**vars(arguments)), build_parser)


def report(run_dirs: Sequence[Path], out: Path | None = None) -> None:
    """Write the page about finished runs and print its path.

    Args:
        run_dirs: the runs' folders, at least one.
        out: the page; None: `report.html` in the folder of the only run, or in the current one.

    Raises:
        MissingData: a run is not finished.
        BadValue: `out` is in the way of a file that is no page.
        DamagedFile: a run's results cannot be read.
    """
    from transfer.report.page import write_page
    from transfer.report.run_content import read_run_content

    check_folder("out", out)
    if out is not None and out.exists() and out.suffix.lower() not in (".html", ".htm"):
        raise BadValue(f"`out`={out} exists and is no page: it is not overwritten")
    path = out or (run_dirs[0] / REPORT if len(run_dirs) == 1 else Path(REPORT))
    write_page([read_run_content(run_dir) for run_dir in run_dirs], path)
    print(f"report: {path}")


def leave_report(results: Results, config: FinetuneConfig, classifier: Classifier, data: DataModule) -> None:
    """Write the page about a run that has just ended, if it is to have one, and print its path.

    Whatever goes wrong, the results stand: one warning says why there is no page.

    Args:
        results: the run's results, which are in its folder.
        config: the run's configuration.
        classifier: the network whose answers are in the folder.
        data: the run's images.
    """
    if not config.report or config.trainer.limit_test_batches == 0:
        return
    try:
        from transfer.commands.report_photos import keep_photos

        keep_photos(results.run_dir, classifier, data, config.loss)
        report([results.run_dir])
    except (UserError, OSError) as error:
        warnings.warn(f"no report: {error}", stacklevel=2)
    except Exception as error:  # a bug, which must not cost a run; the command shows its traceback
        again = f"efficientnet-transfer report {results.run_dir}"
        warnings.warn(f"no report: {type(error).__name__}: {error}; {again} tries again", stacklevel=2)
