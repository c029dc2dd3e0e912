"""List runs, the best first: efficientnet-transfer runs [FOLDER ...]

Accuracies are ranked only among runs that were measured on the same images: each such group is a table of its own.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.commands.console import exit_status
from transfer.commands.tables import print_table
from transfer.config.screens import add_help
from transfer.errors import MissingData, printable
from transfer.files import expanded
from transfer.markdown import harmless_cell
from transfer.runs.listing import ListedRun, Score, list_runs

if TYPE_CHECKING:
    from rich.table import Table

_DESCRIPTION = """\
List the runs in some folders and below them, by dataset and accuracy.

val and test are the accuracy that the literature quotes for the dataset, or map (mean average precision) for several
labels per image, with 95% intervals for other images like these. Fine-tuning has chosen its best epoch on val, which is
slightly optimistic. Look at test as seldom as you can: who picks the best of many runs by test has no test left.
Whether two runs differ by more than chance, `compare` says."""


def _test(run: ListedRun) -> tuple[float, float]:
    return _least_first(run.test), _least_first(run.val)


def _least_first(score: Score | None) -> float:
    return -score.value if score else 1.0


# What runs of one table are sorted by.
_ORDERS: dict[str, Callable[[ListedRun], Any]] = {
    "test": _test,
    "val": lambda run: _least_first(run.val),
    "time": lambda run: run.seconds or float("inf"),
    "ended": lambda run: -run.ended.timestamp(),
    "name": lambda run: str(run.run_dir),
}


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `efficientnet-transfer runs`."""
    parser = argparse.ArgumentParser(
        prog="efficientnet-transfer runs",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", metavar="FOLDER", type=expanded, nargs="*", help="default: runs")
    parser.add_argument(
        "--sort",
        choices=_ORDERS,
        default="test",
        help="test accuracy (then val), shortest or latest first; default: test",
    )
    parser.add_argument("--format", choices=_FORMATS, default="table", help="default: table")
    add_help(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = vars(build_parser().parse_args(argv))
    return exit_status(lambda: runs(**arguments), build_parser)


def runs(folders: Sequence[Path] = (), sort: str = "test", format: str = "table") -> None:
    """Print all runs in some folders and below them.

    Args:
        folders: where to look; none: `runs`.
        sort: what the runs of one dataset are sorted by, see `_ORDERS`.
        format: `table`, `csv`, or `json` for a list of objects.

    Raises:
        MissingData: there is no such folder, or no run.
    """
    places = list(folders) or [Path("runs")]
    if not folders and not places[0].is_dir():
        raise MissingData("there is no folder runs here, where finetune, probe and choose put theirs: name a folder")
    found = list_runs(places)
    if not found:
        raise MissingData(f"no run in {', '.join(map(str, places))} or below")
    _FORMATS[format](sorted(found, key=lambda run: (*_group(run), _ORDERS[sort](run), str(run.run_dir))))


def _group(run: ListedRun) -> tuple[str, ...]:
    """Return what the runs of one table share; finished ones come first, then all others."""
    return ("0", *run.measured_on) if run.state == "finished" else ("1",)


def _print_tables(found: Iterable[ListedRun]) -> None:
    before = None
    for _, group in groupby(found, _group):
        rows = list(group)
        if rows[0].state != "finished":
            print_table(_unfinished_table(rows))
            continue
        again = "; other images than above" if before == rows[0].data else ""
        before = rows[0].data
        print_table(_finished_table(rows, again))


def _finished_table(rows: Sequence[ListedRun], again: str) -> Table:
    first = rows[0]
    sizes = [f"{score.num_images:,} {name}" for name, score in (("val", first.val), ("test", first.test)) if score]
    images = f"{' and '.join(sizes) or 'no'} images{again}" + (
        "; val is a fold, another for each" if first.fold else ""
    )
    table = _table(f"{printable(first.data)}: {first.metric} on {images}", "run", "network, px", "method")
    for name in ("val", "test", "time", "ended"):
        table.add_column(name, justify="right")
    has_notes = any(run.note for run in rows)
    if has_notes:
        table.add_column("note")
    for run in rows:
        method = f"{run.method}, fold {run.fold}" if run.fold else run.method
        cells = [str(run.run_dir), f"{run.backbone} {run.image_size or ''}", method]
        cells += [_share(run.val), _share(run.test), _time(run.seconds), _date(run)]
        table.add_row(*map(printable, cells + [run.note] * has_notes))
    return table


def _unfinished_table(rows: Sequence[ListedRun]) -> Table:
    table = _table("not finished", "run", "state", "data", "network", "method", "ended", "note")
    for run in rows:
        cells = (str(run.run_dir), run.state, run.data, run.backbone, run.method, _date(run), run.note)
        table.add_row(*map(printable, cells))
    return table


def _table(title: str, *columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", min_width=14 if column == "run" else None)
    return table


def _date(run: ListedRun) -> str:
    return f"{run.ended.astimezone():%d %b %H:%M}"


def _share(score: Score | None) -> str:
    if score is None:
        return ""
    interval = "" if score.low is None or score.high is None else f" ({100 * score.low:.1f}-{100 * score.high:.1f})"
    return f"{score.value:.1%}{interval}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} m" if hours else f"{minutes} m {rest:02} s" if minutes else f"{rest} s"


def _print_json(found: Iterable[ListedRun]) -> None:
    rows = [{**asdict(run), "run_dir": str(run.run_dir), "ended": run.ended.isoformat()} for run in found]
    print(json.dumps(rows, indent=2))


def _print_csv(found: Iterable[ListedRun]) -> None:
    """Print a row for each run, the fields of a score as `val`, `val_low`, `val_high`, ..."""
    writer = None
    for run in found:
        row = {**asdict(run), "ended": run.ended.isoformat()}
        for name, score in (("val", row.pop("val")), ("test", row.pop("test"))):
            fields = score or dict.fromkeys(Score.__dataclass_fields__)
            row |= {name if field == "value" else f"{name}_{field}": value for field, value in fields.items()}
        if writer is None:
            writer = csv.DictWriter(sys.stdout, fieldnames=list(row))
            writer.writeheader()
        writer.writerow({name: harmless_cell(str(v)) if isinstance(v, str | Path) else v for name, v in row.items()})


_FORMATS: dict[str, Callable[[Iterable[ListedRun]], None]] = {
    "table": _print_tables,
    "csv": _print_csv,
    "json": _print_json,
}
