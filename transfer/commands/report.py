"""Write the page about finished runs, a choice, a table or a sweep: efficientnet-transfer report DIR [RUN_DIR ...]

`finetune`, `probe`, `choose` and `table` write it when they end. Several runs are shown side by side. Nothing is
computed again: the page shows what is in the folders.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.commands.console import check_folder, exit_status
from transfer.config.schema import FinetuneConfig
from transfer.config.screens import add_help
from transfer.errors import BadValue, UserError
from transfer.files import expanded, write_text
from transfer.run_files import REPORT

if TYPE_CHECKING:
    from datamodules.datamodule import DataModule
    from transfer.networks.classifier import Classifier
    from transfer.runs.results import Results


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `efficientnet-transfer report`."""
    parser = argparse.ArgumentParser(
        prog="efficientnet-transfer report",
        description="Write the page about a finished run, a choice, a table or a sweep anew, or one about several runs,"
        " side by side: verdict, curves, metrics, confusions, the worst photos, calibration, cost, settings. One file,"
        " no network.",
    )
    parser.add_argument(
        "folders",
        metavar="DIR",
        type=expanded,
        nargs="+",
        help="folders of finished runs, or one of a choice, a table or a sweep",
    )
    parser.add_argument(
        "--out",
        type=expanded,
        metavar="FILE",
        help="the page; default: report.html in the folder, of several runs in this one",
    )
    add_help(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = build_parser().parse_args(argv)
    return exit_status(lambda: report(**vars(arguments)), build_parser)


def report(folders: Sequence[Path], out: Path | None = None) -> None:
    """Write the page about finished runs, a choice, a table or a sweep, and print its path.

    Args:
        folders: of runs, at least one; or of one choice, table or sweep.
        out: the page; None: `report.html` in the only folder, or in the current one.

    Raises:
        MissingData: a run is not finished.
        BadValue: `out` is in the way of a file that is no page, or a choice, a table or a sweep is not alone.
        DamagedFile: a run's results cannot be read.
    """
    check_folder("out", out)
    if out is not None and out.exists() and out.suffix.lower() not in (".html", ".htm"):
        raise BadValue(f"`out`={out} exists and is no page: it is not overwritten")
    path = out or (folders[0] / REPORT if len(folders) == 1 else Path(REPORT))
    write_text(path, _render(folders, path.parent))
    print(f"report: {path}")


def _render(folders: Sequence[Path], place: Path) -> str:
    """Return the page about folders, as HTML whose links start from the folder `place`."""
    from transfer.commands.choose import CHOICE
    from transfer.experiments.sweep_record import SWEEP
    from transfer.experiments.table.entries import TABLE

    for folder in folders:
        found = [name for name in (CHOICE, TABLE, SWEEP) if (folder / name).is_file()]
        if found and len(folders) > 1:
            raise BadValue(f"{folder} has a {found[0]}: only runs are shown side by side (of a choice: its `winner`)")
        if found == [CHOICE]:
            from transfer.commands.choose.page import read_choice_content
            from transfer.commands.choose.sections import render_choice

            return render_choice(read_choice_content(folder, place))
        if found == [TABLE]:
            from transfer.report.table_content import read_table_content
            from transfer.report.table_sections import render_table

            return render_table(read_table_content(folder, place))
        if found == [SWEEP]:
            from transfer.report.sweep_sections import read_sweep_content, render_sweep

            return render_sweep(read_sweep_content(folder))
    from transfer.report.page import render_page
    from transfer.report.run_content import read_run_content

    return render_page([read_run_content(folder) for folder in folders])


def leave_report(results: Results, config: FinetuneConfig, classifier: Classifier, data: DataModule) -> None:
    """Write the page about a run that has just ended, if it is to have one, and print its path.

    Args:
        results: the run's results, which are in its folder.
        config: the run's configuration.
        classifier: the network whose answers are in the folder.
        data: the run's images.
    """
    if not config.report or config.trainer.limit_test_batches == 0:
        return

    def keep_pictures() -> None:
        from transfer.commands.report_photos import keep_photos

        keep_photos(results.run_dir, classifier, data, config.loss)

    leave_page(results.run_dir, keep_pictures)


def leave_page(folder: Path, prepare: Callable[[], object] | None = None) -> None:
    """Write the page about the folder of what has just ended, and print its path.

    Whatever goes wrong, the results stand: one warning says why there is no page.

    Args:
        folder: of a run, a choice, a table or a sweep.
        prepare: adds to the folder what the page needs.
    """
    try:
        if prepare is not None:
            prepare()
        report([folder])
    except (UserError, OSError) as error:
        warnings.warn(f"no report: {error}", stacklevel=2)
    except Exception as error:  # a bug, which must not cost a run; the command shows its traceback
        again = f"efficientnet-transfer report {folder}"
        warnings.warn(f"no report: {type(error).__name__}: {error}; {again} tries again", stacklevel=2)
