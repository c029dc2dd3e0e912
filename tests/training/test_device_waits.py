"""A training step never waits for the device: shown on a pretended GPU, with every callback of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from datamodules.build import build_datamodule
from tests.support.data import PREPROCESSING
from tests.support.pretend_gpu import DEVICE, DeviceTensor, PretendGPU, pretend_gpu
from transfer.config.schema import DataConfig, FinetuneConfig, TrainerConfig
from transfer.lightning import pl
from transfer.networks.classifier import Classifier
from transfer.training.callbacks import EpochLog
from transfer.training.module import TransferModule
from transfer.training.trainer import build_callbacks, quiet_lightning

STEPS, LOGGED_EVERY = 3, 2
LIGHTNINGS_LOG = ("lr_monitor.py", "fabric/utilities/apply_func.py")


class WaitsPerStep(pl.Callback):
    """Notes what waited in each training step, from the fetch of its batch to the last callback."""

    def __init__(self, found: list[str]) -> None:
        self.found = found
        self.steps: list[list[str]] = []
        self.was_on_device: list[bool] = []
        self._known = 0

    def on_train_epoch_start(self, *_: Any) -> None:
        self._known = len(self.found)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx:
            self._note()
        parameter = next(pl_module.parameters())
        self.was_on_device.append(all(isinstance(each, DeviceTensor) for each in (*batch, parameter)))

    def on_validation_start(self, *_: Any) -> None:  # right after the epoch's last step
        self._note()

    def _note(self) -> None:
        self.steps.append(self.found[self._known :])
        self._known = len(self.found)


class NoFiles(TorchCheckpointIO):
    """A checkpoint's tensors are read at the end of an epoch, not in a step."""

    def save_checkpoint(self, *_: Any, **__: Any) -> None:
        """Write nothing."""


def images(multilabel: bool) -> datasets.DatasetDict:
    """Return three batches of two images to train on, and one to validate."""
    rng = np.random.default_rng(0)
    splits = {}
    for split, size in (("train", 2 * STEPS), ("validation", 2)):
        pixels = [np.full((32, 32, 3), value, np.uint8) for value in rng.integers(0, 256, size)]
        labels = [[i % 3, (i + 1) % 3] if multilabel else i % 3 for i in range(size)]
        feature = datasets.ClassLabel(names=["a", "b", "c"])
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.Sequence(feature) if multilabel else feature}
        )
        splits[split] = datasets.Dataset.from_dict({"image": pixels, "label": labels}, features=features)
    return datasets.DatasetDict(splits)


@pytest.mark.parametrize(
    ("wait", "operator"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: bool(x.isfinite().all()), "_local_scalar_dense"),
        (lambda x: x.tolist(), "_to_copy"),
        (lambda x: x.cpu(), "_to_copy"),
        (lambda x: torch.ones(3).copy_(x), "copy_"),
        (lambda x: x + torch.tensor([1.0, 2.0, 3.0], device=x.device), "_to_copy"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x[x > 1], "index"),
        (lambda x: x[torch.tensor([2, 0])], "index"),
        (lambda x: x.unique(), "unique"),
    ],
)
def test_the_pretended_gpu_notes_what_waits(wait: Callable[[Tensor], Any], operator: str) -> None:
    with pretend_gpu() as found:
        numbers = torch.arange(3.0).to(DEVICE, non_blocking=True)
        assert found == []
        wait(numbers)
    assert found and operator in found[0] and f"{__file__}:" in found[0]


def test_the_pretended_gpu_computes_without_a_wait() -> None:
    with pretend_gpu() as found:
        numbers = torch.arange(3.0).to(DEVICE, non_blocking=True).requires_grad_()
        order = torch.tensor([2, 0]).to(DEVICE, non_blocking=True)
        loss = (numbers[order] * 2.0).square().sum()
        loss.backward()
        assert found == [] and loss.device == DEVICE
        assert loss.item() == 16.0 and numbers.grad is not None and numbers.grad.tolist() == [0.0, 0.0, 16.0]


@pytest.mark.parametrize(
    ("config", "options", "trainer_options"),
    [
        ({"ema_half_life": 0.2, "early_stopping": 5}, {"mixup_alpha": 0.4, "label_smoothing": 0.1}, {}),
        (
            {},
            {"optimizer": "adamw", "cutmix_alpha": 1.0, "bn": "frozen", "loss": "bce", "multilabel": True},
            {"gradient_clip_val": 1.0, "accumulate_grad_batches": 2},
        ),
        (
            {"freeze": "until-epoch 1"},
            {"optimizer": "rmsprop", "sam_rho": 0.05, "bn": "recompute"},
            {"gradient_clip_val": 0.1},
        ),
    ],
    ids=["averaged", "accumulated", "sharpness"],
)
def test_no_step_waits(
    config: dict[str, Any],
    options: dict[str, Any],
    trainer_options: dict[str, Any],
    tiny_classifier: Classifier,
    tmp_path: Path,
) -> None:
    quiet_lightning()
    multilabel = options.get("multilabel", False)
    fields = FinetuneConfig(**config, data=DataConfig(batch_size=2), trainer=TrainerConfig(enable_progress_bar=True))
    log = EpochLog(tmp_path / "metrics.csv", "f1" if multilabel else "top1")
    data = build_datamodule(
        images(multilabel), preprocessing=PREPROCESSING, batch_size=2, num_workers=0, multilabel=multilabel
    )
    with pretend_gpu() as found:
        waits = WaitsPerStep(found)
        trainer = pl.Trainer(
            max_epochs=2,
            strategy=pl.strategies.SingleDeviceStrategy(device=DEVICE, accelerator=PretendGPU()),
            callbacks=[waits, *build_callbacks(fields, tmp_path, log), pl.callbacks.LearningRateMonitor("step")],
            logger=pl.loggers.CSVLogger(tmp_path),
            plugins=[NoFiles()],
            num_sanity_val_steps=0,
            log_every_n_steps=LOGGED_EVERY,
            use_distributed_sampler=False,
            enable_model_summary=False,
            **trainer_options,
        )
        trainer.fit(TransferModule(tiny_classifier, warmup_epochs=0, **options), data)
    assert waits.was_on_device == [True] * 2 * STEPS
    assert len(waits.steps) == 2 * STEPS
    steps = waits.steps[:-1]  # in the last one BatchNormCheck reads two accuracies
    # Every `log_every_n_steps` updates Lightning reads what it logs.
    assert [wait for step in steps for wait in step if not any(file in wait for file in LIGHTNINGS_LOG)] == []
    assert sum(map(bool, steps)) == (trainer.global_step - 1) // LOGGED_EVERY
