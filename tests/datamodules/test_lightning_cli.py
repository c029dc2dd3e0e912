"""LightningCLI on data of a user's own class, and on `build_datamodule` itself: options from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from torch import Tensor

from datamodules import build_datamodule, get_sheet
from datamodules.datamodule import DataModule
from datamodules.dataset.sheet import ReadOptions, Source
from transfer.preprocessing import Preprocessing


class Photos(DataModule):
    def __init__(self, preprocessing: Preprocessing, read: ReadOptions, batch_size: int = 4) -> None:
        super().__init__(Source(get_sheet("folder"), read), preprocessing, batch_size=batch_size, num_workers=0)


class Model(pl.LightningModule):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, num_classes)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.layer(images.mean((2, 3))), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class CLI(LightningCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")


PREPARED = [f"--data.preprocessing.{option}" for option in ("image_size=32", "crop_ratio=0.875")]
PREPARED += [f"--data.preprocessing.{name}=[0.5,0.5,0.5]" for name in ("mean", "std")]
PREPARED += ["--data.preprocessing.interpolation=bicubic"]
QUIET = [f"--trainer.{name}=false" for name in ("logger", "enable_checkpointing", "enable_progress_bar")]
QUIET += ["--trainer.enable_model_summary=false", "--trainer.max_steps=3", "--trainer.accelerator=cpu"]


def test_a_run_from_the_command_line(tmp_path: Path) -> None:
    for label in ("ant", "bee", "cat"):
        for index in range(8):
            path = tmp_path / label / f"{index}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((40, 50, 3), 9 * index, np.uint8)).save(path)
    arguments = ["fit", f"--data.read.data_root={tmp_path}", "--data.read.val_fraction=0.125", *PREPARED, *QUIET]
    cli = CLI(Model, Photos, args=arguments, save_config_callback=None)
    assert cli.model.layer.out_features == 3 and cli.trainer.global_step == 3
    assert cli.datamodule.dataset.split_sizes == {"train": 18, "val": 3, "test": 3}


def test_build_datamodule_itself_is_a_datamodule_for_the_command_line() -> None:
    options = ["--data.data=digits", "--data.batch_size=7", "--data.num_workers=0", "--data.train_on=train"]
    cli = CLI(Model, build_datamodule, args=["fit", *options, *PREPARED, *QUIET], save_config_callback=None)
    assert cli.trainer.global_step == 3
    assert (cli.datamodule.batch_size, cli.datamodule.cache, cli.datamodule.preprocessing.image_size) == (7, "none", 32)
    assert cli.model.layer.out_features == 10
