"""A notebook of six lines trains to the command's own numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from datamodules import build_datamodule
from transfer import TransferModule, build_classifier
from transfer.commands.finetune import main

LIMITS = {"max_epochs": 2, "limit_train_batches": 4, "limit_val_batches": 2}


@pytest.mark.slow
def test_six_lines_and_the_command_end_at_the_same_network(tmp_path: Path) -> None:
    flags = [word for name, value in LIMITS.items() for word in (f"--trainer.{name}", str(value))]
    data = ["--dataset", "digits", "--image_size", "32", "--data.batch_size", "16", "--data.num_workers", "0"]
    assert main([*data, *flags, "--trainer.accelerator", "cpu", "--out_dir", str(tmp_path / "run")]) == 0
    command = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state_dict"]

    pl.seed_everything(0)
    classifier = build_classifier("lite0", 10, pretrained=True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    digits = build_datamodule(
        "digits", preprocessing=classifier.preprocessing, image_size=32, batch_size=16, num_workers=0
    )
    module = TransferModule(classifier)
    trainer = pl.Trainer(**LIMITS, accelerator="cpu", logger=False, enable_checkpointing=False, num_sanity_val_steps=0)
    trainer.fit(module, digits)
    assert len(classifier.state_dict()) > 200
    for name, tensor in classifier.state_dict().items():
        torch.testing.assert_close(tensor, command[f"classifier.{name}"], rtol=0, atol=0, msg=name)
