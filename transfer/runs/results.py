"""The results of a finished run: `results.json` as a dataclass."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transfer.errors import DamagedFile, MissingData
from transfer.files import expanded, read_object, write_json
from transfer.records import Interval, checked
from transfer.run_files import RESULTS
from transfer.runs.lengthening import Lengthening

SCHEMA_VERSION = 1  # version of results.json; files without one are older and hold the same fields


class Metrics(dict[str, float]):
    """The metrics of one split, by name or as attributes: `metrics["top1"]` is `metrics.top1`.

    Accuracies are shares in [0, 1], `loss` is in nats.
    """

    def __getattr__(self, name: str) -> float:
        if name not in self:
            raise AttributeError(f"no metric {name!r} (there are: {', '.join(self)})")
        return self[name]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """Tell `transfer.records` what it is made from."""
        from pydantic_core.core_schema import no_info_after_validator_function

        return no_info_after_validator_function(cls, handler(dict[str, float]))


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """Facts about one split of a run's data.

    Attributes:
        size: number of images.
        fingerprint: digest of its images and labels, whatever their order.
        class_counts: number of images of each class, in class order.
        features: file of a probe's features.
    """

    size: int
    fingerprint: str
    class_counts: list[int]
    features: str | None = None


@dataclass(frozen=True, kw_only=True)
class ProbeFit:
    """The results that only a linear probe has.

    Attributes:
        penalty: the L2 penalty chosen.
        temperature: what the logits have been divided by.
        chosen_on: what chose the penalty: `val`, or `train` or `trainval` by cross-validation.
        val_metrics: metrics on val for every penalty, or for the one that train has chosen.
        extract_seconds, fit_seconds: wall-clock time to compute the features and to run all fits.
        passes: number of passes over the features in all fits.
        views: views of each training image that were fitted.
        head: `logistic` or `ridge` regression.
        num_features: features that the head sees; None: all of the last map.
        logit_adjustment: whether the head's logits are adjusted by the class shares of the images it was fitted to.
    """

    penalty: float
    val_metrics: list[dict[str, float]]
    extract_seconds: float
    fit_seconds: float
    passes: int
    views: int = 1
    temperature: float = 1.0
    chosen_on: str = "val"
    head: str = "logistic"
    num_features: int | None = None
    logit_adjustment: bool = False


@dataclass(frozen=True, kw_only=True)
class FirstProbe:
    """The linear probe that a fine-tuning began with: a head fitted to the frozen network's features of train alone.

    Attributes:
        penalty: the L2 penalty chosen, see `ProbeFit`.
        metrics: its metrics on val.
        engine: what computed the features.
        seconds: wall-clock time of all of it.
        logit_adjustment: see `ProbeFit`.
    """

    penalty: float
    metrics: Metrics
    engine: str
    seconds: float
    logit_adjustment: bool = False


@dataclass(frozen=True, kw_only=True)
class TeacherFacts:
    """Facts about the run whose answers a run learned from.

    Attributes:
        run_dir: its folder.
        backbone, image_size, num_parameters: its network, with its head.
        sha256: hash of its best checkpoint.
        metrics: its metrics of each measured split.
        fingerprint: digest of each split's images and labels.
        milliseconds, student_milliseconds: time of one image in float32 PyTorch, for it and for the network that
            learned from it, both measured when that one's training had ended; None where it was not measured.
        device: the processor that took this time, and its threads.
    """

    run_dir: str
    backbone: str
    image_size: int
    num_parameters: int
    sha256: str
    metrics: dict[str, Metrics]
    fingerprint: dict[str, str] = field(default_factory=dict)
    milliseconds: float | None = None
    student_milliseconds: float | None = None
    device: str | None = None


@dataclass(frozen=True, kw_only=True)
class Results:
    """The results of a finished run.

    Attributes:
        run_dir: the run's folder; it is not part of the file.
        metrics: metrics of each measured split; `val` and `test` are shortcuts.
        intervals: 95% intervals of the metrics that are shares, by split, for other images like these; on val, whose
            predictions are not kept, not of `map` and `f1`.
        quoted_metric: metric that the literature quotes for the dataset.
        per_class_accuracy: test accuracy by class name, in [0, 1]; None for a class without test images.
        monitor: metric on val that chose the best checkpoint; None without validation.
        early_stopping: epoch in which the run was stopped early, metric and patience; None if it was not.
        test_reads: number of times the test split has been read.
        lr: peak learning rate used.
        final_lr: learning rate after the last step.
        global_batch_size: images per optimizer step, over all processes and accumulated batches.
        steps_per_epoch, planned_steps, steps: optimizer steps of an epoch, of the run as planned, and as taken.
        weights: weights the run started from; None for random ones.
        warm_start: how much of the network came from `init_from`.
        teacher: the run whose answers it learned from; None without one.
        threshold: probability from which on a label is given, with the best F1 on val; None for one label per image.
        image_size: side of the network's input, in pixels.
        train_image_sizes: side of the training images in each stage of a progressive run; of others, nothing.
        seen_images: for val and test, how many of their images the network was trained on, in this run or before it.
        decay: for each decayed split, how many of its official images were left.
        copy: what is known about a copy of the dataset that differs from the original.
        images_per_second: training speed, including augmentation.
        calibration: the summary of the calibration on val; None without one. See `transfer.calibration`.
        engine: what computed, and how close to float32; see `transfer.inference.engines.EngineRecord`.
        lengthened_from: the lengths that the run had before, the first one first.
        peak_memory_bytes: peak memory of the main process; on a GPU, of its tensors.
        config: every field of the configuration.
        probe: results that only a linear probe has.
        neighbours: accuracies of the 20 nearest neighbours among the features that a linear probe was fitted to, by
            split, see `transfer.probe.neighbours`; of other runs, and where they would take long, nothing.
        first_probe: the linear probe that a fine-tuning of few images began with; None without one.
    """

    run_dir: Path = field(compare=False)
    command: list[str]
    dataset: str
    backbone: str
    metrics: dict[str, Metrics]
    intervals: dict[str, dict[str, Interval]] = field(default_factory=dict)
    quoted_metric: str = "top1"
    protocol: str | None = None
    per_class_accuracy: dict[str, float | None] = field(default_factory=dict)
    monitor: str | None = None
    early_stopping: dict[str, Any] | None = None
    test_reads: int = 0
    seed: int = 0
    lr: float | None = None
    final_lr: float | None = None
    global_batch_size: int | None = None
    steps_per_epoch: int | None = None
    planned_steps: int | None = None
    steps: int | None = None
    weights: dict[str, Any] | None = None
    warm_start: dict[str, Any] | None = None
    teacher: TeacherFacts | None = None
    num_parameters: int = 0
    image_size: int = 0
    train_image_sizes: list[int] = field(default_factory=list)
    splits: dict[str, SplitFacts] = field(default_factory=dict)
    skipped_images: list[dict[str, Any]] = field(default_factory=list)
    tested_images: int | None = None
    threshold: float | None = None
    seen_images: dict[str, int] = field(default_factory=dict)
    decay: dict[str, str] = field(default_factory=dict)
    copy: str | None = None
    train_seconds: float | None = None
    wall_seconds: float = 0.0
    images_per_second: float | None = None
    precision: str = "32-true"
    calibration: dict[str, Any] | None = None
    engine: dict[str, Any] | None = None
    world_size: int = 1
    peak_memory_bytes: int | None = None
    resumed: bool = False
    lengthened_from: list[Lengthening] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    probe: ProbeFit | None = None
    neighbours: dict[str, Metrics] = field(default_factory=dict)
    first_probe: FirstProbe | None = None
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def val(self) -> Metrics:
        """The metrics on val.

        Raises:
            MissingData: val was not measured.
        """
        return self._split("val")

    @property
    def test(self) -> Metrics:
        """The metrics on test.

        Raises:
            MissingData: test was not measured.
        """
        return self._split("test")

    def shown_metric(self, measured: Container[str]) -> str:
        """Return which of some metrics stands for the run: the quoted one, or `map` where it is not among them."""
        return "map" if "map" in measured and self.quoted_metric not in measured else self.quoted_metric

    def _split(self, name: str) -> Metrics:
        if name not in self.metrics:
            raise MissingData(
                f"{self.run_dir}: no metrics on {name} (measured: {', '.join(self.metrics) or 'nothing'})"
            )
        return self.metrics[name]

    def save(self) -> None:
        """Write `results.json` into the run's folder atomically."""
        content = asdict(self)
        del content["run_dir"]
        content |= content.pop("probe") or {}
        content |= content.pop("environment")
        write_json(self.run_dir / RESULTS, {"schema_version": SCHEMA_VERSION, **content})


