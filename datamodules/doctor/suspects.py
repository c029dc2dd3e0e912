"""Images whose label a trained network doubts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from datamodules.dataset.split import Split
from datamodules.doctor.inspection import Inspection
from datamodules.images.transforms import build_eval_transform, normalize, output_bytes
from datamodules.loading.loaders import ImageDataset, ImageLoader
from datamodules.loading.resources import check_workers
from datamodules.loading.workers import default_num_workers, start_worker
from transfer.images.depth import Decoding
from transfer.preprocessing import Preprocessing

_BATCH = 64
_KEPT = 50  # of each split
_WORTH_WORKERS = 1000  # images; starting processes for fewer takes longer than they save


def rank_suspects(probabilities: NDArray[np.float32], is_label: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """Return images with a doubtful label: (image, least probable label, most probable other class), worst first.

    A class's usual probability is the mean over the images that have its label. An image is doubtful if another class
    reaches its usual probability there and exceeds the label's: the rule of confident learning (Northcutt et al. 2021),
    which needs no threshold and bears networks that are never sure. Ranked by the difference of the two.

    Shape:
        probabilities: (N, C); is_label: (N, C), one or several True per row.
    """
    usual = (probabilities * is_label).sum(0) / np.maximum(is_label.sum(0), 1)
    usual[~is_label.any(0)] = np.inf  # nothing is known of a class without images
    others = np.where(is_label | (probabilities < usual), -np.inf, probabilities)
    labelled = np.where(is_label, probabilities, np.inf)
    other, doubted = others.argmax(1), labelled.argmin(1)
    rows = np.arange(len(probabilities))
    doubt = others[rows, other] - labelled[rows, doubted]
    order = np.argsort(-doubt, kind="stable")
    return [(int(i), int(doubted[i]), int(other[i])) for i in order if doubt[i] > 0]


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
    for batch, _ in tqdm(loader, desc=f"predicting {split.name}", delay=1, leave=False):
        with torch.inference_mode():
            logits = classifier(normalize(batch.to(device), preprocessing)).float()
            parts.append((logits.sigmoid() if multilabel else logits.softmax(1)).cpu())
    probabilities: NDArray[np.float32] = torch.cat(parts).numpy()
    return probabilities


def find_suspects(
    classifier: nn.Module,
    preprocessing: Preprocessing,
    class_names: Sequence[str],
    splits: Mapping[str, Split],
    inspection: Inspection,
) -> dict[str, list[dict[str, Any]]]:
    """Return up to 50 images of each split whose label a network doubts, the worst first.

    Args:
        classifier: a trained network, which returns logits.
        preprocessing: how its images are prepared.
        class_names: the names of its classes, in the order of the logits.
        splits: the images and their labels.
        inspection: which of these images can be read.

    Returns:
        The suspects by split, val and test before train; each with `image`, `label`, `label_probability`, `suggested`
        and `suggested_probability`.
    """
    suspects = {}
    for name in sorted(splits, key=("val", "test", "train").index):
        number = inspection.split_names.index(name)
        readable = splits[name].select(inspection.position[inspection.split == number])
        if not len(readable):
            continue
        multilabel = readable.labels.ndim == 2
        probabilities = predict_split(classifier, readable, preprocessing, multilabel)
        labels = readable.labels.numpy()
        is_label = labels > 0 if multilabel else np.eye(len(class_names), dtype=bool)[labels]
        suspects[name] = [
            {
                "image": readable.image_name(image),
                "label": class_names[doubted],
                "label_probability": round(float(probabilities[image, doubted]), 4),
                "suggested": class_names[other],
                "suggested_probability": round(float(probabilities[image, other]), 4),
            }
            for image, doubted, other in rank_suspects(probabilities, is_label)[:_KEPT]
        ]
    return suspects
