"""Images whose label a trained network, or the out-of-fold predictions of a choice, doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from datamodules.dataset.split import Split
from datamodules.doctor.inspection import Inspection
from datamodules.images.transforms import build_eval_transform, normalize, output_bytes
from datamodules.loading.loaders import ImageDataset, ImageLoader
from datamodules.loading.resources import check_workers
from datamodules.loading.workers import default_num_workers, start_worker
from transfer.commands.choose import CHOICE, WINNER
from transfer.commands.choose.record import Choice
from transfer.commands.choose.report import OUT_OF_FOLD
from transfer.commands.suspect_files import SuspectRow, name_suspects
from transfer.errors import DamagedFile
from transfer.files import read_object
from transfer.images.decode import Pixels, decode_image
from transfer.images.depth import Decoding
from transfer.preprocessing import Preprocessing
from transfer.probe.label_suspects import rank_suspects
from transfer.progress import track
from transfer.records import checked

if TYPE_CHECKING:
    from transfer.runs.predictor import Run

_BATCH = 64
_KEPT = 50  # of each split
_WORTH_WORKERS = 1000  # images; starting processes for fewer takes longer than they save


def predict_split(
    classifier: nn.Module, split: Split, preprocessing: Preprocessing, multilabel: bool
) -> NDArray[np.float32]:
    """Return the probabilities of every image of a split, computed on the GPU if there is one.

    Args:
        classifier: in eval mode; returns logits.
        split: the images, all of them readable.
        preprocessing: what the classifier wants.
        multilabel: independent probabilities instead of ones that sum to one.

    Shape:
        (N, C)
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classifier = classifier.to(device)
    split = replace(split, decoding=Decoding.of(preprocessing, split.decoding.max_pixels))
    transform = build_eval_transform(preprocessing)
    num_workers = default_num_workers() if len(split) > _WORTH_WORKERS else 0
    images = ImageDataset(split, transform)
    check_workers(images, num_workers, _BATCH * output_bytes(transform))
    loader = ImageLoader(
        images,
        batch_size=_BATCH,
        num_workers=num_workers,
        worker_init_fn=start_worker,
    )
    parts = []
    for batch, _ in track(loader, f"predicting {split.name}"):
        with torch.inference_mode():
            logits = classifier(normalize(batch.to(device), preprocessing)).float()
            parts.append((logits.sigmoid() if multilabel else logits.softmax(1)).cpu())
    probabilities: NDArray[np.float32] = torch.cat(parts).numpy()
    return probabilities


class Suspects:
    """The images of each split whose label is doubtful, up to 50, the worst first; val and test before train.

    Attributes:
        rows: by split.
        fitted: splits whose labels the network has been fitted to.
        sources: split and position of all rows, one split after another.
    """

    def __init__(self) -> None:
        self.rows: dict[str, list[SuspectRow]] = {}
        self.fitted: list[str] = []
        self.sources: list[tuple[Split, int]] = []

    def add(self, name: str, split: Split, class_names: Sequence[str], probabilities: NDArray[np.float32]) -> None:
        """Add those of a split, by the probabilities of its images. Shape: (N, C)"""
        labels = split.labels.numpy()
        is_label = labels > 0 if labels.ndim == 2 else np.eye(len(class_names), dtype=bool)[labels]
        found = rank_suspects(probabilities, is_label)[:_KEPT]
        self.rows[name] = name_suspects(found, class_names, split.image_name)
        self.sources += [(split, one.image) for one in found]

    def pixels(self, row: int) -> Pixels:
        """Return the picture of a row of all."""
        split, position = self.sources[row]
        return decode_image(split.encoded(position), split.decoding)


@dataclass(frozen=True)
class Judge:
    """Whose predictions doubt labels.

    Attributes:
        run: its network is asked of images without out-of-fold probabilities.
        out_of_fold: probabilities (C,) by the name of the image; empty unless the run is the winner of a choice.
    """

    run: Run
    out_of_fold: Mapping[str, NDArray[np.float32]]


def load_judge(folder: Path, allow_user_code: bool) -> Judge:
    """Return who judges labels: the network of a finished run, or a choice's out-of-fold predictions and its winner.

    For `allow_user_code` see `load_run`.

    Raises:
        UserError: see `load_run`; or a file of the choice is damaged.
    """
    from transfer.runs.predictor import load_run

    if not (folder / CHOICE).is_file():
        return Judge(load_run(folder, allow_user_code=allow_user_code), {})
    return Judge(load_run(folder / WINNER, allow_user_code=allow_user_code), _read_out_of_fold(folder))


def _read_out_of_fold(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Return the probabilities of the most accurate network of a choice, without logit adjustment."""
    choice = checked(read_object(folder / CHOICE), Choice, folder / CHOICE)
    best = max(choice.candidates, key=lambda one: one.accuracy)
    try:
        with np.load(folder / OUT_OF_FOLD, allow_pickle=False) as arrays:
            key = f"{best.backbone}_{best.image_size}"
            if f"probability_{key}" in arrays:
                probabilities = arrays[f"probability_{key}"]
            else:  # of an earlier version
                probabilities = torch.from_numpy(arrays[f"logits_{key}"]).softmax(2).mean(0).numpy()
            return dict(zip(arrays["path"].tolist(), probabilities, strict=True))
    except (OSError, KeyError, ValueError) as error:
        raise DamagedFile(f"{folder / OUT_OF_FOLD}: not the predictions of a choice: {error}") from None


def find_suspects(judge: Judge, splits: Mapping[str, Split], inspection: Inspection) -> Suspects:
    """Return the readable images whose label is doubted.

    Args:
        judge: whose predictions doubt them.
        splits: the images and their labels.
        inspection: which of these images can be read.
    """
    suspects, run = Suspects(), judge.run
    for name in sorted(splits, key=("val", "test", "train").index):
        number = inspection.split_names.index(name)
        readable = splits[name].select(inspection.position[inspection.split == number])
        if not len(readable):
            continue
        names = readable.image_names() if judge.out_of_fold else []
        if names and judge.out_of_fold.keys() >= set(names):
            probabilities = np.stack([judge.out_of_fold[image] for image in names])
        else:
            probabilities = predict_split(run.classifier, readable, run.preprocessing, readable.labels.ndim == 2)
            if name == "train" or (name == "val" and judge.out_of_fold):  # a probe is fitted to val, too
                suspects.fitted.append(name)
        suspects.add(name, readable, run.class_names, probabilities)
    return suspects
