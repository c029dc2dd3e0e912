"""Whether class maps find a photo that was pasted somewhere into noise: python -m benchmarks class_maps --data_root DIR

A photo's middle square, 30% to 50% as wide as the image, is pasted at a random place into soft coloured noise. A linear
head is fitted to the frozen features of such images; what the map of the true class says of others is compared with
where the photo is: whether its maximum lies on it, the share of its positive values that do, and the intersection over
union with what is above 20% of the maximum. CAM of the last features, of 64 px a map of 2 x 2 cells, stands against
HiResCAM of each stage's end, of which `explain` takes the last with 7 x 7 cells.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from transfer.errors import MissingData
from transfer.files import expanded

if TYPE_CHECKING:
    from torch import Tensor

    from transfer.networks.classifier import Classifier

Box = tuple[float, float, float, float]  # left, top, right, bottom as shares of the image
CLASSES, TRAIN, TEST = 6, 480, 120
_PENALTY = 1.0
_SIDE = 128  # pixels of a stretched map
_BATCH = 40


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_class_maps`."""
    parser.add_argument("--data_root", type=expanded, required=True, metavar="DIR", help="a folder of photos per class")
    parser.add_argument("--backbone", default="lite0", help="default: lite0")
    parser.add_argument("--image_size", type=int, default=64, help="pixels; default: 64")


def benchmark_class_maps(data_root: Path, backbone: str = "lite0", image_size: int = 64) -> dict[str, Any]:
    """Return how well the maps of 120 images localise, for CAM and for HiResCAM of each stage.

    Args:
        data_root: a folder for each class, of which the first six are taken.
        backbone: a backbone with weights.
        image_size: side of the images, in pixels.
    """
    import torch

    from datamodules.images.transforms import normalize
    from transfer.networks.heads import LinearHead
    from transfer.runs.class_maps import class_activation_map, find_stage, hi_res_cam
    from transfer.weights.build import build_classifier

    rng = np.random.default_rng(0)
    classifier = build_classifier(backbone, CLASSES, pretrained=True).eval()
    assert classifier.preprocessing is not None
    halves = [divide(folder, rng) for folder in class_folders(data_root)]
    made = [
        make_images([half[part] for half in halves], count, image_size, rng) for part, count in ((0, TRAIN), (1, TEST))
    ]
    (train, train_labels, _), (pixels, labels, boxes) = made
    images = normalize(torch.from_numpy(pixels), classifier.preprocessing)
    fit_head(classifier, normalize(torch.from_numpy(train), classifier.preprocessing), train_labels)
    with torch.no_grad():
        features = torch.cat([classifier.forward_features(batch) for batch in torch.split(images, _BATCH)])
        logits = classifier.forward_head(features)
    assert isinstance(classifier.head, LinearHead)
    weight = classifier.head.fc.weight.detach()[torch.from_numpy(labels)]
    maps = {"CAM of the last features": class_activation_map(features, weight)}
    for row in classifier.feature_info:
        stage = classifier.backbone.get_submodule(row["module"])
        parts = [
            hi_res_cam(classifier, image[None], stage, int(label)).maps
            for image, label in zip(images, labels, strict=True)
        ]
        maps[f"HiResCAM at stride {row['reduction']}"] = torch.cat(parts)
    taken = find_stage(classifier, image_size)
    strides = {classifier.backbone.get_submodule(row["module"]): row["reduction"] for row in classifier.feature_info}
    return {
        "backbone": backbone,
        "image_size": image_size,
        "images": TEST,
        "accuracy": float(np.mean(logits.argmax(1).numpy() == labels)),
        "area_of_the_photo": float(np.mean([(right - left) * (bottom - top) for left, top, right, bottom in boxes])),
        "taken": "the last features" if taken is None else f"HiResCAM at stride {strides[taken]}",
        "maps": {name: score(found.numpy(), boxes) | {"cells": found.shape[-1]} for name, found in maps.items()},
    }


