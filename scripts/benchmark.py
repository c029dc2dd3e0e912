"""Speed and memory as ratios within one run: python scripts/benchmark.py WHAT

module  a training epoch through Lightning and TransferModule against a bare PyTorch loop with the same step
train   training images per second, memory layout by memory layout and precision by precision
peer    training images per second, and the GPU's memory, against timm's implementation of the same network
memory  peak memory and seconds of a training step without and with gradient checkpointing
data    training-ready images per second on one core, without and with a cache, against a torchvision-style pipeline
recipe  accuracy of --recipe auto against the defaults: digits, and with --data_root 2,000 images of CIFAR-10 at 32 px
scaling what the compound rule gives against the released coefficients, and counts of the paper's Tables 3 and 7
probe   seconds of a linear probe's fits on cached features, against scikit-learn's lbfgs; see its own --help
memory_prediction  predicted memory of training steps and of inference against the measured; see its own --help
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from transfer.errors import UserError, exit_status

if TYPE_CHECKING:
    import torch


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and gives the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in (["probe"], ["memory_prediction"]):
        sys.path.append(str(Path(__file__).parents[1]))
        return import_module(f"scripts.benchmark_{argv[0]}").main(argv[1:], report)
    parser = argparse.ArgumentParser(
        prog="benchmark.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subjects: dict[str, Callable[..., dict[str, Any]]] = {
        "module": benchmark_module,
        "train": benchmark_train,
        "peer": benchmark_peer,
        "memory": benchmark_memory,
        "data": benchmark_data,
        "recipe": benchmark_recipe,
        "scaling": benchmark_scaling,
    }
    parser.add_argument("what", choices=subjects)
    parser.add_argument("--backbone", help="default: lite0")
    parser.add_argument("--image_size", type=int, help="pixels; default: 64, for data 224")
    parser.add_argument("--batch_size", type=int, help="images per step; default: 64")
    parser.add_argument("--steps", type=int, help="timed steps per round; default: 20, for memory 1")
    parser.add_argument("--rounds", type=int, help="alternating rounds; default: 5, for memory 2")
    parser.add_argument("--compile", action="store_true", default=None, help="peer: both under torch.compile too")
    parser.add_argument(
        "--data_root", type=Path, metavar="DIR", help="data: JPEGs in or below it; recipe: has uoft-cs/cifar10/"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    subject, path = arguments.pop("what"), arguments.pop("json", None)
    if "compile" in arguments and subject != "peer":
        parser.error("--compile: only peer compares compiled networks")
    if "data_root" in arguments and subject not in ("data", "recipe"):
        parser.error("--data_root: only data and recipe read images")
    if subject == "scaling":
        if arguments:
            parser.error(f"--{min(arguments)}: scaling has no options, it counts")
    elif subject == "data":
        if unused := arguments.keys() & {"backbone", "steps"}:
            parser.error(f"--{min(unused)}: data has no network; a round is one pass over the images")
    elif subject == "recipe":
        if unused := arguments.keys() - {"data_root"}:
            parser.error(f"--{min(unused)}: recipe trains lite0 with settings that are to be compared")
    else:
        arguments = {"backbone": "lite0", "image_size": 64, "batch_size": 64, **arguments}
    return exit_status(lambda: report(subjects[subject](**arguments), path))


def report(figures: dict[str, Any], path: Path | None) -> None:
    """Prints the figures with the hardware, and writes them to `path` if there is one."""
    from transfer.report import environment, write_figures

    for name, value in {**figures, "hardware": environment()["hardware"]}.items():
        print(f"{name}: {value}")
    write_figures(path, figures)


def benchmark_module(
    backbone: str, image_size: int, batch_size: int, steps: int = 20, rounds: int = 5
) -> dict[str, Any]:
    """Seconds per step through Lightning relative to a bare loop over the same batches, model, loss and optimizer.

    Both train in channels_last on the same device and precision; the two alternate, so that a drifting clock hits both.
    """
    import pytorch_lightning as pl
    import torch

    from transfer.batch_norm import BatchNormPolicy
    from transfer.classifier import build_classifier
    from transfer.module import TransferModule
    from transfer.report import quiet_lightning
    from transfer.steps import placed, synchronize

    quiet_lightning()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.randn(batch_size, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
    batches = [(images.to(device), torch.randint(10, (batch_size,), device=device))] * steps

    def classifier() -> torch.nn.Module:
        return placed(build_classifier(backbone, 10), device, torch.channels_last)

    def bare() -> float:
        model = classifier().train()
        groups = [{"params": list(model.parameters()), "lr": 0.01, "weight_decay": 1e-5}]
        optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True)
        loss_function = torch.nn.CrossEntropyLoss()

        def step(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = loss_function(model(batch[0]), batch[1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return timed(step, batches, device)

    class Clock(pl.Callback):
        seconds = 0.0

        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            synchronize(device)
            self.seconds = time.perf_counter()

        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            synchronize(device)
            self.seconds = time.perf_counter() - self.seconds

    def lightning() -> float:
        clock = Clock()
        module = TransferModule(classifier(), lr=0.01)  # type: ignore[arg-type]
        trainer = pl.Trainer(
            max_epochs=2,  # the second is the one that the clock keeps
            accelerator=device.type,
            devices=1,
            precision="bf16-mixed" if device.type == "cuda" else "32-true",
            callbacks=[BatchNormPolicy(), clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        # A loader of ready batches; Lightning would take a bare list for several loaders.
        trainer.fit(module, train_dataloaders=torch.utils.data.DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
        return clock.seconds / steps

    ratios, seconds = [], []
    for _ in range(rounds):
        plain, wrapped = bare(), lightning()
        ratios.append(wrapped / plain)
        seconds.append(plain)
    return {
        "backbone": backbone,
        "image_size": image_size,
        "batch_size": batch_size,
        "bare_ms_per_step": round(1e3 * statistics.median(seconds), 2),
        "module_over_bare": round(statistics.median(ratios), 4),
        "module_over_bare_range": [round(min(ratios), 4), round(max(ratios), 4)],
    }


def benchmark_train(
    backbone: str, image_size: int, batch_size: int, steps: int = 20, rounds: int = 5
) -> dict[str, Any]:
    """Training images per second in float32 and bf16 autocast, contiguous and channels_last, relative to the first."""
    import torch

    from transfer.classifier import build_classifier
    from transfer.memory_estimate import Precision
    from transfer.steps import training_step

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    targets = torch.randint(10, (batch_size,), device=device)
    precisions: dict[str, Precision] = {"float32": "32-true", "bf16": "bf16-mixed"}
    cases = {
        f"{name} {layout}": (precision, memory_format)
        for name, precision in precisions.items()
        for layout, memory_format in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last))
    }
    speeds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, (precision, memory_format) in cases.items():
            step = training_step(
                build_classifier(backbone, 10), device, memory_format=memory_format, precision=precision
            )
            images = torch.randn(batch_size, 3, image_size, image_size, device=device).to(memory_format=memory_format)
            speeds[name].append(batch_size / timed(step, [(images, targets)] * steps, device))
    figures: dict[str, Any] = {"backbone": backbone, "image_size": image_size, "batch_size": batch_size}
    first = statistics.median(speeds[next(iter(cases))])
    for name, values in speeds.items():
        figures[name] = {
            "images_per_second": round(statistics.median(values), 1),
            "ratio": round(statistics.median(values) / first, 3),
        }
    return figures


def benchmark_peer(
    backbone: str, image_size: int, batch_size: int, steps: int = 20, rounds: int = 5, compile: bool = False
) -> dict[str, Any]:
    """Training images per second of `build_classifier` and of timm's same network, relative to timm's.

    Same batch, optimizer, loss, drop rates, channels_last and precision (bf16 autocast on a GPU, else float32); random
    weights. All contenders stay built while they alternate. On a GPU, `peak_memory_bytes` is a contender's largest
    allocation in its second step: parameters, buffers, gradients, momentum and activations, not the batch.

    Args:
        compile: both under torch.compile too, as contenders of their own.

    Raises:
        UserError: unknown backbone, or timm cannot be imported.
    """
    import torch

    from transfer.backbones.names import get_variant
    from transfer.classifier import build_classifier
    from transfer.code_bases import timm_name
    from transfer.steps import random_batch, training_step

    variant = get_variant(backbone)
    timm = load_timm()
    drop_rates = {"drop_rate": variant.dropout_rate, "drop_path_rate": 0.2}
    peer = f"tf_{timm_name(variant.name)}"
    builders: dict[str, Callable[[], torch.nn.Module]] = {
        "own": lambda: build_classifier(variant.name, 10, stochastic_depth_prob=0.2),
        "timm": lambda: timm.create_model(peer, num_classes=10, **drop_rates),
    }
    names = ["own", "timm", *(["own compiled", "timm compiled"] if compile else [])]
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = random_batch(image_size, batch_size, device)
    contenders: dict[str, Callable[[Any], None]] = {}
    figures: dict[str, Any] = {"backbone": variant.name, "peer": peer, "timm_version": timm.__version__}
    figures |= {"image_size": image_size, "batch_size": batch_size}
    for name in names:
        allocated = torch.cuda.memory_allocated() if device.type == "cuda" else 0
        model = builders[name.split()[0]]()
        figures[name] = {"num_parameters": sum(p.numel() for p in model.parameters())}
        contenders[name] = training_step(model, device, compiled=name.endswith("compiled"))
        if device.type == "cuda":
            contenders[name](batch)
            torch.cuda.reset_peak_memory_stats()
            contenders[name](batch)
            figures[name]["peak_memory_bytes"] = torch.cuda.max_memory_allocated() - allocated

    speeds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, step in contenders.items():
            speeds[name].append(batch_size / timed(step, [batch] * steps, device))
    for name, values in speeds.items():
        ratios = [own / theirs for own, theirs in zip(values, speeds["timm"], strict=True)]
        figures[name] |= {
            "images_per_second": round(statistics.median(values), 1),
            "ratio": round(statistics.median(ratios), 3),
            "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        }
    return figures


def load_timm() -> ModuleType:
    """The module timm.

    Raises:
        UserError: it does not import.
    """
    try:
        return import_module("timm")
    except Exception as error:  # a torchvision made for another torch raises RuntimeError
        raise UserError(
            f"timm does not import ({error}); run: pip install timm. It needs torchvision, in the release that belongs"
            " to the installed torch"
        ) from None


def benchmark_memory(
    backbone: str, image_size: int, batch_size: int, steps: int = 1, rounds: int = 2
) -> dict[str, Any]:
    """Peak memory and seconds of a training step without and with gradient checkpointing, each in fresh processes.

    `peak_bytes` is the smallest of the processes' and `reduction_percent` compares these; see `memory_case` for what it
    counts. `static_bytes` is the part that checkpointing cannot change: parameters, buffers, gradients and momentum. A
    GPU's peak contains it, the growth on a CPU does not.

    Args:
        steps: timed, after the one whose memory counts.
        rounds: processes per case, alternating.
    """
    import torch

    from transfer.backbones.names import get_variant
    from transfer.peak_memory import PROCESS_STATUS

    variant = get_variant(backbone)
    if not torch.cuda.is_available() and not PROCESS_STATUS.is_file():
        raise UserError(f"memory: there is no GPU, and only Linux tells the memory of a process ({PROCESS_STATUS})")
    cases = {"plain": False, "grad_checkpointing": True}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, checkpointing in cases.items():
            arguments = (variant.name, image_size, batch_size, checkpointing, steps)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                runs[name].append(pool.apply(memory_case, arguments))
    figures: dict[str, Any] = {"backbone": variant.name, "image_size": image_size, "batch_size": batch_size}
    figures["threads"] = torch.get_num_threads()
    figures["counted"] = "allocated on the GPU" if torch.cuda.is_available() else "growth of the resident set"
    figures["static_bytes"] = runs["plain"][0]["static_bytes"]
    for name, results in runs.items():
        figures[name] = {
            "peak_bytes": min(result["peak_bytes"] for result in results),
            "peak_bytes_of_runs": [result["peak_bytes"] for result in results],
            "seconds_per_step": round(min(result["seconds_per_step"] for result in results), 4),
        }
    plain, less = figures["plain"], figures["grad_checkpointing"]
    figures["reduction_percent"] = round(100 * (1 - less["peak_bytes"] / plain["peak_bytes"]), 1)
    figures["time_ratio"] = round(less["seconds_per_step"] / plain["seconds_per_step"], 3)
    return figures


def memory_case(
    backbone: str, image_size: int, batch_size: int, grad_checkpointing: bool, steps: int
) -> dict[str, float]:
    """Measures one case of `benchmark_memory` in the process that calls it.

    A step of 2 images at 32 px comes first: it loads the libraries and allocates gradients and momentum. On a GPU,
    `peak_bytes` is the most that PyTorch had allocated during the next step, in bf16 autocast. On a CPU, it is how far
    the largest resident set of the process exceeds the one just before that step, in float32: activations, their
    gradients, the libraries' work space, and what malloc could not give out again. malloc returns large blocks to the
    kernel at once, so that these count while they are in use; small ones stay in its pools and count on.
    """
    import torch

    from transfer.classifier import build_classifier
    from transfer.peak_memory import resident_bytes
    from transfer.steps import random_batch, synchronize, training_step

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_classifier(backbone, 10, grad_checkpointing=grad_checkpointing)
    step = training_step(model, device)
    step(random_batch(32, 2, device))
    batch = random_batch(image_size, batch_size, device)
    trained = sum(p.nbytes for p in model.parameters())
    static = 3 * trained + sum(b.nbytes for b in model.buffers())

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = 0 if device.type == "cuda" else resident_bytes("VmRSS")
    step(batch)
    synchronize(device)
    after = torch.cuda.max_memory_allocated() if device.type == "cuda" else resident_bytes("VmHWM")

    started = time.perf_counter()
    for _ in range(steps):
        step(batch)
    synchronize(device)
    seconds = (time.perf_counter() - started) / steps
    return {"peak_bytes": after - before, "static_bytes": static, "seconds_per_step": seconds}


def benchmark_data(
    data_root: Path | None = None, image_size: int = 224, batch_size: int = 64, rounds: int = 7
) -> dict[str, Any]:
    """Training-ready images per second of one process with one thread, relative to a torchvision-style pipeline.

    All read the same JPEGs from files through a DataLoader: random resized crop, flip, normalised float32 batches. Ours
    is dataset `folder` as in training (`none`, and `disk` after the cache is built), normalised as on the device. The
    alternating rounds are passes over the images; the first of each contender is not counted.

    Raises:
        UserError: no JPEG in `data_root`.
    """
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        paths = jpeg_paths(data_root) if data_root is not None else make_jpegs(Path(folder, "made"), 240)
        root = Path(folder, "classes")
        for index, path in enumerate(paths):  # two classes, for there must be some
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
        ratios = [own / theirs for own, theirs in zip(values[1:], baseline, strict=True)]
        figures[name] = {
            "images_per_second": round(statistics.median(values[1:]), 1),
            "images_per_second_range": [round(min(values[1:]), 1), round(max(values[1:]), 1)],
            "ratio": round(statistics.median(ratios), 2),
            "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
        }
    return figures


def data_contenders(
    root: Path, image_size: int, batch_size: int, cache_dir: Path
) -> tuple[dict[str, Callable[[], int]], dict[str, Any]]:
    """One pass of each contender, which gives the images it prepared; and what there is to say of them."""
    import torch

    from datamodules import DataOptions, build_datamodule
    from datamodules.base import TransferDataModule

    def ours(cache: str) -> TransferDataModule:
        options: DataOptions = {"image_size": image_size, "batch_size": batch_size, "num_workers": 0}
        options |= {"data_root": root, "cache": cache, "cache_dir": cache_dir}
        data = build_datamodule("folder", **options)
        data.setup()
        return data

    modules = {"ours": ours("none"), "ours, --data.cache disk": ours("disk")}
    started = time.perf_counter()
    loaders = {name: data.train_dataloader() for name, data in modules.items()}
    seconds = time.perf_counter() - started
    data = modules["ours"]
    train = data.splits["train"]
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
        "resampling": f"torchvision style: bilinear; ours: {data.interpolation}, OpenCV",
        "cache_build_seconds": round(seconds, 2),
        "cache_megabytes": round(sum(path.stat().st_size for path in cache_dir.glob("*.images")) / 1e6, 1),
    }
    return passes, details


class TorchvisionStyle:
    """A dataset that does what torchvision's reference does, call by call, with Pillow and torch alone.

    pil_loader, RandomResizedCrop (bilinear), RandomHorizontalFlip, ToTensor, Normalize.
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
        """A part of 8 to 100% of the area, of aspect 3/4 to 4/3, anywhere."""
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


