"""Training-ready images per second on one core: python -m benchmarks data

Without and with a cache, against a pipeline like that of torchvision's reference, on the same JPEGs.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.ratios import ratio
from transfer.errors import UserError
from transfer.files import expanded

if TYPE_CHECKING:
    import torch


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_data`."""
    parser.add_argument(
        "--data_root", type=expanded, metavar="DIR", help="folder of JPEGs, at any depth; default: 240 synthetic ones"
    )
    parser.add_argument("--image_size", type=int, default=224, metavar="PX", help="default: 224")
    parser.add_argument("--batch_size", type=int, default=64, metavar="N", help="default: 64")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="passes over the images; default: 7")


def benchmark_data(data_root: Path | None, image_size: int, batch_size: int, rounds: int) -> dict[str, Any]:
    """Return the training-ready images per second of one thread, relative to a torchvision-style pipeline.

    All contenders read the same JPEGs from files through a DataLoader: random resized crop, flip, normalised float32
    batches. Ours is the dataset `folder` as in training (cache `none`, and `disk` after the cache is built), normalised
    as on the device. The contenders alternate; each round is a pass over the images, and the first is not counted.

    Args:
        data_root: folder of JPEGs; None for synthetic ones.
        image_size: side of the crops, in pixels.
        batch_size: images per batch.
        rounds: number of counted rounds.

    Raises:
        UserError: `data_root` has too few JPEGs.
    """
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        paths = jpeg_paths(data_root) if data_root is not None else make_jpegs(Path(folder, "made"), 240)
        root = Path(folder, "classes")
        for index, path in enumerate(paths):  # a dataset needs at least two classes
            link = root / f"class{index % 2}" / f"{index}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
        figures: dict[str, Any] = {
            "images": "given" if data_root is not None else "made up: smooth colours and noise, JPEG quality 90",
            "mean_file_kilobytes": round(sum(path.stat().st_size for path in paths) / len(paths) / 1e3, 1),
            "median_width_and_height": median_shape(paths),
            "image_size": image_size,
            "batch_size": batch_size,
        }
        passes, details = data_contenders(root, image_size, batch_size, Path(folder, "cache"))
        figures |= details
        speeds: dict[str, list[float]] = {name: [] for name in passes}
        for _ in range(rounds + 1):
            for name, run in passes.items():
                started = time.perf_counter()
                speeds[name].append(run() / (time.perf_counter() - started))
    baseline = speeds["torchvision style"][1:]
    for name, values in speeds.items():
        figures[name] = {
            "images_per_second": round(statistics.median(values[1:]), 1),
            "images_per_second_range": [round(min(values[1:]), 1), round(max(values[1:]), 1)],
            **ratio(values[1:], baseline, digits=2),
        }
    return figures


def data_contenders(
    root: Path, image_size: int, batch_size: int, cache_dir: Path
) -> tuple[dict[str, Callable[[], int]], dict[str, Any]]:
    """Return for each contender a function that runs one pass and returns the number of images; and its details."""
    import torch

    from datamodules import build_datamodule
    from datamodules.datamodule import DataModule
    from transfer.preprocessing import IMAGENET, Preprocessing

    preprocessing = Preprocessing(image_size, 0.875, "bicubic", *IMAGENET)

    def ours(cache: str) -> DataModule:
        options: Any = {"data_root": root, "batch_size": batch_size, "cache": cache, "cache_dir": cache_dir}
        data = build_datamodule("folder", preprocessing=preprocessing, num_workers=0, **options)
        data.setup()
        return data

    modules = {"ours": ours("none"), "ours, --data.cache disk": ours("disk")}
    started = time.perf_counter()
    loaders = {name: data.train_dataloader() for name, data in modules.items()}
    seconds = time.perf_counter() - started
    data = modules["ours"]
    train = data.dataset.splits["train"]
    files = [Path(str(train.encoded(index))) for index in range(len(train))]
    dataset: Any = TorchvisionStyle(files, image_size)
    theirs: Iterable[Any] = torch.utils.data.DataLoader(
        dataset, batch_size, shuffle=True, drop_last=len(files) >= batch_size
    )

    def consume(batches: Iterable[Any], normalize: Callable[[torch.Tensor], torch.Tensor]) -> int:
        count = 0
        for images, _ in batches:
            ready = normalize(images)
            assert ready.shape[1:] == (3, image_size, image_size) and ready.dtype == torch.float32
            count += len(ready)
        return count

    passes: dict[str, Callable[[], int]] = {"torchvision style": lambda: consume(theirs, lambda images: images)}
    for name, loader in loaders.items():
        passes[name] = partial(consume, loader, data.normalize)
    details = {
        "num_images": len(files),
        "resampling": f"torchvision style: bilinear; ours: {preprocessing.interpolation}, OpenCV",
        "cache_build_seconds": round(seconds, 2),
        "cache_megabytes": round(sum(path.stat().st_size for path in cache_dir.glob("*.images")) / 1e6, 1),
    }
    return passes, details


