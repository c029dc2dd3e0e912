"""Two processes: what they measure, what an incomplete step follows, and what a stop leaves of an epoch's loss."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from tests.support.ranks import run_ranks
from tests.training.test_accumulation import Norms
from transfer import build_classifier
from transfer.training.module import TransferModule


class Given(nn.Module):
    """A classifier whose images are its logits already."""

    num_classes = 5

    def forward(self, images: Tensor) -> Tensor:
        return images


class Share:
    """The batches of one rank: every second image, from the rank on; it leaves out `skip` batches of its next epoch."""

    def __init__(self, images: Tensor, targets: Tensor, batch_size: int, same: bool = False) -> None:
        self.images, self.targets, self.batch_size, self.same = images, targets, batch_size, same
        self.skip = 0

    def __len__(self) -> int:
        return len(list(self.batches()))

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        ranks = (0, 1) if self.same or not torch.distributed.is_initialized() else (torch.distributed.get_rank(), 2)
        rows = slice(*ranks[:1], None, ranks[1])
        yield from zip(self.images[rows].split(self.batch_size), self.targets[rows].split(self.batch_size), strict=True)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        skip, self.skip = self.skip, 0
        yield from list(self.batches())[skip:]


def answers() -> Share:
    generator = torch.Generator().manual_seed(0)
    return Share(3.0 * torch.randn(101, 5, generator=generator), torch.arange(101) % 5, 7)


def pictures(same: bool = False) -> Share:
    """Forty images of three classes, divided among the ranks, or five equal batches that both get."""
    images = torch.randn(4 if same else 40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(len(images)) % 3
    return Share(images.repeat(5, 1, 1, 1), targets.repeat(5), 4, True) if same else Share(images, targets, 4)


def trainer(devices: int, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    strategy = "ddp" if devices > 1 else "auto"
    return pl.Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, callbacks=list(callbacks), enable_checkpointing=False,
        max_epochs=1, **quiet, **options,
    )  # fmt: skip


def network(**options: float) -> TransferModule:
    torch.manual_seed(0)
    return TransferModule(build_classifier("b0@d=0.3,w=0.25", 3, pretrained=False, **options), schedule="constant")


def measure(devices: int) -> dict[str, float]:
    (found,) = trainer(devices).test(TransferModule(Given()), answers(), verbose=False)  # type: ignore[arg-type]
    return dict(found)


class Stop(pl.Callback):
    """Saves the run after its third batch and ends it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *arguments: Any) -> None:
        if trainer.global_step == 3:
            trainer.save_checkpoint(self.path)
            raise InterruptedError


def compute(folder: Path) -> None:
    found: dict[str, Any] = {"test": measure(2)}
    whole = trainer(2)
    whole.fit(network(), pictures())
    found["whole"] = whole.callback_metrics["train/loss"].item()
    with pytest.raises(InterruptedError):
        trainer(2, Stop(folder / "last.ckpt")).fit(network(), pictures())
    resumed, rest = trainer(2), pictures()
    rest.skip = 3
    resumed.fit(network(), rest, ckpt_path=folder / "last.ckpt", weights_only=True)
    found["resumed"] = resumed.callback_metrics["train/loss"].item()
    norms, module = Norms(), network(dropout=0.0, stochastic_depth_prob=0.0)
    module.lr = 1e-9
    trainer(2, norms, accumulate_grad_batches=3).fit(module, pictures(same=True))
    found["norms"] = norms.values
    if torch.distributed.get_rank() == 0:
        (folder / "found.json").write_text(json.dumps(found))


@pytest.mark.slow
def test_two_ranks_measure_step_and_resume_as_one_run(tmp_path: Path) -> None:
    run_ranks(compute, tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["test"] == measure(1)
    assert found["resumed"] == found["whole"]
    assert len(found["norms"]) == 2 and found["norms"][1] == pytest.approx(found["norms"][0], rel=1e-3)
