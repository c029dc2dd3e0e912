<<<<<<< HEAD
"""Training images per second, by memory layout and precision, and against timm's same network."""
=======
"""Training speed as ratios within one run: against a bare loop, and against the same network in timm."""
>>>>>>> h-english

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from transfer.errors import UserError

if TYPE_CHECKING:
    import torch


<<<<<<< HEAD
=======
def benchmark_module(
    backbone: str, image_size: int, batch_size: int, steps: int = 20, rounds: int = 5
) -> dict[str, Any]:
    """Return the seconds per step through Lightning relative to a bare loop with the same batches, model and optimizer.

    Both train in channels_last with the same loss, device and precision. They alternate, so that a drifting clock
    affects both.

    Args:
        backbone: name of the backbone.
        image_size: side of the images, in pixels.
        batch_size: images per step.
        steps: number of timed steps per round.
        rounds: number of alternating rounds.
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
            max_epochs=2,  # the clock keeps the second
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
        ready: Any = batches  # a list works as a dataset
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


>>>>>>> h-english
def benchmark_train(
    backbone: str, image_size: int, batch_size: int, steps: int = 20, rounds: int = 5
) -> dict[str, Any]:
    """Return images per second in float32 and bf16 autocast, contiguous and channels_last, relative to the first case.

    Args:
        backbone: name of the backbone.
        image_size: side of the images, in pixels.
        batch_size: images per step.
        steps: number of timed steps per round.
        rounds: number of alternating rounds.
    """
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
    """Return the training images per second of `build_classifier` and of the same network in timm, relative to timm's.

    Both use the same batch, optimizer, loss, drop rates, channels_last and precision (bf16 autocast on a GPU, else
    float32), and random weights. All contenders stay in memory while they alternate. On a GPU, `peak_memory_bytes` is
    a contender's peak allocation in its second step: parameters, buffers, gradients, momentum and activations, but not
    the batch.

    Args:
        backbone: name of the backbone.
        image_size: side of the images, in pixels.
        batch_size: images per step.
        steps: number of timed steps per round.
        rounds: number of alternating rounds.
        compile: whether to compare both with torch.compile, too.

    Raises:
        UserError: the backbone is unknown, or timm cannot be imported.
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
    """Return the module timm.

    Raises:
        UserError: it cannot be imported.
    """
    try:
        return import_module("timm")
    except Exception as error:  # a torchvision made for another torch raises RuntimeError
        raise UserError(
            f"timm cannot be imported ({error}); run: pip install timm. It needs the release of torchvision that"
            " matches the installed torch"
        ) from None


def timed(step: Callable[[Any], None], batches: Sequence[Any], device: Any) -> float:
    """Return the seconds per step, after three warm-up steps."""
    from transfer.costs.bare_steps import synchronize

    for batch in batches[:3]:
        step(batch)
    synchronize(device)
    started = time.perf_counter()
    for batch in batches:
        step(batch)
    synchronize(device)
    return (time.perf_counter() - started) / len(batches)