class TorchvisionStyle:
    """A dataset that repeats torchvision's reference call by call, with Pillow and torch only.

    The calls are pil_loader, RandomResizedCrop (bilinear), RandomHorizontalFlip, ToTensor and Normalize.
    """

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, paths: Sequence[Path], image_size: int) -> None:
        self.paths = paths
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        import numpy as np
        import torch
        from PIL import Image

        with self.paths[index].open("rb") as file:
            image = Image.open(file).convert("RGB")
        box = self.crop_box(*image.size)
        image = image.crop(box).resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)
        if torch.rand(1) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image, np.uint8, copy=True)).permute(2, 0, 1).contiguous()
        tensor = pixels.to(torch.float32).div(255).clone()
        mean, std = (torch.as_tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (self.mean, self.std))
        return tensor.sub_(mean).div_(std), 0

    @staticmethod
    def crop_box(width: int, height: int) -> tuple[int, int, int, int]:
        """Return a random box with 8 to 100% of the area and an aspect ratio of 3/4 to 4/3."""
        import torch

        log_ratio: Any = torch.log(torch.tensor((3 / 4, 4 / 3)))
        for _ in range(10):
            area = width * height * torch.empty(1).uniform_(0.08, 1).item()
            aspect = torch.exp(torch.empty(1).uniform_(log_ratio[0], log_ratio[1])).item()
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                top = int(torch.randint(0, height - h + 1, size=(1,)).item())
                left = int(torch.randint(0, width - w + 1, size=(1,)).item())
                return left, top, left + w, top + h
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return left, top, left + side, top + side


def jpeg_paths(folder: Path) -> list[Path]:
    """Return the paths of the JPEGs in a folder, at any depth.

    Raises:
        UserError: there are fewer than 20.
    """
    from transfer.images.listing import list_images

    paths = [path for path in list_images(folder) if path.suffix.lower() in (".jpg", ".jpeg")]
    if len(paths) < 20:
        raise UserError(f"--data_root {folder}: {len(paths)} JPEGs there; it needs 20 or more, or leave the option out")
    return paths


def make_jpegs(folder: Path, count: int) -> list[Path]:
    """Write synthetic JPEGs and return their paths.

    They show smooth colours at three scales and noise, at quality 90; three in four are 500x375, the others 375x500.
    """
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        width, height = (375, 500) if index % 4 == 3 else (500, 375)
        pixels = rng.normal(128, 10, (height, width, 1)).repeat(3, axis=2)
        for cells, amplitude in ((4, 60), (16, 30), (64, 18)):
            coarse = np.clip(rng.normal(128, amplitude, (cells, cells, 3)), 0, 255).astype(np.uint8)
            pixels += np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)) - 128.0
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        image.save(folder / f"{index}.jpg", quality=90)
    return [folder / f"{index}.jpg" for index in range(count)]


def median_shape(paths: Sequence[Path]) -> list[int]:
    """Return the median width and the median height of the JPEGs, in pixels."""
    from PIL import Image

    sizes = []
    for path in paths:
        with Image.open(path) as image:
            sizes.append(image.size)
    return [round(statistics.median(sides)) for sides in zip(*sizes, strict=True)]
