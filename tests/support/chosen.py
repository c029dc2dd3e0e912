"""Folders of choices for the tests of their page, without a network: figures, answers, doubtful photos."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.reported import jpeg
from transfer.commands.choose.curve import Forecast, LearningCurve, Point
from transfer.commands.choose.record import Choice, Comparison, Figures, FineTuning, LeftOut
from transfer.config.choose_schema import ChooseConfig
from transfer.config.schema import FinetuneConfig
from transfer.files import write_json
from transfer.records import Interval
from transfer.report.photos import Photos
from transfer.resampling import Difference

DIFFERENCE = Difference(0.03, -0.01, 0.07, 0.2, 80, 5, 100)


def figures(backbone: str, latency_ms: float, accuracy: float, on_front: bool) -> Figures:
    interval = Interval(accuracy - 0.05, accuracy + 0.05)
    return Figures(
        backbone, 64, f"{backbone}.weights", 3_390_058, 31_358_432, latency_ms, "1 thread of a processor",
        accuracy, interval, "logistic", 10.0, 0.5, "torch", on_front, 1280,
    )  # fmt: skip


def choice_of(num_images: int, **changes: Any) -> Choice:
    """A choice of lite0, which lite1 beats by less than the interval; it was made in 3 folds with a learning curve."""
    curve = LearningCurve(
        "logistic", 5,
        [Point(20, 0.5, Interval(0.4, 0.6)), Point(40, 0.55, Interval(0.5, 0.62))],
        [Forecast(2, 0.6, Interval(0.5, 0.7), 0.05, Interval(0.01, 0.08)),
         Forecast(4, 0.64, Interval(0.5, 0.8), 0.02, Interval(-0.01, 0.12))],
        None, None,
    )  # fmt: skip
    config = {**FinetuneConfig(dataset="folder", data_root="my photos").to_dict(), **vars(ChooseConfig(folds=3))}
    facts: dict[str, Any] = {
        "dataset": "folder",
        "fingerprint": {},
        "metric": "top1",
        "num_images": num_images,
        "num_groups": None,
        "folds": 3,
        "repeats": 1,
        "seed": 0,
        "candidates": [figures("lite0", 5, 0.6, True), figures("lite1", 8, 0.63, True), figures("b0", 9, 0.5, False)],
        "left_out": [LeftOut("lite2", "parameters 4.815 M (at most 4.2 M)", 64)],
        "comparisons": [Comparison(1, 0, DIFFERENCE)],
        "chosen": 0,
        "reasons": ["lite1 at 64 px is the most accurate"],
        "method": "probe",
        "fine_tuning": FineTuning(
            num_folds=2, num_images=num_images, accuracy=0.61, interval=Interval(0.5, 0.7), probe_accuracy=0.6,
            difference=Difference(0.01, -0.04, 0.06, 0.9, 50, 9, 100), fold_seconds=[50.0, 70.0],
        ),
        "folds_left_out": "the fold took longer than predicted, 1 s left of --budget 15m",
        "sentence": "lite0 at 64 px, linear probe: 60.0% (55.0% to 65.0%, 3-fold)",
        "run_dir": "winner",
        "test": {"top1": 0.7},
        "budget_seconds": 900.0,
        "seconds": {"networks": 20.0, "fine_tuning": 120.0, "winner": 5.0},
        "learning_curve": curve,
        "weakest_class": "dog fares worst: 20.0% (8.1% to 41.6%) of 20 photos",
        "command": ["choose"],
        "environment": {"hardware": {"cpu": "a CPU", "cores": 2, "gpus": []}, "versions": {"torch": "2.13.0"}},
        "config": config,
    }  # fmt: skip
    return Choice(**{**facts, **changes})


def written_choice(
    folder: Path, class_names: Sequence[str], num_images: int = 60, **changes: Any
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Write the folder of a choice with random answers; return the labels and the logits of lite0.

    Shapes: (N,), (N, C)
    """
    folder.mkdir(parents=True)
    rng, size = np.random.default_rng(0), len(class_names)
    labels = rng.integers(0, size, num_images)
    logits = {name: rng.normal(size=(1, num_images, size)) + 2 * np.eye(size)[labels] for name in ("lite0", "lite1")}
    tuned = logits["lite1"][0].astype(np.float32)
    tuned[: num_images // 2] = np.nan  # of a fold that was not tried
    paths = [f"/photos/{class_names[label]}/{i}.jpg".replace("\n", " ") for i, label in enumerate(labels)]
    np.savez(
        folder / "out_of_fold.npz",
        label=labels, path=np.array(paths), class_name=np.array(class_names), fold=np.zeros((1, num_images), int),
        lpft_lite0_64=tuned, **{f"logits_{name}_64": found.astype(np.float32) for name, found in logits.items()},
    )  # fmt: skip
    with (folder / "suspects.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "label_probability", "suggested", "suggested_probability"])
        writer.writerows([paths[i], class_names[labels[i]], 0.012, class_names[0], 0.9] for i in range(3))
    Photos(photos={0: jpeg(rng), 1: jpeg(rng)}).save(folder)
    write_json(folder / "choose.json", choice_of(num_images, num_suspects=3, **changes).to_dict())
    return labels, logits["lite0"][0].astype(np.float32)