def benchmark_scaling() -> dict[str, Any]:
    """Where the compound rule departs from the released coefficients, and multiply-adds against the printed ones."""
    from transfer.published_scaling import departures, table_counts

    return {
        "departures": [asdict(row) for row in departures()],
        "table3": [asdict(row) for row in table_counts("table3")],
        "table7": [asdict(row) for row in table_counts("table7")],
    }


def jpeg_paths(folder: Path) -> list[Path]:
    """The JPEGs in a folder or below it.

    Raises:
        UserError: there are fewer than 20.
    """
    from datamodules.images import list_images

    paths = [path for path in list_images(folder) if path.suffix.lower() in (".jpg", ".jpeg")]
    if len(paths) < 20:
        raise UserError(f"--data_root {folder}: {len(paths)} JPEGs there; give 20 or more, or leave the option out")
    return paths


def make_jpegs(folder: Path, count: int) -> list[Path]:
    """Writes JPEGs of 500x375 and, one in four, 375x500 at quality 90: smooth colours at three scales, and noise."""
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
    """Of the JPEGs' widths and heights."""
    from PIL import Image

    sizes = []
    for path in paths:
        with Image.open(path) as image:
            sizes.append(image.size)
    return [round(statistics.median(sides)) for sides in zip(*sizes, strict=True)]


