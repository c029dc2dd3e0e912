"""What a linear probe says: in results.json and when it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.config.probe_schema import ProbeConfig
from transfer.config.schema import FinetuneConfig
from transfer.records import Interval
from transfer.run_files import RESULTS
from transfer.runs.results import Metrics, ProbeFit, Results, SplitFacts

if TYPE_CHECKING:
    import torch

    from datamodules.datamodule import DataModule
    from datamodules.dataset.loaded import Dataset
    from transfer.inference.engines import EngineRecord
    from transfer.networks.classifier import Classifier
    from transfer.probe.features import Features
    from transfer.probe.linear import Probe
    from transfer.weights.start import Start


def collect_results(
    config: FinetuneConfig,
    own: ProbeConfig,
    run_dir: Path,
    start: Start,
    dataset: Dataset,
    found: Probe,
    files: Mapping[str, Path],
    record: EngineRecord,
    seconds: Mapping[str, float],
) -> Results:
    """Return what the probe found on val, and what it was found with.

    Args:
        config: the run's configuration.
        own: the probe's own fields.
        run_dir: the folder of the probe.
        start: the network and its weights.
        dataset: the images.
        found: the fit.
        files: the features' file of each split.
        record: what computed the features.
        seconds: wall-clock time of `extract` and `fit`.
    """
    from transfer.environment import command_words, environment

    return Results(
        run_dir=run_dir,
        command=command_words(),
        protocol="linear probe" if config.head == "linear" else "linear probe of stages",
        dataset=config.dataset,
        backbone=start.variant.name,
        metrics={"val": Metrics(found.val_metrics[found.penalty])},
        intervals={"val": _intervals(found.val_metrics[found.penalty], dataset, "val")},
        quoted_metric=dataset.quoted_metric,
        seed=config.seed,
        weights=start.provenance(),
        image_size=start.preprocessing.image_size,
        splits={
            name: SplitFacts(
                size=size,
                fingerprint=dataset.fingerprint[name],
                class_counts=dataset.class_counts[name],
                features=str(files[name]),
            )
            for name, size in dataset.split_sizes.items()
        },
        skipped_images=[asdict(image) for image in dataset.skipped],
        decay=dict(dataset.decay),
        copy=dataset.known_copy,
        config={**config.to_dict(), **asdict(own)},
        probe=_probe_fit(own, found, seconds),
        engine=asdict(record),
        precision=record.precision,
        environment=environment(),
    )


def _probe_fit(own: ProbeConfig, found: Probe, seconds: Mapping[str, float]) -> ProbeFit:
    return ProbeFit(
        penalty=found.penalty,
        temperature=found.temperature,
        chosen_on=found.chosen_on,
        head=found.head,
        val_metrics=[{"penalty": penalty, **values} for penalty, values in found.val_metrics.items()],
        extract_seconds=round(seconds["extract"], 2),
        fit_seconds=round(seconds["fit"], 2),
        passes=found.passes,
        views=own.views,
        num_features=found.num_features,
        logit_adjustment=found.logit_adjustment,
    )


def _intervals(metrics: Mapping[str, float], dataset: Dataset, split: str) -> dict[str, Interval]:
    from transfer.runs.intervals import find_intervals

    return find_intervals(metrics, dataset.class_counts[split], dataset.split_sizes[split])


def measure_test(run_dir: Path, found: Probe, test: Sequence[Features], data: DataModule) -> dict[str, Any]:
    """Count a read of test, save the predictions, and return the fields of the results that test decides."""
    from transfer.commands.finetune_report import count_seen_images
    from transfer.probe.linear import linear_metrics, predict
    from transfer.run_files import PREDICTIONS
    from transfer.runs.test_record import count_test_read, make_predictions
    from transfer.training.metrics import build_per_class_accuracy

    dataset, seen = data.dataset, {"seen_images": count_seen_images(data)}
    if not test:
        return seen
    reads = count_test_read(run_dir)
    predicted = predict(found.fit, *test)
    labels, probabilities = (tensor.numpy() for tensor in predicted)
    names = dataset.split("test").image_names()
    make_predictions(labels, probabilities, names, dataset.class_names).save(run_dir / PREDICTIONS)
    measure = build_per_class_accuracy(dataset.num_classes, multilabel=False)
    accuracies = measure(predicted.classes, predicted.labels).tolist()
    counts = dataset.class_counts["test"]
    metrics = {"val": found.val_metrics[found.penalty], "test": linear_metrics(found.fit, *test)}
    return {
        **seen,
        "test_reads": reads,
        "metrics": {name: Metrics(values) for name, values in metrics.items()},
        "intervals": {name: _intervals(values, dataset, name) for name, values in metrics.items()},
        "per_class_accuracy": {
            name: accuracy if count else None
            for name, accuracy, count in zip(dataset.class_names, accuracies, counts, strict=True)
        },
    }


def measure_neighbours(
    features: Mapping[str, Sequence[Features]], num_classes: int, device: torch.device
) -> dict[str, Metrics]:
    """Return the accuracies of the nearest neighbours: on val among train, on test, if it was read, among both."""
    from transfer.probe.neighbours import neighbour_accuracies

    known, measured = [features["train"][0]], {}
    for split in ("val", "test"):
        for images in features.get(split, ()):
            if accuracies := neighbour_accuracies(images, known, num_classes, device):
                measured[split] = Metrics(accuracies)
            known.append(images)
    return measured


def leave_results(
    results: Results,
    fine_tuned: Results | None,
    config: FinetuneConfig,
    classifier: Classifier,
    found: Probe,
    data: DataModule,
) -> None:
    """Write and print a probe's results, and write the page about it, for which the classifier gets another head."""
    from transfer.commands.report import leave_report

    results.save()
    print_report(results, fine_tuned)
    classifier.head.load_state_dict(found.train_fit.state_dict())  # of which the answers on val are
    leave_report(results, config, classifier, data)


