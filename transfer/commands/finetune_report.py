"""The output of a fine-tuning run: at its start, at its end, and in results.json."""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from transfer.config.schema import FinetuneConfig
from transfer.progressive import stage_sizes
from transfer.records import Interval
from transfer.run_files import PREDICTIONS, RESULTS
from transfer.runs.results import Metrics, Results, SplitFacts, TeacherFacts

if TYPE_CHECKING:
    from datamodules.datamodule import DataModule
    from datamodules.dataset.loaded import Dataset
    from transfer.commands.finetune_build import Prepared
    from transfer.lightning import pl
    from transfer.networks.classifier import Classifier
    from transfer.runs.folder import RunFolder
    from transfer.runs.teacher import Teacher
    from transfer.training.callbacks import EpochLog
    from transfer.training.module import TransferModule
    from transfer.weights.start import Start


def collect_results(
    prepared: Prepared, run: RunFolder, trainer: pl.Trainer, log: EpochLog, metrics: dict[str, Metrics]
) -> Results:
    """Return the results of a run that has trained and was measured."""
    from transfer.environment import command_words, environment, peak_memory_bytes
    from transfer.runs.lengthening import read_lengthenings
    from transfer.runs.test_record import num_test_reads
    from transfer.training.run_length import run_length
    from transfer.training.selection import EarlyStop
    from transfer.weights.build import measure_warm_start

    config, start, module, data = prepared.config, prepared.start, prepared.module, prepared.data
    dataset, warm_start = data.dataset, measure_warm_start(start)
    return Results(
        run_dir=run.path,
        command=command_words(),
        dataset=config.dataset,
        backbone=start.variant.name,
        metrics=metrics,
        **_data_facts(data),
        intervals=_intervals(config, trainer, module, dataset, metrics),
        protocol=config.protocol,
        per_class_accuracy=_class_accuracies(dataset, module),
        monitor=log.monitor if "val" in metrics else None,
        early_stopping=next((c.outcome() for c in trainer.callbacks if isinstance(c, EarlyStop)), None),  # type: ignore[attr-defined]
        test_reads=num_test_reads(run.path),
        seed=config.seed,
        final_lr=trainer.optimizers[0].param_groups[-1]["lr"],
        **asdict(run_length(trainer, config.data.batch_size)),
        steps=trainer.global_step,
        weights=start.provenance(),
        warm_start=asdict(warm_start) if warm_start else None,
        teacher=_teacher_facts(prepared.teacher, trainer, module, data),
        num_parameters=sum(p.numel() for p in module.classifier.parameters()),
        image_size=start.preprocessing.image_size,
        train_image_sizes=_train_sizes(config, start),
        tested_images=None if module.predictions is None else len(module.predictions.labels),
        threshold=module.classifier.threshold,
        train_seconds=round(log.seconds, 2),
        wall_seconds=round(time.perf_counter() - prepared.started, 2),
        images_per_second=log.images_per_second and round(log.images_per_second, 1),
        precision=trainer.precision,
        world_size=trainer.world_size,
        peak_memory_bytes=peak_memory_bytes(),
        resumed=run.resumes,
        lengthened_from=read_lengthenings(run.path),
        config=config.to_dict(),
        environment=environment(),
    )


def _teacher_facts(
    teacher: Teacher | None, trainer: pl.Trainer, module: TransferModule, data: DataModule
) -> TeacherFacts | None:
    if teacher is None or not trainer.is_global_zero:
        return None
    return teacher.beside(module.classifier, data.preprocessing)


def save_test_predictions(run: RunFolder, trainer: pl.Trainer, module: TransferModule, data: DataModule) -> None:
    """Write what the module said of each test image, in the split's order, if it has seen all of them."""
    from transfer.runs.test_record import make_predictions

    found, test = module.predictions, data.dataset.split("test")
    if found is None or len(found.labels) < len(test):
        return
    order = data.test_order("test", trainer.world_size).argsort()
    labels, probabilities = (tensor.numpy()[order] for tensor in found)
    threshold = module.classifier.threshold
    make_predictions(labels, probabilities, test.image_names(), data.class_names, threshold).save(
        run.path / PREDICTIONS
    )


def _intervals(
    config: FinetuneConfig, trainer: pl.Trainer, module: TransferModule, dataset: Dataset, metrics: dict[str, Metrics]
) -> dict[str, dict[str, Interval]]:
    """Return the intervals of the metrics on val and test, each from the images that were measured."""
    from transfer.runs.intervals import find_intervals

    intervals = {}
    if "val" in metrics:
        size, batches = dataset.split_sizes["val"], sum(trainer.num_val_batches)
        measured = min(size, batches * config.data.batch_size * trainer.world_size) or size
        intervals["val"] = find_intervals(metrics["val"], dataset.class_counts["val"], int(measured))
    if module.predictions is not None:
        labels, probabilities = (tensor.numpy() for tensor in module.predictions)
        counts = dataset.class_counts["test"]
        intervals["test"] = find_intervals(metrics["test"], counts, len(labels), (labels, probabilities))
    return intervals


