"""The verdict on a run in one sentence, and what to know beside it."""

from __future__ import annotations

from dataclasses import dataclass, field

from transfer.records import Interval
from transfer.report.run_content import RunContent
from transfer.resampling import paired_bootstrap
from transfer.runs.results import Metrics, Results

_MEANINGS = {
    "top1": "of {images} are classified correctly",
    "mean_per_class": "is the mean accuracy per class on {images}",
    "map": "is the mean average precision on {images}",
    "map_11": "is the mean average precision at 11 recalls (VOC 2007) on {images}",
    "f1": "is the F1 score of the labels on {images}",
}


@dataclass(frozen=True)
class Verdict:
    """What a run reached.

    Attributes:
        value: the figure, in words; empty where nothing was measured.
        sentence: goes on from the figure.
        facts: what it is to be compared with.
        warnings: why it may be worth less than it looks.
    """

    value: str
    sentence: str
    facts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def find_verdict(content: RunContent) -> Verdict:
    """Return the verdict on a run: on test where it was measured, else on val."""
    results = content.results
    split = next((name for name in ("test", "val") if results.metrics.get(name)), None)
    if split is None:
        return Verdict(
            "", "Nothing was measured: the run had neither val nor test images.", warnings=_warnings(results)
        )
    metric = main_metric(results, split)
    interval = results.intervals.get(split, {}).get(metric)
    images = _plural(_measured(results, split), f"{split} image")
    meaning = _MEANINGS.get(metric, f"is the {metric} on {{images}}").format(images=images)
    doubt = f" (95% interval {interval.percent()})" if interval else ""
    return Verdict(
        percent(results.metrics[split][metric]),
        f"{meaning}{doubt}.",
        [*_against_chance(content, split, metric), *_against_probe(results)],
        _warnings(results),
    )


def main_metric(results: Results, split: str) -> str:
    """Return the metric that the verdict is about: the one quoted for the data, or the first that there is."""
    found = results.metrics[split]
    wanted = (results.quoted_metric, results.monitor or "", *_MEANINGS, *found)
    return next((name for name in wanted if name in found and name != "loss"), "loss")


def percent(share: float) -> str:
    """Return a share with one decimal: `93.4%`."""
    return f"{100 * share:.1f}%"


def points(share: float) -> str:
    """Return a difference of shares: `+2.1`."""
    return f"{100 * share:+z.1f}"


def paired_difference(first: RunContent, other: RunContent) -> tuple[float, Interval] | None:
    """Return by how much another run's test accuracy exceeds the first one's, with its interval.

    None where they were not tested on the same images in the same order.
    """
    a, b = first.test_answers, other.test_answers
    tests = [content.results.splits.get("test") for content in (first, other)]
    if a is None or b is None or a.multilabel or b.multilabel or tests[0] is None or tests[1] is None:
        return None
    if tests[0].fingerprint != tests[1].fingerprint or a.saved.labels.tolist() != b.saved.labels.tolist():
        return None
    found = paired_bootstrap(a.saved.labels, b.saved.predictions, a.saved.predictions)
    return found.value, Interval(found.low, found.high)


def _measured(results: Results, split: str) -> int:
    if split == "test" and results.tested_images is not None:
        return results.tested_images
    return results.splits[split].size if split in results.splits else 0


def _against_chance(content: RunContent, split: str, metric: str) -> list[str]:
    """Return what an answer without looking would reach."""
    results = content.results
    counts = results.splits[split].class_counts if split in results.splits else []
    if metric not in ("top1", "mean_per_class") or not sum(counts):
        return []
    if metric == "mean_per_class":
        return [f"Always predicting the same class would reach {percent(1 / sum(map(bool, counts)))}."]
    largest = max(range(len(counts)), key=counts.__getitem__)
    names = class_names(content)
    name = f"“{names[largest]}”" if largest < len(names) else "the most frequent class"
    return [f"Always predicting {name} would reach {percent(counts[largest] / sum(counts))}."]


def class_names(content: RunContent) -> list[str]:
    """Return the names of a run's classes, in index order, as far as its folder tells them."""
    if content.answers is not None:
        return list(content.answers.class_names)
    return list(content.results.per_class_accuracy)


def _against_probe(results: Results) -> list[str]:
    facts = []
    first, metric = results.first_probe, results.quoted_metric
    if first is not None and metric in first.metrics and metric in results.metrics.get("val", {}):
        tuned, probed = results.val[metric], first.metrics[metric]
        facts.append(
            f"On val, fine-tuning reaches {percent(tuned)}, the linear probe of the frozen network {percent(probed)}"
            f" ({points(tuned - probed)} points)."
        )
    if found := [
        f"{percent(values[metric])} on {split}" for split, values in results.neighbours.items() if metric in values
    ]:
        facts.append(f"The 20 nearest neighbours among the features reach {' and '.join(found)}.")
    return facts


def _warnings(results: Results) -> list[str]:
    warnings = []
    for split, count in results.seen_images.items():
        if count and split in results.splits:
            warnings.append(
                f"{count:,} of {results.splits[split].size:,} {split} images were trained on, in this run or before it:"
                f" the figures on {split} are too good."
            )
    warnings += [f"Only on {missing}: not comparable with published results." for missing in results.decay.values()]
    if results.copy:
        warnings.append(f"The data are a copy that differs from the original: {results.copy}.")
    first, metric = results.first_probe, results.quoted_metric
    tuned = results.metrics.get("val", Metrics())
    if first is not None and tuned.get(metric, 1.0) < first.metrics.get(metric, 0.0):
        warnings.append(
            "Fine-tuning ended below the linear probe: efficientnet-transfer probe makes that network in seconds."
        )
    return warnings


def _plural(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
