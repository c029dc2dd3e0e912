"""The formats of a bundle on photos: preprocessing, time and answers of each, and the reader's start.

python -m benchmarks formats: a probe is fitted to 40 training photos of each class; every format is written, and
measured on all validation photos, from the decoded image to the logits. The probe's last fit has seen these, too: the
accuracies are too high, and only tell formats apart. How close formats come to PyTorch is also measured on training
photos that neither the probe nor 8 bits have seen (`held_aside`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.photos import PER_CLASS, fit_probe
from benchmarks.ratios import ratio
from transfer.errors import UserError
from transfer.files import expanded

if TYPE_CHECKING:
    from transfer.bundle.formats import Model
    from transfer.images.decode import Pixels
    from transfer.runs.predictor import Run

SHAPES = {"photo": (533, 400), "12 megapixels, wide": (3000, 4000), "12 megapixels, tall": (4000, 3000)}
_CALIBRATION = 300
_HELD_ASIDE = 500


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `benchmark_formats`."""
    folder = "folder with train/CLASS/ and validation/CLASS/; default: ../shared/data/clothing"
    parser.add_argument("--photos", type=expanded, default=Path("../shared/data/clothing"), metavar="DIR", help=folder)
    parser.add_argument("--backbone", default="lite0", help="default: lite0")
    parser.add_argument("--image_size", type=int, default=224, metavar="PX", help="default: 224")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="default: 7")


def benchmark_formats(photos: Path, backbone: str, image_size: int, rounds: int) -> dict[str, Any]:
    """Return what each installed format takes and answers, and what the graph's preprocessing and the reader take.

    Args:
        photos: folder with `train` and `validation`, in folders of classes.
        backbone: name of the backbone.
        image_size: side of the network's input, in pixels.
        rounds: number of times that each time is taken.

    Raises:
        UserError: there are no photos.
    """
    from transfer.bundle.formats import FORMATS
    from transfer.runs.predictor import load_run

    if not (photos / "validation").is_dir():
        raise UserError(f"--photos {photos}: no folder validation")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        run = load_run(fit_probe(photos, scratch, ["--backbone", backbone, "--image_size", str(image_size)]))
        files = sorted(photos.glob("validation/*/*.jpg"))
        names = [row.name for row in FORMATS.values() if find_spec(row.package) is not None]
        figures: dict[str, Any] = {"backbone": backbone, "image_size": image_size, "validation_photos": len(files)}
        figures["formats"] = measure_formats(names, run, photos, scratch, files, rounds)
        figures["preprocessing"] = measure_preprocessing(run, rounds)
        figures["reader"] = measure_reader(run, scratch, files[0], rounds)
    return figures


def measure_formats(
    names: Sequence[str], run: Run, photos: Path, bundle: Path, files: Sequence[Path], rounds: int
) -> dict[str, Any]:
    """Return seconds to write, MB, milliseconds per image, accuracy, and how close each format comes to PyTorch.

    Args:
        names: of the formats.
        run: the run whose classifier they hold.
        photos: folder with `train`, whose photos 8 bits are calibrated on.
        bundle: where they are written.
        files: photos that are answered, in folders of their classes.
        rounds: number of times that each time is taken.
    """
    import torch

    from transfer.bundle.formats import FORMATS, open_format, write_format
    from transfer.images.decode import decode_image
    from transfer.images.prepare import normalized, prepare_pixels

    images = [decode_image(file, run.decoding) for file in files]
    targets = np.array([run.class_names.index(file.parent.name) for file in files])
    seen, aside = split_training_photos(photos)
    pixels = np.stack([prepare_pixels(decode_image(file, run.decoding), run.preprocessing) for file in seen])
    others = [decode_image(file, run.decoding) for file in aside]
    expected = []
    with torch.inference_mode():
        for image in images + others:
            prepared = prepare_pixels(image, run.preprocessing)[None]
            expected.append(run.classifier(torch.from_numpy(normalized(prepared, run.preprocessing))).numpy())
    logits, other_logits = np.concatenate(expected[: len(images)]), np.concatenate(expected[len(images) :])
    figures: dict[str, Any] = {"safetensors": {"top1": round(float((logits.argmax(1) == targets).mean()), 4)}}
    for name in names:
        started = time.perf_counter()
        write_format(name, run.classifier, run.preprocessing, bundle, multilabel=False, calibration_pixels=pixels)
        seconds = time.perf_counter() - started
        model = open_format(name, bundle, run.preprocessing, trusted=True)
        found = model(images).logits
        figures[name] = {
            "seconds_to_write": round(seconds, 1),
            "megabytes": round(sum((bundle / file).stat().st_size for file in FORMATS[name].files) / 1e6, 1),
            "ms_per_image": {size: milliseconds(model, images, size, rounds) for size in (1, 32)},
            "top1": round(float((found.argmax(1) == targets).mean()), 4),
            **agreement(found, logits),
            "held_aside": {"photos": len(others), **agreement(model(others).logits, other_logits)},
        }
    return figures


