"""The page about a choice, report.html: what is in its folder, read once; what cannot be read becomes a remark."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from transfer.commands.choose import CHOICE, WINNER
from transfer.commands.choose.record import Choice
from transfer.commands.choose.report import OUT_OF_FOLD
from transfer.commands.suspect_files import TABLE, SuspectRow
from transfer.errors import DamagedFile, UserError
from transfer.files import open_regular, read_object, read_rows
from transfer.records import checked
from transfer.report.answers import Answers
from transfer.report.layout import find_link
from transfer.report.photos import Photos, read_photos
from transfer.run_files import REPORT
from transfer.runs.results import Results, read_results
from transfer.runs.test_record import make_predictions

T = TypeVar("T")


@dataclass(frozen=True)
class ChoiceContent:
    """A choice as its page sees it.

    Attributes:
        folder: its folder.
        winner_page: address of the page about the winner's run; None without one.
        choice: what choose.json holds.
        answers: the out-of-fold answers of what was taken; of fine-tuning, on the folds that were tried.
        suspects: the photos that may be mislabelled, the likeliest first.
        photos: their pictures, by the position in `suspects`.
        winner: results of the winner's run.
        remarks: what could not be read, in words.
    """

    folder: Path
    choice: Choice
    winner_page: str | None = None
    answers: Answers | None = None
    suspects: list[SuspectRow] = field(default_factory=list)
    photos: Photos = field(default_factory=Photos)
    winner: Results | None = None
    remarks: list[str] = field(default_factory=list)


def read_choice_content(folder: Path, place: Path) -> ChoiceContent:
    """Return what the folder of a choice holds.

    Args:
        folder: the folder.
        place: the folder that the page goes into.

    Raises:
        UserError: its choose.json is missing or damaged.
    """
    choice = checked(read_object(folder / CHOICE), Choice, folder / CHOICE)
    named = [choice.chosen, *(index for one in choice.comparisons for index in (one.most_accurate, one.faster))]
    if not 0 <= min(named) <= max(named) < len(choice.candidates):
        raise DamagedFile(f"{folder / CHOICE}: damaged: candidates {named} of {len(choice.candidates)}")
    remarks: list[str] = []

    def found(read: Callable[[Path], T], path: Path, otherwise: T) -> T:
        try:
            return read(path) if path.exists() else otherwise
        except UserError as error:
            remarks.append(str(error))
            return otherwise

    return ChoiceContent(
        folder=folder,
        winner_page=find_link(folder / WINNER / REPORT, place),
        choice=choice,
        answers=found(lambda path: _read_answers(path, choice), folder / OUT_OF_FOLD, None),
        suspects=found(_read_suspects, folder / TABLE, []),
        photos=found(read_photos, folder, None) or Photos(),
        winner=found(read_results, folder / WINNER, None),
        remarks=remarks,
    )


def _read_answers(path: Path, choice: Choice) -> Answers:
    """Return what the network that was taken said of each image that it had not learned from.

    Raises:
        DamagedFile: the file does not hold it.
    """
    taken = choice.candidates[choice.chosen]
    key = f"{taken.backbone}_{taken.image_size}"
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as arrays:
            logits = arrays[f"lpft_{key}"][None] if choice.method == "lpft" else arrays[f"logits_{key}"]
            labels, paths, names = (arrays[name] for name in ("label", "path", "class_name"))
        if logits.ndim != 3 or logits.shape[1:] != (len(labels), len(names)) or len(paths) != len(labels):
            raise ValueError(f"arrays of different lengths: {logits.shape}, {labels.shape}, {names.shape}")
        probabilities: NDArray[np.float32] = softmax(logits.astype(np.float32), axis=2).mean(0)
        tried = np.isfinite(probabilities).all(1)
        saved = make_predictions(labels[tried], probabilities[tried], paths[tried].tolist(), names.tolist())
        answers = Answers("cross-validated", saved)
        assert answers.class_names  # looked up here, where an error becomes a remark
    except (OSError, KeyError, ValueError, TypeError, EOFError, IndexError, zipfile.BadZipFile, zlib.error) as error:
        raise DamagedFile(f"{path}: not the predictions of this choice: {error}") from None
    return answers


def _read_suspects(path: Path) -> list[SuspectRow]:
    """Return the rows of a suspects.csv.

    Raises:
        DamagedFile: it is none.
    """
    try:
        return [
            SuspectRow(
                image=row["image"],
                label=row["label"],
                label_probability=float(row["label_probability"]),
                suggested=row["suggested"],
                suggested_probability=float(row["suggested_probability"]),
            )
            for row in read_rows(path)
        ]
    except (KeyError, ValueError) as error:
        raise error if isinstance(error, UserError) else DamagedFile(f"{path}: damaged: {error}") from None