def benchmark_recipe(data_root: Path | None = None) -> dict[str, Any]:
    """Accuracy and seconds of training of lite0 with the defaults and with `--recipe auto`, also in the defaults' ten
    passes; seed 0.

    Args:
        data_root: has CIFAR-10 as the hub's files, of which 200 training and 200 test images of each class are taken;
            a tenth of the training images becomes val. Both runs on them are at 32 px, to take minutes.
    """
    import subprocess

    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        tasks: dict[str, list[str]] = {"digits": []}
        if data_root is not None:
            subset = save_cifar_subset(data_root, Path(folder) / "cifar10.parquet", per_class=200)
            tasks["cifar10_2000"] = ["--dataset", "folder", "--data_root", str(subset), "--image_size", "32"]
            tasks["cifar10_2000"] += ["--data.split_column", "split", "--data.min_crop_area", "0.64"]
        for task, words in tasks.items():
            figures[task] = {}
            auto = ["--recipe", "auto"]
            for name, choice in (("defaults", []), ("auto", auto), ("auto_10", [*auto, "--trainer.max_epochs", "10"])):
                run_dir = Path(folder) / f"{task}_{name}"
                command = [sys.executable, "scripts/finetune.py", *words, *choice, "--out_dir", str(run_dir)]
                if subprocess.run(command, check=False).returncode:
                    raise UserError(f"{' '.join(command)} failed")
                results = json.loads((run_dir / "results.json").read_text())
                figures[task][name] = {
                    "arguments": [*words, *choice],
                    **{key: results[key] for key in ("metrics", "splits", "seed", "config", "train_seconds")},
                }
    return figures