def print_report(results: Results, fine_tuned: Results | None) -> None:
    """Print the metrics, a fine-tuned run's beside them, what limits them, and where they lie."""
    from transfer.commands.calibrate import describe
    from transfer.commands.results_table import print_results
    from transfer.training.metrics import name_absent

    fit = results.probe
    assert fit is not None
    heading = f"linear probe of {results.backbone}"
    print_results(results.dataset, heading, results.metrics, results.quoted_metric, results.protocol, results.intervals)
    metric = results.quoted_metric
    if found := [f"{split} {values[metric]:.2%}" for split, values in results.neighbours.items()]:
        print(f"20 nearest neighbours, {metric}: {', '.join(found)}")
    absent = [name for name, accuracy in results.per_class_accuracy.items() if accuracy is None]
    if absent:
        print(f"test: {name_absent(absent, 'mean_per_class')}")
    if fine_tuned is not None and "test" in results.metrics:
        print(compare(fine_tuned, results))
    if line := describe(results.calibration):
        print(line)
    for missing in results.decay.values():
        print(f"on {missing}: not comparable with published results")
    splits = {"val": f"of {len(fit.val_metrics)} on val", "train": "in cross-validation on train"}
    chosen = splits.get(fit.chosen_on, "in cross-validation on train and val")
    seen = "" if results.config["head"] == "linear" else f" on {fit.num_features:,} features, of the last stages, too"
    adjusted = ", with logit adjustment" if fit.logit_adjustment else ""
    print(
        f"{fit.head} regression{seen}{adjusted}, penalty {fit.penalty:.3g}, the best {chosen};"
        f" features {fit.extract_seconds:.0f} s, fits {fit.fit_seconds:.0f} s; results in {results.run_dir / RESULTS}"
    )


def compare(fine_tuned: Results, probe: Results) -> str:
    """Return the line that sets a fine-tuned run's accuracy beside the probe's."""
    metric, source = probe.quoted_metric, fine_tuned.run_dir / RESULTS
    tested = fine_tuned.metrics.get("test", Metrics())
    if metric not in tested:
        return f"fine-tuned: {source} has no test {metric}"
    tests = [results.splits.get("test") for results in (fine_tuned, probe)]
    same = tests[0] is not None and tests[1] is not None and tests[0].fingerprint == tests[1].fingerprint
    other = "" if same else " on other test images"
    return (
        f"test {metric}: probe {_quote(probe, metric)}, fine-tuned {_quote(fine_tuned, metric)}"
        f" at {fine_tuned.image_size} px{other} ({source})"
    )


def _quote(results: Results, metric: str) -> str:
    interval = results.intervals.get("test", {}).get(metric)
    return f"{100 * results.test[metric]:.2f}%{f' ({interval.percent()})' if interval else ''}"
