"""The record of a run: how often its test split was read, and the prediction for every image of val and test."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.errors import DamagedFile, MissingData
from transfer.files import open_regular, read_object, write_json, written_whole
from transfer.run_files import PREDICTIONS, VAL_PREDICTIONS

TEST_READS = "test_reads.json"


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
    reads = read_object(path).get("reads")
    if type(reads) is not int or reads < 0:
        raise DamagedFile(f'{path}: damaged (expected: {{"reads": n}}); the number of reads of the test split is lost')
    return reads


@dataclass(frozen=True)
class SavedPredictions:
    """What a network said of N images with C classes, in a split's order.

    Attributes:
        labels: class indices, int64 (N,); with several labels per image, bool (N, C).
        predictions: most probable classes, int64 (N,); with several labels, whether each is given, bool (N, C).
        probabilities: float32 (N, C); None in a file of an earlier version.
        paths: where each image is: its file, or the row of its table; empty in a file of an earlier version.
        class_names: names of the classes, in index order; empty in a file of an earlier version.
    """

    labels: NDArray[Any]
    predictions: NDArray[Any]
    probabilities: NDArray[np.float32] | None = None
    paths: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several labels."""
        return self.labels.ndim == 2

    def arrays(self) -> dict[str, Any]:
        """Return the arrays of a .npz file: `label`, `prediction`, `probability`, `path` and `class_name`."""
        arrays: dict[str, Any] = {"label": self.labels, "prediction": self.predictions}
        if self.probabilities is not None:
            arrays["probability"] = self.probabilities
        return arrays | {"path": text_array(self.paths), "class_name": text_array(self.class_names)}

    def save(self, path: Path) -> None:
        """Write `arrays` into a .npz file, atomically."""
        with written_whole(path) as file:
            np.savez(file, **self.arrays())


def make_predictions(
    labels: NDArray[Any],
    probabilities: NDArray[np.float32],
    paths: Sequence[str],
    class_names: Sequence[str],
    threshold: float | None = None,
) -> SavedPredictions:
    """Return what probabilities say.

    Args:
        labels: class indices (N,), or multi-hot (N, C).
        probabilities: float32 (N, C).
        paths: where each image is.
        class_names: names of the classes, in index order.
        threshold: probability from which on a label is given, if an image may have several; None: one half.
    """
    if labels.ndim == 2:
        labels, predictions = labels.astype(bool), probabilities >= (0.5 if threshold is None else threshold)
    else:
        labels, predictions = labels.astype(np.int64), probabilities.argmax(1)
    return SavedPredictions(labels, predictions, probabilities, tuple(paths), tuple(class_names))


def text_array(texts: Sequence[str]) -> NDArray[np.str_]:
    """Return texts as an array; bytes of a path that are no UTF-8 become escapes, as numpy cannot store them."""
    return np.array([text.encode(errors="backslashreplace").decode() for text in texts], dtype=np.str_)


def read_predictions(run_dir: Path, split: str = "test") -> SavedPredictions:
    """Return what a run said of its images of `test` or `val`.

    Raises:
        MissingData: the run has no such file.
        DamagedFile: it cannot be read.
    """
    path = run_dir / {"test": PREDICTIONS, "val": VAL_PREDICTIONS}[split]
    if not path.exists():
        raise MissingData(
            f"{run_dir} has no {path.name}: the run read none or only part of a {split} split, or predates that file"
        )
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as arrays:
            found = SavedPredictions(
                arrays["label"],
                arrays["prediction"],
                arrays.get("probability"),
                *(tuple(arrays[name].tolist()) if name in arrays else () for name in ("path", "class_name")),
            )
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error):
        raise DamagedFile(f"{path}: damaged (expected: arrays 'label' and 'prediction')") from None
    _check(found, path)
    return found


def _check(found: SavedPredictions, path: Path) -> None:
    labels, predictions = found.labels, found.predictions
    kinds = {1: "iu", 2: "b"}.get(labels.ndim, "")
    if (
        labels.shape != predictions.shape
        or not labels.size
        or not {labels.dtype.kind, predictions.dtype.kind} <= {*kinds}
    ):
        shapes = f"{labels.dtype} {labels.shape} and {predictions.dtype} {predictions.shape}"
        raise DamagedFile(f"{path}: damaged (arrays of {shapes})")
    if labels.ndim == 1 and min(labels.min(), predictions.min()) < 0:
        raise DamagedFile(f"{path}: damaged (a class below 0)")
    count, probabilities = len(labels), found.probabilities
    if (found.paths and len(found.paths) != count) or (probabilities is not None and len(probabilities) != count):
        raise DamagedFile(f"{path}: damaged (its arrays are of different lengths)")
