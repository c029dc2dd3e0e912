"""The record of a run's test split: how often it was read, and the prediction for every image."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transfer.errors import DamagedFile, UserError
from transfer.files import write_json, written_whole

TEST_READS, PREDICTIONS = "test_reads.json", "test_predictions.npz"


def count_test_read(run_dir: Path) -> int:
    """Record in the run's folder that its test split is about to be read, and return the number of reads so far.

    Call it before reading, so that an interrupted read counts too.
    """
    reads = num_test_reads(run_dir) + 1
    write_json(run_dir / TEST_READS, {"reads": reads})
    return reads


def num_test_reads(run_dir: Path) -> int:
    """Return the number of times a run's test split was read.

    Raises:
        UserError: the counter is damaged.
    """
    path = run_dir / TEST_READS
    if not path.exists():
        return 0
    try:
        return int(json.loads(path.read_text())["reads"])
    except (ValueError, TypeError, KeyError):
        raise DamagedFile(
            f'{path}: damaged (expected: {{"reads": n}}); the number of reads of the test split is lost'
        ) from None


def save_predictions(run_dir: Path, predictions: NDArray[np.int64]) -> None:
    """Write `test_predictions.npz` atomically: int64 arrays `label` and `prediction`, each (N,).

    Args:
        run_dir: the run's folder.
        predictions: label and predicted class of each test image in the split's order, (N, 2).
    """
    label, prediction = predictions.astype(np.int64).T
    with written_whole(run_dir / PREDICTIONS) as file:
        np.savez(file, label=label, prediction=prediction)


def read_predictions(run_dir: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return labels and predicted classes of a run's test images, each (N,), in the split's order.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = run_dir / PREDICTIONS
    if not path.exists():
        raise UserError(
            f"{run_dir} has no {PREDICTIONS}: the run read none or only part of a test split, has several labels per"
            " image, or predates that file"
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            label, prediction = arrays["label"], arrays["prediction"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise DamagedFile(f"{path}: damaged (expected: arrays 'label' and 'prediction')") from None
    if label.ndim != 1 or label.shape != prediction.shape or not label.size:
        raise DamagedFile(f"{path}: damaged (arrays of shapes {label.shape} and {prediction.shape})")
    return label.astype(np.int64), prediction.astype(np.int64)
