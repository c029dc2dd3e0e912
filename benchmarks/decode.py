"""What an image costs before the network sees it in evaluation, on one core: python -m benchmarks decode

Decoding against Pillow's, all steps from the file on against those with the whole picture resized, one loading thread
against one loading process, on the same JPEGs; and decoding's share of an extraction of features.
"""

from __future__ import annotations

import argparse
import gc
import io
import resource
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.data import jpeg_paths, make_jpegs, median_shape
from benchmarks.ratios import ratio
from transfer.files import expanded

_BATCH = 32


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_decode`."""
    parser.add_argument(
        "--data_root", type=expanded, metavar="DIR", help="folder of JPEGs, at any depth; default: 240 synthetic ones"
    )
    parser.add_argument("--max_images", type=int, default=240, metavar="N", help="images spread over it; default: 240")
    parser.add_argument("--image_size", type=int, default=224, metavar="PX", help="default: 224")
    parser.add_argument("--backbone", default="lite0", metavar="NAME", help="of the extraction; default: lite0")
    parser.add_argument(
        "--engines", nargs="+", default=("torch",), metavar="NAME", help="of the extraction; default: torch"
    )
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="passes over the images; default: 7")


def benchmark_decode(
    data_root: Path | None, max_images: int, image_size: int, backbone: str, engines: Sequence[str], rounds: int
) -> dict[str, Any]:
    """Return processor milliseconds per image of each step, as medians of alternating rounds, and their ratios.

    The first round is not counted. Of loading, the kernel's time and the page faults are counted in all processes.

    Args:
        data_root: folder of JPEGs; None for synthetic ones.
        max_images: number of images, spread over the folder.
        image_size: side of the network's input, in pixels.
        backbone: the network that the features are of, with random weights.
        engines: what computes the features; decoding's share is stated for each.
        rounds: number of counted rounds.

    Raises:
        UserError: `data_root` has too few JPEGs, or an engine is not installed.
    """
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        paths = jpeg_paths(data_root) if data_root is not None else make_jpegs(Path(folder, "made"), max_images)
        paths = paths[:: 1 + (len(paths) - 1) // max_images]
        figures: dict[str, Any] = {
            "images": "given" if data_root is not None else "made up: smooth colours and noise, JPEG quality 90",
            "num_images": len(paths),
            "mean_file_kilobytes": round(sum(path.stat().st_size for path in paths) / len(paths) / 1e3, 1),
            "median_width_and_height": median_shape(paths),
            "image_size": image_size,
        }
        passes = {**steps(paths, image_size), **loaders(paths, image_size)}
        passes |= {f"features, {name}": features(name, backbone, image_size, len(paths)) for name in engines}
        measured: dict[str, list[dict[str, float]]] = {name: [] for name in passes}
        for _ in range(rounds + 1):
            for name, run in passes.items():
                measured[name].append(cost(run, len(paths)))
    costs = {name: values[1:] for name, values in measured.items()}
    for name, values in costs.items():
        figures[name] = {key: round(statistics.median(value[key] for value in values), 3) for key in values[0]}
    for name, (ours, other) in {
        "decoding against Pillow": ("decode_image", "Pillow's decoding"),
        "from the file against resizing the whole": ("file to input", "file to input, resized whole"),
        "a thread against a process": ("loader, 1 thread", "loader, 1 process"),
    }.items():
        figures[name] = time_ratio(costs[ours], costs[other])
    for name in engines:
        whole = [
            {"milliseconds": own["milliseconds"] + net["milliseconds"]}
            for own, net in zip(costs["file to input"], costs[f"features, {name}"], strict=True)
        ]
        figures[f"share of decoding in an extraction, {name}"] = time_ratio(costs["file to input"], whole)
    return figures


def steps(paths: Sequence[Path], image_size: int) -> dict[str, Callable[[], object]]:
    """Return functions that take all images some steps: decoding only, or from the file to the network's input."""
    import numpy as np
    import simplejpeg
    from PIL import Image

    from datamodules.images.transforms import prepare
    from datamodules.loading.predicting import PredictDataset
    from transfer.images.decode import decode_image
    from transfer.images.depth import DEFAULT_DECODING
    from transfer.images.prepare import build_crop
    from transfer.preprocessing import IMAGENET, Preprocessing

    transform = eval_transform(image_size)
    resize = build_crop(Preprocessing(image_size, 0.875, "bicubic", *IMAGENET)).resize
    encoded = [path.read_bytes() for path in paths]
    dataset = PredictDataset(list(paths), transform, DEFAULT_DECODING)

    def cut_whole(pixels: Any) -> Any:
        height, width = resize.shape(*pixels.shape[:2])
        left, top = (round((side - image_size) / 2) for side in (width, height))
        return resize.whole(pixels)[top : top + image_size, left : left + image_size]

    def decode_by_pillow(content: bytes) -> Any:
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))

    def all_of(function: Callable[[Any], object], inputs: Sequence[Any]) -> Callable[[], object]:
        return lambda: deque(map(function, inputs), maxlen=0)

    for content in encoded:
        assert np.array_equal(prepare(transform, decode_image(content)), cut_whole(decode_image(content)))
    return {
        "Pillow's decoding": all_of(
            lambda content: np.asarray(Image.open(io.BytesIO(content)).convert("RGB")), encoded
        ),
        "simplejpeg": all_of(simplejpeg.decode_jpeg, encoded),
        "decode_image": all_of(decode_image, encoded),
        "file to input": all_of(dataset.__getitem__, range(len(paths))),
        "file to input, resized whole": all_of(lambda path: cut_whole(decode_image(path)), paths),
    }


def loaders(paths: Sequence[Path], image_size: int) -> dict[str, Callable[[], object]]:
    """Return functions that read all images in batches by one worker."""
    from datamodules.loading.predicting import PredictDataset, collate
    from datamodules.loading.resources import ExplainingLoader
    from datamodules.loading.workers import start_worker
    from transfer.images.depth import DEFAULT_DECODING

    class InProcesses(PredictDataset):
        is_thread_safe = False

    def read(kind: type[PredictDataset]) -> None:
        dataset: Any = kind(list(paths), eval_transform(image_size), DEFAULT_DECODING)
        loader = ExplainingLoader(dataset, _BATCH, num_workers=1, collate_fn=collate, worker_init_fn=start_worker)
        assert sum(len(images) for images, _, _ in loader) == len(paths)

    return {"loader, 1 thread": lambda: read(PredictDataset), "loader, 1 process": lambda: read(InProcesses)}


def features(engine: str, backbone: str, image_size: int, num_images: int) -> Callable[[], object]:
    """Return a function that normalises as many images and computes their pooled features."""
    import torch
    from torch import nn

    from datamodules.images.transforms import normalize
    from transfer.inference.engines import build_engine
    from transfer.preprocessing import IMAGENET, Preprocessing
    from transfer.weights.build import build_classifier

    network = build_classifier(backbone, 1, pretrained=False).eval()
    pooled = nn.Sequential(network.backbone, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    preprocessing = Preprocessing(image_size, 0.875, "bicubic", *IMAGENET)
    images = torch.randint(256, (_BATCH, image_size, image_size, 3), dtype=torch.uint8)
    compute = build_engine(engine, pooled, normalize(images, preprocessing))

    def run() -> None:
        for first in range(0, num_images, _BATCH):
            compute(normalize(images[: num_images - first], preprocessing))

    return run


def eval_transform(image_size: int) -> Any:
    """Return the transform that evaluates ImageNet's weights."""
    from datamodules.images.transforms import build_eval_transform
    from transfer.preprocessing import IMAGENET, Preprocessing

    return build_eval_transform(Preprocessing(image_size, 0.875, "bicubic", *IMAGENET))


def cost(run: Callable[[], object], num_images: int) -> dict[str, float]:
    """Return what a pass takes per image: processor milliseconds, the kernel's part of them, page faults."""

    def usage() -> list[float]:
        both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        system = sum(one.ru_stime for one in both)
        return [sum(one.ru_utime for one in both) + system, system, sum(one.ru_minflt for one in both)]

    before, started = usage(), time.perf_counter()
    run()
    gc.collect()  # a loader's processes are counted when they have ended
    seconds = time.perf_counter() - started
    total, system, faults = ((after - start) / num_images for after, start in zip(usage(), before, strict=True))
    return {
        "milliseconds": 1e3 * total,
        "of them in the kernel": 1e3 * system,
        "page_faults": faults,
        "milliseconds by the clock": 1e3 * seconds / num_images,
    }


def time_ratio(ours: list[dict[str, float]], other: list[dict[str, float]]) -> dict[str, Any]:
    """Return the ratio of the processor time in the rounds."""
    return ratio((cost["milliseconds"] for cost in ours), (cost["milliseconds"] for cost in other))
