"""Features of photos, and draws of images whose features `efficientnet-transfer probe` or `choose` has in its cache.

Features of the last map are the first ones; those of the maps before it follow.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.draws import draw
from transfer.files import expanded

if TYPE_CHECKING:
    from datamodules.dataset.loaded import Dataset
    from transfer.probe.features import Features


def add_draw_options(parser: argparse.ArgumentParser, num_images: Sequence[int], draws: int) -> None:
    """Add the files of features, how many are of the last map, and the numbers of training images and of draws."""
    parser.add_argument("features", type=expanded, nargs="+", metavar="FEATURES", help="files of features")
    parser.add_argument("--last", type=int, default=1280, metavar="N", help="features of the last map; default: 1280")
    parser.add_argument("--num_images", type=int, nargs="+", default=num_images, metavar="N", help="of train")
    parser.add_argument("--draws", type=int, default=draws, metavar="N", help=f"default: {draws}")


def pool(files: Sequence[Path]) -> Features:
    """Return the images of several files, such as those of train and val, together."""
    from transfer.probe.features import read_features

    return _together([read_features(path) for path in files])


def _together(parts: Sequence[Features]) -> Features:
    import torch

    from transfer.probe.features import Features

    return Features(torch.cat([part.features for part in parts]), torch.cat([part.labels for part in parts]))


def draw_splits(images: Features, number: int, seed: int) -> list[Features]:
    """Return train, with `number` images, val and test, drawn as `benchmarks.draws.draw` does."""
    import torch

    from transfer.probe.features import Features

    splits = draw(np.array([str(label) for label in images.labels.tolist()]), number, seed)
    chosen = [torch.from_numpy(splits == name) for name in ("train", "val", "test")]
    return [Features(images.features[mask], images.labels[mask]) for mask in chosen]


def compute(argv: Sequence[str]) -> tuple[dict[str, list[Features]], Dataset, list[int], dict[str, Any]]:
    """Return what a probe's command line is about.

    Returns:
        The features of each split, once for each view; the dataset; how many of the features a head may see, fewest
        first; and which engine computed.
    """
    from datamodules import load_dataset
    from datamodules.datamodule import DataModule
    from transfer.commands.probe import build_network, choose_start, widths_of
    from transfer.commands.probe_features import extract
    from transfer.config.command_line import parse_probe_config
    from transfer.probe.fabric import build_fabric

    config, own = parse_probe_config(argv)
    config, start = choose_start(config)
    dataset = load_dataset(config.dataset, **config.read_options())
    fabric = build_fabric(config.trainer)
    data = DataModule(dataset, start.preprocessing, **config.loader_options())
    classifier = build_network(config, start, dataset, fabric)
    features, _, record = extract(config, own, data, classifier, fabric)
    assert record is not None
    return features, dataset, widths_of(classifier, own), asdict(record)


def compute_photos(
    data_root: Path, cache_dir: Path, backbone: str, image_size: int
) -> tuple[Features, Dataset, list[int]]:
    """Return the features of all photos of a folder, split after split, the photos, and how many a head may see."""
    options = ["--data_root", str(data_root), "--backbone", backbone, "--image_size", str(image_size)]
    options += ["--feature_dtype", "float32", "--data.cache_dir", str(cache_dir), "--trainer.accelerator", "cpu"]
    found, dataset, widths, _ = compute(["--dataset", "folder", *options])
    return _together([found[name][0] for name in dataset.splits]), dataset, widths