_ENVIRONMENT = ("python", "versions", "git_commit", "hardware")


def read_results(run_dir: str | Path) -> Results:
    """Return the results of a finished run, written by this version or an earlier one.

    Args:
        run_dir: the run's folder.

    Raises:
        UserError: the run is not finished, or its `results.json` is damaged or of a newer version.
    """
    run_dir = expanded(run_dir)
    path = run_dir / RESULTS
    if not run_dir.exists():
        raise MissingData(f"{run_dir}: no such run")
    if not path.is_file():
        raise MissingData(f"{run_dir} is not a finished run: it has no {RESULTS}")
    content = read_object(path)
    version = content.get("schema_version", 0)
    if type(version) is not int or version > SCHEMA_VERSION:
        raise DamagedFile(
            f"{path}: schema version {version} (readable here: at most {SCHEMA_VERSION}); update efficientnet-transfer"
        )
    parts = {"run_dir": str(run_dir), "environment": {name: content[name] for name in _ENVIRONMENT if name in content}}
    if "penalty" in content:
        parts["probe"] = content
    return checked({**content, **parts}, Results, path)


def save_calibration_summary(run_dir: Path, summary: dict[str, Any]) -> None:
    """Replace `calibration` in a finished run's `results.json`; the rest of the file stays as it is."""
    path = run_dir / RESULTS
    write_json(path, {**read_object(path), "calibration": summary})


def last_results(parent: Path) -> Path | None:
    """Return the finished run with the highest number in a folder of numbered runs, or None."""
    found = [path.parent for path in parent.glob(f"*/{RESULTS}") if path.parent.name.isdecimal()]
    return max(found, key=lambda path: int(path.name), default=None)
