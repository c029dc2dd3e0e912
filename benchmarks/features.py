"""Draws of images whose features `efficientnet-transfer probe` or `choose` has left in its cache."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.draws import draw
from transfer.files import expanded

if TYPE_CHECKING:
    from transfer.probe.features import Features


def add_draw_options(parser: argparse.ArgumentParser, num_images: Sequence[int], draws: int) -> None:
    """Add the files of features, and the numbers of training images and of draws with their defaults."""
    parser.add_argument("features", type=expanded, nargs="+", metavar="FEATURES", help="files of features")
    parser.add_argument("--num_images", type=int, nargs="+", default=num_images, metavar="N", help="of train")
    parser.add_argument("--draws", type=int, default=draws, metavar="N", help=f"default: {draws}")


def pool(files: Sequence[Path]) -> Features:
    """Return the images of several files, such as those of train and val, together."""
    import torch

    from transfer.probe.features import Features, read_features

    parts = [read_features(path) for path in files]
    return Features(torch.cat([part.features for part in parts]), torch.cat([part.labels for part in parts]))


def draw_splits(images: Features, number: int, seed: int) -> list[Features]:
    """Return train, with `number` images, val and test, drawn as `benchmarks.draws.draw` does."""
    import torch

    from transfer.probe.features import Features

    splits = draw(np.array([str(label) for label in images.labels.tolist()]), number, seed)
    chosen = [torch.from_numpy(splits == name) for name in ("train", "val", "test")]
    return [Features(images.features[mask], images.labels[mask]) for mask in chosen]
