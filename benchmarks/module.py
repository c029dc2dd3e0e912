"""Time of a training epoch through Lightning and TransferModule against a bare PyTorch loop with the same step."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from benchmarks.networks import timed
from benchmarks.ratios import ratio
from transfer.costs.bare_steps import placed, synchronize
from transfer.lightning import pl
from transfer.training.module import TransferModule
from transfer.training.trainer import quiet_lightning
from transfer.weights.build import build_classifier

Batches = list[tuple[torch.Tensor, torch.Tensor]]


class Clock(pl.Callback):
    """A callback that measures the seconds of the last training epoch."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        synchronize(self.device)
        self.seconds = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        synchronize(self.device)
        self.seconds = time.perf_counter() - self.seconds


def benchmark_module(
    backbone: str, image_size: int, batch_size: int, steps: int = 20, rounds: int = 5
) -> dict[str, Any]:
    """Return the seconds per step through Lightning relative to a bare loop.

    Both train the same model on the same batches with the same loss and optimizer, in channels_last, on the same device
    and in the same precision. They alternate, so that a drifting clock affects both.

    Args:
        backbone: name of the backbone.
        image_size: side of the images, in pixels.
        batch_size: images per step.
        steps: number of timed steps per round.
        rounds: number of alternating rounds.
    """
    quiet_lightning()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.randn(batch_size, 3, image_size, image_size).contiguous(memory_format=torch.channels_last)
    batches = [(images.to(device), torch.randint(10, (batch_size,), device=device))] * steps
    seconds: dict[str, list[float]] = {"bare": [], "module": []}
    for _ in range(rounds):
        seconds["bare"].append(time_bare(backbone, batches, device))
        seconds["module"].append(time_lightning(backbone, batches, device))
    return {
        "backbone": backbone,
        "image_size": image_size,
        "batch_size": batch_size,
        "bare_ms_per_step": round(1e3 * statistics.median(seconds["bare"]), 2),
        **ratio(seconds["module"], seconds["bare"], "module_over_bare", digits=4),
    }


def time_bare(backbone: str, batches: Batches, device: torch.device) -> float:
    """Return the seconds per step of a bare loop."""
    model = placed(build_classifier(backbone, 10), device, torch.channels_last).train()
    groups = [{"params": list(model.parameters()), "lr": 0.01, "weight_decay": 1e-5}]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True, fused=True)
    loss_function = torch.nn.CrossEntropyLoss()

    def step(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_function(model(batch[0]), batch[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return timed(step, batches, device)


def time_lightning(backbone: str, batches: Batches, device: torch.device) -> float:
    """Return the seconds per step of the second of two epochs through Lightning."""
    clock = Clock(device)
    classifier = placed(build_classifier(backbone, 10), device, torch.channels_last)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator=device.type,
        devices=1,
        precision="bf16-mixed" if device.type == "cuda" else "32-true",
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # A loader of ready batches; Lightning would treat a bare list as several loaders.
    ready: Any = batches  # a list works as a dataset
    loader = torch.utils.data.DataLoader(ready, batch_size=None)
    trainer.fit(TransferModule(classifier, lr=0.01, label_smoothing=0.0), train_dataloaders=loader)
    return clock.seconds / len(batches)
