"""Loaders made before a launch, in the hands of Lightning's Trainer and of Fabric, as two processes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric import Fabric

from datamodules import build_datamodule
from datamodules.datamodule import DataModule
from tests.support.data import PREPROCESSING
from tests.support.ranks import run_ranks


def digits() -> DataModule:
    return build_datamodule(
        "digits", preprocessing=PREPROCESSING, num_workers=0, batch_size=100, augment="none", cache="none"
    )


def keys(images: torch.Tensor) -> list[bytes]:
    """What tells one image from another."""
    return [image.numpy().tobytes() for image in images]


def read_shares(folder: Path) -> list[dict[str, list[bytes]]]:
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def whole(loader: Any) -> Counter[bytes]:
    return Counter(key for images, _ in loader for key in keys(images))


def assert_halves(shares: list[dict[str, list[bytes]]], epochs: int) -> None:
    """Val exactly once over the ranks; of train, every image at most once an epoch, and equally many."""
    data = digits()
    counts = [{name: Counter(seen) for name, seen in share.items()} for share in shares]
    assert counts[0]["val"] + counts[1]["val"] == whole(data.val_dataloader())
    # Of 1257 images, six whole batches for each rank.
    assert counts[0]["train"].total() == counts[1]["train"].total() == 600 * epochs
    every = Counter({key: epochs * count for key, count in whole(data.eval_dataloader("train")).items()})
    assert not counts[0]["train"] + counts[1]["train"] - every


def run_fabric(folder: Path) -> None:
    data = digits()
    loaders = data.train_dataloader(), data.val_dataloader()
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    train, val = fabric.setup_dataloaders(*loaders)
    assert (len(train), len(val)) == (6, 1)
    share = {"train": [key for images, _ in train for key in keys(images)]}
    share["val"] = [key for images, _ in val for key in keys(images)]
    again = [key for images, _ in train for key in keys(images)]
    assert again != share["train"]  # Fabric counts the epochs
    torch.save(share, folder / f"{fabric.global_rank}.pt")


def test_fabric_gives_each_rank_its_half(tmp_path: Path) -> None:
    run_ranks(run_fabric, tmp_path)
    assert_halves(read_shares(tmp_path), epochs=1)


class Recorder(pl.LightningModule):
    """Notes the images of each split."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 10)
        self.seen: dict[str, list[bytes]] = {"train": [], "val": [], "predict": []}

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.seen["train"] += keys(batch[0])
        return self.layer(batch[0].float().mean((1, 2))).sum()

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.seen["val"] += keys(batch[0])

    def predict_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.seen["predict"] += keys(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def run_lightning(folder: Path) -> None:
    data, module = digits(), Recorder()
    loaders = data.train_dataloader(), data.val_dataloader()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=2,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, *loaders)
    trainer.predict(module, data.val_dataloader())
    torch.save(module.seen, folder / f"{trainer.global_rank}.pt")


def test_a_trainer_with_two_ranks_gives_each_its_half(tmp_path: Path) -> None:
    run_ranks(run_lightning, tmp_path)
    shares = read_shares(tmp_path)
    assert_halves(shares, epochs=2)
    assert Counter(shares[0]["predict"] + shares[1]["predict"]) == whole(digits().val_dataloader())