def _class_accuracies(dataset: Dataset, module: TransferModule) -> dict[str, float | None]:
    """Return the test accuracy of each class; None for one without test images."""
    tested = dataset.class_counts.get("test", [])
    accuracies = zip(dataset.class_names, module.per_class_accuracy, tested, strict=False)
    return {name: accuracy if count else None for name, accuracy, count in accuracies}


def _data_facts(data: DataModule) -> dict[str, Any]:
    """Return the entries of the results that the data alone decide."""
    dataset = data.dataset
    return {
        "quoted_metric": dataset.quoted_metric,
        "splits": {
            name: SplitFacts(size=size, fingerprint=dataset.fingerprint[name], class_counts=dataset.class_counts[name])
            for name, size in dataset.split_sizes.items()
        },
        "skipped_images": [asdict(image) for image in dataset.skipped],
        "seen_images": count_seen_images(data),
        "decay": dict(dataset.decay),
        "copy": dataset.known_copy,
    }


def print_start(prepared: Prepared, run: RunFolder, precision: str) -> None:
    """Print the data, the settings that were chosen, the network, its teacher, and the folder of an interrupted run.

    Warn of test images that the network has seen.
    """
    from transfer.runs.lengthening import read_lengthenings
    from transfer.runs.run_start import head_source
    from transfer.weights.build import measure_warm_start

    config, start, data, teacher = prepared.config, prepared.start, prepared.data, prepared.teacher
    print("\n".join([data.dataset.describe(), *prepared.choices]))
    if run.resumes:
        print(f"resumes the run in {run.path}", *map(str, read_lengthenings(run.path)), sep="\n")
    head = None if run.resumes or config.init_head else head_source(config, data.class_names)
    low = "" if precision == "32-true" else f"; {precision}"
    with_head = "" if head is None else ", with the head of that run"
    print(f"{start.variant.name} from {start.describe()}{with_head}; {start.preprocessing.image_size} px{low}")
    if sizes := _train_sizes(config, start):
        print(f"training images grow: {', '.join(map(str, sizes))} px, a quarter of the run each")
    if warm_start := measure_warm_start(start):
        print(f"--init_from {config.init_from}: {warm_start}")
    if teacher is not None:
        print(teacher.describe(config))
    if not data.dataset.split_sizes.keys() - {"train"}:
        print("nothing will be measured: there is no test split, and a final fit has no val split")
    warn_of_seen_images(data, "the network that this run starts from" + (" or its teacher" if teacher else ""))


def _train_sizes(config: FinetuneConfig, start: Start) -> list[int]:
    return [] if config.progressive is None else stage_sizes(config.progressive, start.preprocessing.image_size)


def count_seen_images(data: DataModule) -> dict[str, int]:
    """Return for val and test how many of their images the network was trained on, in this run or before it."""
    seen = data.seen_images()
    return {name: seen.count(split.ids()) for name, split in data.dataset.splits.items() if name != "train"}


def warn_of_seen_images(data: DataModule, before: str = "the network that this run starts from") -> None:
    """Warn of val and test images that are in train, too, and of those that were trained on before, by whom."""
    train = data.dataset.seen_images
    for name, split in data.dataset.splits.items():
        if name == "train":
            continue
        if data.seen_before is not None and (count := data.seen_before.count(split.ids())):
            warnings.warn(
                f"{count} of {len(split)} {name} images were trained on before, by {before}: its {name} metrics are too"
                " good",
                stacklevel=2,
            )
        if count := train.count(split.ids()):
            warnings.warn(f"{count} of {len(split)} {name} images are in train, too (doctor lists them)", stacklevel=2)


def leave_results(results: Results, config: FinetuneConfig, classifier: Classifier, data: DataModule) -> None:
    """Write and print a run's results, and write the page about it."""
    from transfer.commands.report import leave_report

    results.save()
    print_end(results)
    leave_report(results, config, classifier, data)


def print_end(results: Results) -> None:
    """Print the metrics, any caveats about the data, the speed, and the path of the results."""
    from transfer.commands.calibrate import describe
    from transfer.commands.finetune_probe import print_comparison
    from transfer.commands.results_table import print_results

    print_results(
        results.dataset,
        results.backbone,
        results.metrics,
        results.quoted_metric,
        results.protocol,
        results.intervals,
    )
    if line := describe(results.calibration):
        print(line)
    print_comparison(results)
    for missing in results.decay.values():
        print(f"on {missing}: not comparable with published results")
    if seen := results.seen_images.get("test"):
        print(f"{seen} of {results.splits['test'].size} test images were trained on: the result is too good")
    if results.copy:
        print(f"data: {results.copy}")
    speed = f"{results.images_per_second or 0:.0f} images/s"
    print(f"training {results.train_seconds:.0f} s, {speed}; results in {results.run_dir / RESULTS}")
