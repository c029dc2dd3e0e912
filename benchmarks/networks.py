"""Speed and memory as ratios within one run: python scripts/benchmark.py WHAT

module  a training epoch through Lightning and TransferModule against a bare PyTorch loop with the same step
train   training images per second, memory layout by memory layout and precision by precision
peer    training images per second, and the GPU's memory, against timm's implementation of the same network
memory  peak memory and seconds of a training step without and with gradient checkpointing
scaling what the compound rule gives against the released coefficients, and counts of the paper's Tables 3 and 7

Each of these has its own --help:

data    training-ready images per second on one core, without and with a cache, against a torchvision-style pipeline
cores   training on cores that others use too, with our and with OpenMP's own way of waiting
recipe  accuracy of --recipe auto against the defaults
probe   seconds of a linear probe's fits on cached features, against scikit-learn's lbfgs
memory_prediction  predicted memory of training steps and of inference against the measured
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from transfer.commands.console import exit_status
from transfer.errors import UserError

if TYPE_CHECKING:
    import torch

# Subjects with options of their own, each in scripts/benchmark_<name>.py.
OWN_COMMAND_LINE = ("data", "cores", "recipe", "probe", "memory_prediction")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and gives the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in OWN_COMMAND_LINE:
        return run_own(argv[0], argv[1:])
    parser = argparse.ArgumentParser(
        prog="benchmark.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subjects: dict[str, Callable[..., dict[str, Any]]] = {
        "module": benchmark_module,
        "train": benchmark_train,
        "peer": benchmark_peer,
        "memory": benchmark_memory,
        "scaling": benchmark_scaling,
    }
    parser.add_argument("what", choices=(*subjects, *OWN_COMMAND_LINE))
    parser.add_argument("--backbone", help="default: lite0")
    parser.add_argument("--image_size", type=int, help="pixels; default: 64")
    parser.add_argument("--batch_size", type=int, help="images per step; default: 64")
    parser.add_argument("--steps", type=int, help="timed steps per round; default: 20, for memory 1")
    parser.add_argument("--rounds", type=int, help="alternating rounds; default: 5, for memory 2")
    parser.add_argument("--compile", action="store_true", default=None, help="peer: both under torch.compile too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    subject, path = arguments.pop("what"), arguments.pop("json", None)
    if subject in OWN_COMMAND_LINE:
        parser.error(f"{subject}: give its options after it; benchmark.py {subject} --help lists them")
    if "compile" in arguments and subject != "peer":
        parser.error("--compile: only peer compares compiled networks")
    if subject == "scaling":
        if arguments:
            parser.error(f"--{min(arguments)}: scaling has no options, it counts")
    else:
        arguments = {"backbone": "lite0", "image_size": 64, "batch_size": 64, **arguments}
    return exit_status(lambda: report(subjects[subject](**arguments), path))


def run_own(subject: str, argv: Sequence[str]) -> int:
    """Runs the command line of a subject that has its own, and gives the exit status."""
    module = import_module(f"benchmarks.{subject}")
    parser = argparse.ArgumentParser(
        prog=f"benchmark.py {subject}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_options(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = vars(parser.parse_args(argv))
    path = arguments.pop("json")
    return exit_status(lambda: report(getattr(module, f"benchmark_{subject}")(**arguments), path))


def report(figures: dict[str, Any], path: Path | None) -> None:
    """Prints the figures with the hardware, and writes them to `path` if there is one."""
    from transfer.environment import environment, write_figures

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

    from transfer.costs.bare_steps import placed, synchronize
    from transfer.networks.classifier import Classifier
    from transfer.training.batch_norm import BatchNormPolicy
    from transfer.training.module import TransferModule
    from transfer.training.trainer import quiet_lightning
    from transfer.weights.build import build_classifier

    quiet_lightning()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.randn(batch_size, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
    batches = [(images.to(device), torch.randint(10, (batch_size,), device=device))] * steps

    def classifier() -> Classifier:
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
        module = TransferModule(classifier(), lr=0.01)
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
        ready: Any = batches  # a list is dataset enough
        trainer.fit(module, train_dataloaders=torch.utils.data.DataLoader(ready, batch_size=None))
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

    from transfer.costs.bare_steps import training_step
    from transfer.costs.memory import Precision
    from transfer.weights.build import build_classifier

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

    from transfer.costs.bare_steps import random_batch, training_step
    from transfer.networks.registry import get_variant
    from transfer.weights.build import build_classifier
    from transfer.weights.code_bases import timm_name

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

    from transfer.costs.peak_memory import PROCESS_STATUS
    from transfer.networks.registry import get_variant

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

    from transfer.costs.bare_steps import random_batch, synchronize, training_step
    from transfer.costs.peak_memory import resident_bytes
    from transfer.weights.build import build_classifier

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


def benchmark_scaling() -> dict[str, Any]:
    """Where the compound rule departs from the released coefficients, and multiply-adds against the printed ones."""
    from transfer.costs.published import departures, table_counts

    return {
        "departures": [asdict(row) for row in departures()],
        "table3": [asdict(row) for row in table_counts("table3")],
        "table7": [asdict(row) for row in table_counts("table7")],
    }


def timed(step: Callable[[Any], None], batches: Sequence[Any], device: Any) -> float:
    """Seconds per step after three steps of warming up."""
    from transfer.costs.bare_steps import synchronize

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
