"""The speed of training steps in images per second, measured here or given, and the hours that follow from it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.environment import environment
from transfer.errors import DamagedFile, MissingData
from transfer.files import read_object, write_json
from transfer.records import checked

if TYPE_CHECKING:
    from transfer.costs.memory import Precision

SPEEDS = "speeds.json"
_CPU_PIXELS = 8 * 224**2  # of a measured step: enough to fill the cores, few enough to take seconds
# The column of python -m benchmarks train that a run computes in.
_CASES: dict[Precision, str] = {"bf16-mixed": "bf16 channels_last", "32-true": "float32 channels_last"}


@dataclass(frozen=True)
class Speed:
    """Training images per second of one device.

    Attributes:
        backbone: name of the backbone.
        image_size: side of the images in pixels.
        images_per_second: images that are trained on in a second.
        measured_on: the device, in words.
    """

    backbone: str
    image_size: int
    images_per_second: float
    measured_on: str


def read_benchmarks(paths: Sequence[Path], precision: Precision | None = None) -> list[Speed]:
    """Read the speeds in files of `python -m benchmarks train --json`.

    Args:
        paths: the files.
        precision: precision of the steps; None takes `automatic_precision`.

    Raises:
        MissingData: there is no such file.
        DamagedFile: it is another one.
    """
    speeds = []
    for path in paths:
        if not path.is_file():
            raise MissingData(f"`benchmarks`={path}: no such file")
        content = read_object(path)
        try:
            hardware = content["hardware"]
            chosen = precision or automatic_precision(bool(hardware["gpus"]), content["image_size"])
            case = content[_CASES[chosen]]
            found = {"backbone": content["backbone"], "image_size": content["image_size"]}
            found |= {"images_per_second": case["images_per_second"], "measured_on": describe_device(hardware)}
        except (KeyError, TypeError, IndexError):
            raise DamagedFile(f"`benchmarks`={path}: not a file of `python -m benchmarks train --json`") from None
        speeds.append(_checked(found, path))
    return speeds


def _checked(content: Any, path: Path) -> Speed:
    speed = checked(content, Speed, path)
    if not (0 < speed.images_per_second < math.inf):
        raise DamagedFile(f"{path}: damaged: {speed.images_per_second} images per second (expected: above 0)")
    return speed


def find_speed(
    folder: Path, given: Sequence[Speed], backbone: str, image_size: int, max_batch: int, on_cpu: bool
) -> Speed | None:
    """Return the speed of a backbone: given, measured on this hardware before, or measured now and kept in a folder.

    Args:
        folder: folder of the measured speeds.
        given: speeds that need not be measured.
        backbone: name of the backbone.
        image_size: side of the images in pixels.
        max_batch: images that fit on the device.
        on_cpu: whether GPUs are left alone.

    Returns:
        The speed, or None where not even two images fit.

    Raises:
        DamagedFile: the folder's speeds cannot be read.
        UserError: there is too little memory.
    """
    for speed in given:
        if (speed.backbone, speed.image_size) == (backbone, image_size):
            return speed
    path = folder / SPEEDS
    rows = read_object(path).get("speeds") if path.exists() else []
    if not isinstance(rows, list):
        raise DamagedFile(f'{path}: damaged (expected: {{"speeds": [...]}}); remove it to measure again')
    known = [_checked(row, path) for row in rows]
    hardware = environment()["hardware"]
    device = describe_device({**hardware, "gpus": [] if on_cpu else hardware["gpus"]})
    for speed in known:
        if (speed.backbone, speed.image_size, speed.measured_on) == (backbone, image_size, device):
            return speed
    if max_batch < 2:
        return None
    speed = Speed(backbone, image_size, measure(backbone, image_size, max_batch, on_cpu), device)
    write_json(path, {"speeds": [asdict(row) for row in (*known, speed)]})
    return speed


def describe_device(hardware: dict[str, Any]) -> str:
    """Return one device of the hardware in words: a GPU, or all CPU cores."""
    gpus = hardware["gpus"]
    return gpus[0] if gpus else f"{hardware['cores']} cores of {hardware['cpu'] or 'an unknown CPU'}"


def automatic_precision(on_gpu: bool, image_size: int) -> Precision:
    """Return what a run of precision `auto` trains in on this CPU, or on a GPU: this machine's, or else any other."""
    import torch

    from transfer.networks.bfloat16 import trains_faster_in_bf16

    elsewhere = on_gpu and not torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    return "bf16-mixed" if elsewhere or trains_faster_in_bf16(device, image_size) else "32-true"


def measure(backbone: str, image_size: int, max_batch: int, on_cpu: bool) -> float:
    """Measure the images per second of two training steps on noise in `automatic_precision`, after one to warm up.

    Args:
        backbone: name of the backbone.
        image_size: side of the images in pixels.
        max_batch: images that fit; up to 64 are taken, on a CPU as few as have the pixels of 8 of 224 px.
        on_cpu: whether GPUs are left alone.

    Raises:
        UserError: there is too little memory.
    """
    import torch

    from transfer.costs.bare_steps import enough_memory, random_batch, synchronize, training_step
    from transfer.weights.build import build_classifier

    device = torch.device("cuda" if torch.cuda.is_available() and not on_cpu else "cpu")
    batch_size = min(max_batch, 64, 64 if device.type == "cuda" else max(8, _CPU_PIXELS // image_size**2))
    precision = automatic_precision(device.type == "cuda", image_size)
    with enough_memory(batch_size, image_size):
        step = training_step(build_classifier(backbone, 10, load_weights=False), device, precision=precision)
        batch = random_batch(image_size, batch_size, device)
        step(batch)
        synchronize(device)
        steps, started = 2, time.perf_counter()
        for _ in range(steps):
            step(batch)
        synchronize(device)
    return round(steps * batch_size / (time.perf_counter() - started), 2)


def hours(num_images: float, speed: Speed | None) -> float:
    """Return the device-hours that so many training images take; not a number where the speed is unknown."""
    return num_images / speed.images_per_second / 3600 if speed else math.nan
