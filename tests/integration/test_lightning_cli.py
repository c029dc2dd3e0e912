"""LightningCLI as a user would: the backbone by name, the class count from the data, a checkpoint that loads alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from datamodules import build_datamodule
from transfer import TransferModule
from transfer.weights.start import resolve_start

SMALL = "b0@d=0.3,w=0.25"


def digits(
    backbone: str, pretrained: bool | str = True, image_size: int = 32, batch_size: int = 16
) -> pl.LightningDataModule:
    """Return the ten digits, prepared as the backbone's weights expect."""
    preprocessing = resolve_start(backbone, pretrained).preprocessing
    return build_datamodule(
        "digits", preprocessing=preprocessing, image_size=image_size, batch_size=batch_size, num_workers=0
    )


class CLI(LightningCLI):
    """The model tells the data its backbone; the data tell the model their class count."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("model.backbone", "data.backbone")
        parser.link_arguments("model.pretrained", "data.pretrained")
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> CLI:
    monkeypatch.setattr(sys, "argv", ["cli.py", *words])
    monkeypatch.chdir(folder)
    return CLI(TransferModule, digits, seed_everything_default=0, trainer_defaults=QUIET)


QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "max_epochs": 1,
    "limit_train_batches": 2,
    "limit_val_batches": 1,
}


@pytest.mark.slow
def test_fit_from_flags_then_from_the_saved_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--model.backbone", SMALL, "--model.pretrained", "false", "--model.head", "mlp", "--model.lr", "0.05")
    cli = run(monkeypatch, tmp_path, "fit", *flags)
    assert cli.model.classifier.num_classes == cli.datamodule.num_classes == 10
    assert (cli.trainer.global_step, cli.model.lr, cli.model.loss.label_smoothing) == (2, 0.05, 0.1)
    assert 0 <= cli.trainer.callback_metrics["val/top1"] <= 1

    (checkpoint,) = tmp_path.glob("checkpoints/*.ckpt")
    loaded = TransferModule.load_from_checkpoint(checkpoint, weights_only=True)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(images), cli.model.eval()(images), rtol=0, atol=0)
    assert loaded.classifier.class_names == tuple("0123456789")
    assert loaded.lr == 0.05 and type(loaded.classifier.head) is type(cli.model.classifier.head)

    (tmp_path / "again").mkdir()
    again = run(monkeypatch, tmp_path / "again", "fit", "--config", str(tmp_path / "config.yaml"))
    torch.testing.assert_close(again.model.state_dict(), cli.model.state_dict(), rtol=0, atol=0)


def test_a_wrong_name_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--model.backbone", SMALL, "--model.pretrained", "false", "--model.optimizer", "adam")
    with pytest.raises(ValueError, match="unknown optimizer 'adam'; did you mean 'adamw'"):
        run(monkeypatch, tmp_path, "fit", *flags)