def save_cifar_subset(data_root: Path, path: Path, per_class: int) -> Path:
    """A table of the first images of each class and split of CIFAR-10, in the columns that `folder` reads."""
    import datasets

    parts = []
    for split in ("train", "test"):
        files = sorted(map(str, (data_root / "uoft-cs/cifar10/plain_text").glob(f"{split}-*.parquet")))
        if not files:
            raise UserError(f"{data_root} has no uoft-cs/cifar10/plain_text/{split}-*.parquet")
        table = datasets.Dataset.from_parquet(files, cache_dir=str(path.parent / "cache"))
        labels = table["label"][:]
        rows = [row for label in range(10) for row in [i for i, own in enumerate(labels) if own == label][:per_class]]
        part = table.select(rows).rename_column("img", "image")
        parts.append(part.add_column("split", [split] * len(part)))
    datasets.concatenate_datasets(parts).to_parquet(str(path))
    return path


def timed(step: Callable[[Any], None], batches: Sequence[Any], device: Any) -> float:
    """Seconds per step after three steps of warming up."""
    from transfer.steps import synchronize

    for batch in batches[:3]:
        step(batch)
    synchronize(device)
    started = time.perf_counter()
    for batch in batches:
        step(batch)
    synchronize(device)
    return (time.perf_counter() - started) / len(batches)


if __name__ == "__main__":
    sys.exit(main())