def class_folders(data_root: Path) -> list[Path]:
    """Return the first folders of classes, by name.

    Raises:
        MissingData: there are too few.
    """
    found = sorted(path for path in data_root.iterdir() if path.is_dir())[:CLASSES] if data_root.is_dir() else []
    if len(found) < CLASSES:
        raise MissingData(f"`data_root`={data_root}: {len(found)} folders of classes, {CLASSES} are needed")
    return found


def divide(folder: Path, rng: np.random.Generator) -> tuple[list[Path], list[Path]]:
    """Return the photos of a class in two random halves."""
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    order = [paths[index] for index in rng.permutation(len(paths))]
    return order[: len(order) // 2], order[len(order) // 2 :]


def make_images(
    photos: Sequence[Sequence[Path]], count: int, size: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[Box]]:
    """Return images of photos in noise, their classes in turn, and where the photos are.

    Args:
        photos: of each class.
        count: number of images.
        size: their side, in pixels.
        rng: draws photos, places and noise.

    Shape:
        (count, size, size, 3), (count,)
    """
    from PIL import Image

    pixels, boxes, large = [], [], 4 * size
    for number in range(count):
        of_class = photos[number % len(photos)]
        noise = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
        image = noise.resize((large, large), Image.Resampling.BICUBIC)
        side = int(large * rng.uniform(0.3, 0.5))
        left, top = (int(place) for place in rng.integers(0, large - side + 1, 2))
        with Image.open(of_class[int(rng.integers(len(of_class)))]) as photo:
            edge = min(photo.size)
            x, y = (photo.width - edge) // 2, (photo.height - edge) // 2
            square = photo.convert("RGB").crop((x, y, x + edge, y + edge))
        image.paste(square.resize((side, side), Image.Resampling.BICUBIC), (left, top))
        pixels.append(np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)))
        boxes.append((left / large, top / large, (left + side) / large, (top + side) / large))
    return np.stack(pixels), np.arange(count) % len(photos), boxes


def fit_head(classifier: Classifier, images: Tensor, labels: NDArray[np.int64]) -> None:
    """Fit the linear head to the frozen features of images."""
    import torch

    from transfer.networks.heads import LinearHead
    from transfer.probe.logistic import LogisticRegression
    from transfer.probe.penalties import towards

    assert isinstance(classifier.head, LinearHead)
    with torch.no_grad():
        parts = [
            classifier.forward_head(classifier.forward_features(batch), pre_logits=True)
            for batch in torch.split(images, _BATCH)
        ]
        *_, fit = LogisticRegression(torch.cat(parts), torch.from_numpy(labels), CLASSES).path(towards(_PENALTY))
        classifier.head.fc.weight.copy_(fit.weight)
        classifier.head.fc.bias.copy_(fit.bias)


def score(maps: NDArray[np.float32], boxes: Sequence[Box]) -> dict[str, float]:
    """Return the means over images of three measures, see the module's docstring; a map without evidence gets 0.

    Args:
        maps: class maps. Shape: (N, h, w)
        boxes: where each photo is.
    """
    from transfer.runs.overlay import stretch

    centres = (np.arange(_SIDE) + 0.5) / _SIDE
    rows: list[tuple[float, float, float]] = []
    for class_map, (left, top, right, bottom) in zip(maps, boxes, strict=True):
        inside = ((centres >= top) & (centres < bottom))[:, None] & ((centres >= left) & (centres < right))[None]
        evidence = stretch(class_map.clip(min=0), centres, centres)
        if evidence.max() <= 0:
            rows.append((0.0, 0.0, 0.0))
            continue
        above = evidence > 0.2 * evidence.max()
        union = float((above & inside).sum() / (above | inside).sum())
        share = float(evidence[inside].sum() / evidence.sum())
        rows.append((float(inside.flat[evidence.argmax()]), share, union))
    names = ("maximum_on_photo", "evidence_on_photo", "intersection_over_union")
    return {name: float(np.mean(values)) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
