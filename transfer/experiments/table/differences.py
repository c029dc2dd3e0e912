"""Which of a table's settings are better than which, over seeds and test images, corrected for their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from transfer.errors import UserError
from transfer.experiments.table.entries import CELLS, FINAL
from transfer.experiments.table.results import Result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from transfer.seeds import SeedDifference
    from transfer.statistics import Metric

    Predictions = tuple[NDArray[np.int64], NDArray[np.int64], tuple[str, ...]]

SIGNIFICANT = 0.05
_TOLERANCE = 1e-4  # of a metric that float32 has summed

Setting = tuple[str, str]


@dataclass(frozen=True)
class Comparison:
    """Two settings of a table on one dataset, or on average over several.

    Attributes:
        datasets: what they are compared on.
        a, b: backbone and protocol of each.
        metrics: the metrics that are compared: a dataset's quoted one.
        difference: A less B; None where it cannot be computed.
        reason: why it cannot.
        corrected: its p-value by Holm's method over all comparisons of the table.
    """

    datasets: tuple[str, ...]
    a: Setting
    b: Setting
    metrics: tuple[str, ...]
    difference: SeedDifference | None
    reason: str = ""
    corrected: float | None = None

    @property
    def verdict(self) -> Literal["A better", "B better", "cannot tell", "not compared"]:
        """What follows from the corrected p-value."""
        if self.difference is None or self.corrected is None:
            return "not compared"
        if self.corrected >= SIGNIFICANT:
            return "cannot tell"
        return "A better" if self.difference.value > 0 else "B better"


def compare_settings(table_dir: Path, results: Sequence[Result]) -> list[Comparison]:
    """Return the comparisons that a reader of a table asks for, the averages over datasets last.

    On each dataset, those are every two protocols of a backbone, and every two backbones of a protocol that follow each
    other by their parameters; A is the later protocol of the plan, or the larger backbone. Two settings that are
    compared on several datasets are compared on average over them, too.

    Args:
        table_dir: folder of the table.
        results: its results, see `table_results`.
    """
    from transfer.progress import track
    from transfer.seeds import average_difference
    from transfer.statistics import holm

    pairs = _pairs(results)
    kept = {result.key: _predictions(table_dir, result) for pair in pairs for result in pair}
    found = [_compare(a, b, kept[a.key], kept[b.key]) for a, b in track(pairs, "comparing")]
    by_settings: dict[tuple[Setting, Setting], list[Comparison]] = {}
    for one in found:
        if one.difference is not None:
            by_settings.setdefault((one.a, one.b), []).append(one)
    for (a, b), several in by_settings.items():
        if len(several) > 1:
            metrics = tuple(dict.fromkeys(one.metrics[0] for one in several))
            datasets = tuple(one.datasets[0] for one in several)
            mean = average_difference([one.difference for one in several if one.difference is not None])
            found.append(Comparison(datasets, a, b, metrics, mean))
    corrected = iter(holm([one.difference.p_value for one in found if one.difference is not None]))
    return [one if one.difference is None else replace(one, corrected=next(corrected)) for one in found]


def _pairs(results: Sequence[Result]) -> list[tuple[Result, Result]]:
    done = [result for result in results if result.done]
    pairs = []
    for dataset in dict.fromkeys(result.dataset for result in done):
        here = [result for result in done if result.dataset == dataset]
        for backbone in dict.fromkeys(result.backbone for result in here):
            same = [result for result in here if result.backbone == backbone]
            pairs += [(later, earlier) for earlier, later in combinations(same, 2)]
        for protocol in dict.fromkeys(result.protocol for result in here):
            same = [result for result in here if result.protocol == protocol]
            same.sort(key=lambda result: result.num_parameters or 0)
            pairs += [(larger, smaller) for smaller, larger in pairwise(same)]
    return pairs


def _compare(a: Result, b: Result, kept_a: Predictions | str, kept_b: Predictions | str) -> Comparison:
    from transfer.seeds import compare_seeds

    settings = [(result.backbone, result.protocol) for result in (a, b)]
    metric = a.quoted_metric

    def comparison(difference: SeedDifference | None, reason: str = "") -> Comparison:
        return Comparison((a.dataset,), settings[0], settings[1], (metric,), difference, reason)

    if b.quoted_metric != metric:
        return comparison(None, f"A quotes {metric}, B {b.quoted_metric}")
    if isinstance(kept_a, str):
        return comparison(None, kept_a)
    if isinstance(kept_b, str):
        return comparison(None, kept_b)
    (labels, of_a, images), (other_labels, of_b, other_images) = kept_a, kept_b
    if labels.tolist() != other_labels.tolist() or images != other_images:
        return comparison(None, "their test images differ, or the order of them")
    seeds = [[entry.seed for entry in result.done] for result in (a, b)]
    paired = sorted(seeds[0]) == sorted(seeds[1])
    if paired:
        of_b = of_b[[seeds[1].index(seed) for seed in seeds[0]]]
    return comparison(compare_seeds(labels, of_a, of_b, cast("Metric", metric), paired=paired))


def _predictions(table_dir: Path, result: Result) -> Predictions | str:
    """Return the labels, (N,), each seed's predictions, (S, N), and the images' names; or why there are none."""
    import numpy as np

    from transfer.runs.test_record import read_predictions
    from transfer.statistics import mean_per_class, top1

    measure = {"top1": top1, "mean_per_class": mean_per_class}.get(result.quoted_metric)
    if measure is None:
        return "only results with one label per image are compared"
    found = []
    for entry in result.done:
        try:
            one = read_predictions(table_dir / CELLS / entry.id / FINAL)
        except UserError as error:
            return str(error).replace(f"{table_dir}/", "")
        expected = entry.accuracy(result.quoted_metric)
        if (
            one.multilabel
            or expected is None
            or abs(100 * measure(one.labels, one.predictions) - expected) > _TOLERANCE
        ):
            return f"{CELLS}/{entry.id}/{FINAL}: its predictions are not those of its result"
        found.append(one)
    names = [tuple(Path(path).name for path in one.paths) for one in found]
    if len({(tuple(one.labels.tolist()), name) for one, name in zip(found, names, strict=True)}) > 1:
        return f"the seeds of {result.backbone} by {result.protocol} were tested on different images"
    return found[0].labels, np.stack([one.predictions for one in found]), names[0]
