"""Compare finished runs on the same test images: efficientnet-transfer compare RUN_A RUN_B

Prints the settings that differ, both accuracies, their difference and its 95% interval by a paired bootstrap over the
test images, and what follows from it in a sentence. Several seeds of two settings are compared with `--with`; see
`transfer.commands.compare_seeds`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.commands.console import check_folder, exit_status
from transfer.commands.next_steps import say_next
from transfer.commands.tables import print_table
from transfer.config.screens import add_help
from transfer.errors import BadValue, DamagedFile, MissingData, not_a_run, printable
from transfer.files import expanded
from transfer.run_files import RESULTS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from transfer.resampling import Difference
    from transfer.runs.results import Results

METRIC_TITLES = {"top1": "top-1", "mean_per_class": "mean per class"}

_EPILOG = """\
The interval says how far the difference depends on which images happen to be in the test split, for these two trained
networks. It does not know how far other seeds of the same two settings would differ: for that, train several seeds,
and name those of the one setting, then --with and those of the other.
p is the chance of a difference as large, in either direction, if both were equally good: their predictions of each
image are exchanged at random."""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of `efficientnet-transfer compare`."""
    parser = argparse.ArgumentParser(
        prog="efficientnet-transfer compare",
        usage="efficientnet-transfer compare RUN_A RUN_B [--json FILE]\n"
        "       efficientnet-transfer compare RUN_A RUN_A ... --with RUN_B RUN_B ... [--json FILE]",
        description="Compare two finished runs of finetune on the same test images, or several seeds of two settings.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", metavar="RUN", type=expanded, nargs="+", help="two runs, or the seeds of a setting")
    parser.add_argument(
        "--with", metavar="RUN", type=expanded, nargs="+", dest="others", help="the seeds of the other setting"
    )
    parser.add_argument("--json", type=expanded, metavar="FILE", help="write the numbers there too")
    add_help(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = build_parser().parse_args(argv)
    return exit_status(lambda: compare_runs(**vars(arguments)), build_parser)


def compare_runs(runs: Sequence[Path], others: Sequence[Path] | None = None, json: Path | None = None) -> None:
    """Compare two runs, or with `others` two settings of several seeds each.

    Raises:
        BadValue: without `others` there are not two runs.
        MissingData, DamagedFile: see `compare`.
    """
    if others is not None:
        from transfer.commands.compare_seeds import compare_settings

        compare_settings(runs, others, json)
    elif len(runs) == 2:
        compare(runs[0], runs[1], json)
    else:
        raise BadValue(
            f"{len(runs)} runs: give two, or the seeds of one setting, then `others` and the seeds of the other"
        )


@dataclass(frozen=True)
class FinishedRun:
    """A finished run's results.json, and what it said of its N test images: labels and predicted classes, (N,) each."""

    path: Path
    results: Results
    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    images: tuple[str, ...]

    def __str__(self) -> str:
        from transfer.commands.compare_words import describe_run

        return printable(f"{self.path} ({describe_run(self.results)})")


def compare(run_a: Path, run_b: Path, json: Path | None = None) -> None:
    """Print how two runs differ in their settings and on their test images, and which is better.

    Args:
        run_a: folder of a finished run.
        run_b: folder of the run to compare it with.
        json: file that receives the numbers, too.

    Raises:
        MissingData: a run is not finished.
        BadValue: the runs were not tested on the same images.
        DamagedFile: a run's results cannot be read.
    """
    from transfer.commands.compare_words import find_differences, judge
    from transfer.files import write_json
    from transfer.resampling import paired_bootstrap
    from transfer.statistics import mean_per_class, top1

    check_folder("json", json)
    a, b = read_run(run_a), read_run(run_b)
    check_same_test(a, b)
    check_predictions(a)
    check_predictions(b)
    accuracies = {
        "top1": [top1(run.labels, run.predictions) for run in (a, b)],
        "mean_per_class": [mean_per_class(run.labels, run.predictions) for run in (a, b)],
    }
    differences = {
        "top1": paired_bootstrap(a.labels, a.predictions, b.predictions, "top1"),
        "mean_per_class": paired_bootstrap(a.labels, a.predictions, b.predictions, "mean_per_class"),
    }
    settings = find_differences(a.results, b.results)
    metric = "mean_per_class" if a.results.quoted_metric == "mean_per_class" else "top1"
    verdict = judge(differences[metric], len(a.labels), settings)
    print(f"A: {a}\nB: {b}")
    print_settings(settings)
    print_comparison(len(a.labels), accuracies, differences)
    print(f"{METRIC_TITLES[metric]}: {verdict}")
    for missing in a.results.decay.values():
        print(f"on {missing}")
    if json is not None:
        metrics = {
            name: {"a": values[0], "b": values[1], "difference": asdict(differences[name])}
            for name, values in accuracies.items()
        }
        runs = {"run_a": str(run_a), "run_b": str(run_b), "dataset": a.results.dataset}
        found = {"num_test_images": len(a.labels), "metrics": metrics, "verdict": verdict}
        differ = {name: {"a": left, "b": right} for name, (left, right) in settings.items()}
        write_json(json, {**runs, "settings": differ, **found})
    say_next("compared", run_a, run_b)


def read_run(path: Path) -> FinishedRun:
    """Return a finished run's results and predictions.

    Raises:
        MissingData: it is not a finished run, or has no predictions.
        DamagedFile: its results cannot be read.
    """
    from transfer.run_files import CONFIG
    from transfer.runs.results import read_results
    from transfer.runs.test_record import read_predictions

    if not (path / RESULTS).is_file():
        if (path / CONFIG).is_file():
            raise MissingData(f"{path} is not finished: it has no {RESULTS}; go on with it: finetune --resume {path}")
        raise not_a_run(path, RESULTS)
    results, found = read_results(path), read_predictions(path)
    if found.multilabel:
        raise BadValue(f"{path}: its images have several labels each; only runs with one label per image are compared")
    return FinishedRun(path, results, found.labels, found.predictions, found.paths)


def check_predictions(run: FinishedRun) -> None:
    """Check that a run's predictions are of the test split that its results tell of.

    Raises:
        DamagedFile: another number of images, of images of a class, or of classes.
    """
    import numpy as np

    from transfer.run_files import PREDICTIONS

    expected = run.results.splits["test"].class_counts
    found = np.bincount(run.labels, minlength=len(expected)).tolist()
    if found != expected or run.predictions.max() >= len(expected):
        raise DamagedFile(
            f"{run.path / PREDICTIONS}: {len(run.labels)} images in classes of {found}, but {RESULTS} tells of"
            f" {expected}: the two files are of different runs"
        )


def check_same_test(a: FinishedRun, b: FinishedRun) -> None:
    """Check that two runs were tested on the same images.

    Raises:
        BadValue: another dataset, other images, other classes or another order; the text says which.
    """
    datasets = [run.results.dataset for run in (a, b)]
    if datasets[0] != datasets[1]:
        raise BadValue(f"{a.path} was tested on {datasets[0]}, {b.path} on {datasets[1]}: nothing to compare")
    tests = [run.results.splits.get("test") for run in (a, b)]
    if len({test and test.fingerprint for test in tests}) > 1:
        sizes = " and ".join(str(test and test.size) for test in tests)
        raise BadValue(
            f"{a.path} and {b.path} were tested on different images of {datasets[0]} ({sizes} images; the fingerprints "
            "differ): evaluate both on the same data"
        )
    if list(a.results.per_class_accuracy) != list(b.results.per_class_accuracy):
        raise BadValue(f"{a.path} and {b.path} have other classes or another order of them")
    files = [[Path(image).name for image in run.images] for run in (a, b)]  # a folder may have moved between two runs
    reordered = files[0] != files[1] and sorted(files[0]) == sorted(files[1])
    if a.labels.tolist() != b.labels.tolist() or reordered:
        raise BadValue(f"{a.path} and {b.path} have the test images in another order, so that they cannot be paired")


def print_settings(settings: dict[str, tuple[Any, Any]]) -> None:
    """Print the settings that differ, a row for each."""
    from rich.table import Table

    if not settings:
        return print("settings: the same")
    table = Table("", "A", "B", title="settings that differ", title_justify="left")
    for column in table.columns:
        column.overflow = "fold"
    for name, values in settings.items():
        table.add_row(name, *(printable("unset" if value is None else str(value)) for value in values))
    print_table(table)


def print_comparison(num_images: int, accuracies: dict[str, list[float]], differences: dict[str, Difference]) -> None:
    """Print a column for each metric: A, B, A less B in points with its interval, and how often A is better."""
    from rich.table import Table

    resamples = next(iter(differences.values())).num_resamples
    table = Table(title=f"{num_images:,} test images, {resamples:,} resamples of them", title_justify="left")
    table.add_column("")
    columns = []
    for name, (a, b) in accuracies.items():
        table.add_column(METRIC_TITLES[name], justify="right")
        found = differences[name]
        value, low, high = (f"{100 * value:+z.2f}" for value in (found.value, found.low, found.high))
        better, equal = (f"{count / resamples:.1%}" for count in (found.num_better, found.num_equal))
        columns.append([f"{a:.2%}", f"{b:.2%}", value, f"{low} to {high}", better, equal, f"{found.p_value:.2g}"])
    heads = ("A", "B", "A less B, points", "95% interval", "resamples: A better", "resamples: equal", "p")
    for row in zip(heads, *columns, strict=True):
        table.add_row(*row)
    print_table(table)
