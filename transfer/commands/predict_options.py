"""How `predict` predicts, and what it needs of a run or a bundle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from transfer.calibration.calibration import Calibration
from transfer.calibration.guarantees import Guarantees
from transfer.errors import BadValue, check_count
from transfer.images.decode import BadImage
from transfer.images.depth import Decoding
from transfer.predictions import Prediction


@dataclass(frozen=True)
class Options:
    """How images are predicted.

    Attributes:
        top_k: classes per image, 1 to the number of classes, most probable first; None: the most probable one, or every
            label that a multi-label run gives.
        batch_size: images per step, at least 1.
        num_workers: threads that decode, or beside a GPU processes; None: one less than the usable cores, at most 8.
        checkpoint: `best` or `last`.
        engine: what computes the network; see `choose_engine`.
        allow_user_code: see `load_run`.
        guarantees: by which rule a class is `unknown`, and whether a column `set` holds a set of classes.
    """

    top_k: int | None = None
    batch_size: int = 64
    num_workers: int | None = None
    checkpoint: str = "best"
    engine: str = "auto"
    allow_user_code: bool = False
    guarantees: Guarantees = Guarantees()  # noqa: RUF009  # frozen

    def check(self) -> None:
        """Check, before anything is read, what does not depend on the network.

        Raises:
            BadValue: a number is out of range.
        """
        check_count("batch_size", self.batch_size)
        if self.num_workers is not None and self.num_workers < 0:
            raise BadValue(f"`num_workers`={self.num_workers} (allowed: at least 0)")

    def check_classes(self, class_names: Sequence[str]) -> None:
        """Check that there are as many classes as are asked for.

        Raises:
            BadValue: there are not.
        """
        if self.top_k is not None and not 1 <= self.top_k <= len(class_names):
            raise BadValue(f"`top_k`={self.top_k} (allowed: 1 to {len(class_names)}, the number of classes)")


@dataclass(frozen=True)
class Batch:
    """What became of some of the files.

    Attributes:
        names: the files that could be read.
        predictions: theirs.
        unreadable: the others.
    """

    names: Sequence[str]
    predictions: Sequence[Prediction]
    unreadable: Sequence[BadImage]


class Predictor(Protocol):
    """A run or a bundle, opened with options."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several labels."""

    @property
    def separator(self) -> str:
        """What stands between the labels of an image in CSV."""

    @property
    def decoding(self) -> Decoding:
        """How image files are read."""

    @property
    def temperature(self) -> float:
        """What logits are divided by before they become probabilities."""

    def calibrated(self) -> Calibration:
        """Return what val says about the answers.

        Raises:
            MissingData: nothing; the text says why.
        """

    def predict(self, paths: Sequence[Path]) -> Iterator[Batch]:
        """Yield predictions of image files in batches, in order."""

    def engine(self) -> str:
        """Return a line on what has computed the network; empty for float32 PyTorch."""
