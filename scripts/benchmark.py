"""Speed as ratios within one run: python scripts/benchmark.py module|train

module  a training epoch through Lightning and TransferModule against a bare PyTorch loop with the same step
train   training images per second, memory layout by memory layout and precision by precision
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transfer.errors import exit_status


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="benchmark.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("module", "train"))
    parser.add_argument("--backbone", default="lite0")
    parser.add_argument("--image_size", type=int, default=64, help="pixels")
    parser.add_argument("--batch_size", type=int, default=64, help="images per step")
    parser.add_argument("--steps", type=int, default=20, help="timed steps per round")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds, of which the median ratio is quoted")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = vars(parser.parse_args(argv))
    what = {"module": benchmark_module, "train": benchmark_train}[arguments.pop("what")]
    path = arguments.pop("json")
    return exit_status(lambda: report(what(**arguments), path))


def report(figures: dict[str, Any], path: Path | None) -> None:
    """Prints the figures with the hardware, and writes them to `path` if there is one."""
    from transfer.report import environment, write_json

    for name, value in figures.items():
        print(f"{name}: {value}")
    hardware = environment()["hardware"]
    print(f"hardware: {hardware}")
    if path is not None:
        write_json(path, {"command": sys.argv, **figures, **environment()})


def benchmark_module(backbone: str, image_size: int, batch_size: int, steps: int, rounds: int) -> dict[str, Any]:
    """Seconds per step through Lightning relative to a bare loop over the same batches, model, loss and optimizer.

    Both train in channels_last on the same device and precision; the two alternate, so that a drifting clock hits both.
    """
    import pytorch_lightning as pl
    import torch

    from transfer.batch_norm import BatchNormPolicy
    from transfer.classifier import build_classifier
    from transfer.module import TransferModule
    from transfer.report import quiet_lightning

    quiet_lightning()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.randn(batch_size, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
    batches = [(images.to(device), torch.randint(10, (batch_size,), device=device))] * steps

    def classifier() -> torch.nn.Module:
        return build_classifier(backbone, 10).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

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


def benchmark_train(backbone: str, image_size: int, batch_size: int, steps: int, rounds: int) -> dict[str, Any]:
    """Training images per second in float32 and bf16 autocast, contiguous and channels_last, relative to the first."""
    import torch

    from transfer.classifier import build_classifier

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    targets = torch.randint(10, (batch_size,), device=device)
    cases = {
        f"{precision} {layout}": (bf16, memory_format)
        for precision, bf16 in (("float32", False), ("bf16", True))
        for layout, memory_format in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last))
    }
    speeds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, (bf16, memory_format) in cases.items():
            model = build_classifier(backbone, 10).to(device, memory_format=memory_format).train()  # type: ignore[call-overload]
            images = torch.randn(batch_size, 3, image_size, image_size, device=device).to(memory_format=memory_format)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

            def step(
                batch: torch.Tensor,
                model: torch.nn.Module = model,
                optimizer: torch.optim.Optimizer = optimizer,
                bf16: bool = bf16,
            ) -> None:
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    loss = torch.nn.functional.cross_entropy(model(batch), targets)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()

            speeds[name].append(batch_size / timed(step, [images] * steps, device))
    figures: dict[str, Any] = {"backbone": backbone, "image_size": image_size, "batch_size": batch_size}
    first = statistics.median(speeds[next(iter(cases))])
    for name, values in speeds.items():
        figures[name] = {
            "images_per_second": round(statistics.median(values), 1),
            "ratio": round(statistics.median(values) / first, 3),
        }
    return figures


def timed(step: Callable[[Any], None], batches: Sequence[Any], device: Any) -> float:
    """Seconds per step after three steps of warming up."""
    for batch in batches[:3]:
        step(batch)
    synchronize(device)
    started = time.perf_counter()
    for batch in batches:
        step(batch)
    synchronize(device)
    return (time.perf_counter() - started) / len(batches)


def synchronize(device: Any) -> None:
    """Waits for the device to finish what was given to it."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    sys.exit(main())