def split_training_photos(photos: Path) -> tuple[list[Path], list[Path]]:
    """Return the photos that 8 bits are calibrated on, of those the probe is fitted to, and others, from all over."""
    fitted: list[Path] = []
    others: list[Path] = []
    for folder in sorted(path for path in (photos / "train").iterdir() if path.is_dir()):
        files = sorted(folder.glob("*.jpg"))
        fitted += files[:PER_CLASS]
        others += files[PER_CLASS:]
    found = [
        [files[index] for index in np.linspace(0, len(files) - 1, min(most, len(files))).astype(int)]
        for files, most in ((fitted, _CALIBRATION), (others, _HELD_ASIDE))
    ]
    return found[0], found[1]


def agreement(found: NDArray[np.float32], expected: NDArray[np.float32]) -> dict[str, float]:
    """Return the share of equal classes, and the differences of logits: the largest, and root mean square."""
    difference = found - expected
    return {
        "same_top1": round(float((found.argmax(1) == expected.argmax(1)).mean()), 4),
        "relative_difference": float(f"{np.abs(difference).max() / np.abs(expected).max():.2g}"),
        "rms_difference": float(f"{np.sqrt((difference**2).mean()) / expected.std():.2g}"),
    }


def milliseconds(model: Model, images: Sequence[Pixels], size: int, rounds: int) -> float:
    """Return the time per image in a batch of this size; the median."""
    batch = images[:size]
    return round(statistics.median(times(lambda: model(batch), rounds)) * 1000 / len(batch), 2)


def measure_preprocessing(run: Run, rounds: int) -> dict[str, Any]:
    """Return milliseconds of the graph's preprocessing on one thread, of Pillow's way, and their ratio."""
    import onnxruntime as ort

    from transfer.bundle.onnx_preprocessing import preprocessing_model
    from transfer.images.prepare import prepare_pixels

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    model = preprocessing_model(run.preprocessing)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    figures: dict[str, Any] = {}
    for name, shape in SHAPES.items():
        image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        graph = times(partial(session.run, None, {"images": image[None]}), rounds)
        pillow = times(partial(prepare_pixels, image, run.preprocessing), rounds)
        medians = {"graph_ms": statistics.median(graph) * 1000, "pillow_ms": statistics.median(pillow) * 1000}
        figures[name] = {key: round(value, 1) for key, value in medians.items()} | ratio(graph, pillow, digits=2)
    return figures


def measure_reader(run: Run, bundle: Path, photo: Path, rounds: int) -> dict[str, Any]:
    """Return the seconds from the start of a bundle's predict.py to its end with one photo, and those of its imports.

    Args:
        run: the run; its `onnx` lies in the bundle's folder.
    """
    from transfer.bundle import reader

    content = {"class_names": run.class_names, "multilabel": False, "threshold": 0.5}
    content["preprocessing"] = asdict(run.preprocessing)
    (bundle / "model.json").write_text(json.dumps(content), encoding="utf-8")
    (bundle / "predict.py").write_bytes(Path(reader.__file__).read_bytes())

    def ran(*words: str) -> Callable[[], object]:
        command = [sys.executable, "-I", *words]
        own = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
        return lambda: subprocess.run(command, cwd=bundle, env=own, check=True, capture_output=True)

    whole = times(ran("predict.py", str(photo.resolve())), rounds)
    imports = times(ran("-c", "import numpy, onnxruntime; from PIL import Image, ImageOps"), rounds)
    return {
        "seconds": round(statistics.median(whole), 2),
        "seconds_range": [round(min(whole), 2), round(max(whole), 2)],
        "seconds_of_imports": round(statistics.median(imports), 2),
    }


def times(step: Callable[[], object], rounds: int) -> list[float]:
    """Return the seconds of each call, after one that warms up."""
    step()
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        step()
        taken.append(time.perf_counter() - started)
    return taken
