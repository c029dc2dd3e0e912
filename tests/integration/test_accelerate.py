"""Loaders in the hands of accelerate, which divides them itself, and of the Hugging Face Trainer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integration.test_fabric_loaders import digits, keys, whole
from tests.support.ranks import run_ranks

pytest.importorskip("accelerate", reason="accelerate is not installed")


def run_accelerate(folder: Path) -> None:
    from accelerate import Accelerator

    data = digits()
    train, val = data.train_dataloader(), data.val_dataloader()
    accelerator = Accelerator(cpu=True)
    next(iter(train)), len(train)  # a look and a schedule beforehand change nothing
    train, val = accelerator.prepare(train, val)
    share: dict[str, Any] = {"lengths": (len(train), len(val))}
    for epoch in range(2):
        train.set_epoch(epoch)
        share[f"train {epoch}"] = [key for images, _ in train for key in keys(images)]
    share["val"] = []
    for images, labels in val:
        images, labels = accelerator.gather_for_metrics((images, labels))
        share["val"] += keys(images)
    torch.save(share, folder / f"{accelerator.process_index}.pt")
    accelerator.end_training()


def test_accelerate_divides_every_image_once(tmp_path: Path) -> None:
    run_ranks(run_accelerate, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    data = digits()
    val = whole(data.val_dataloader())
    assert Counter(first["val"]) == Counter(second["val"]) == val
    train = whole(data.eval_dataloader("train"))
    assert first["lengths"] == second["lengths"] == (6, 1)
    for epoch in ("train 0", "train 1"):
        assert len(first[epoch]) == len(second[epoch]) == 600
        assert not Counter(first[epoch] + second[epoch]) - train
    assert first["train 0"] != first["train 1"]


class Linear(torch.nn.Module):
    """A model as the Trainer wants it: a dictionary with the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 10)

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.layer(pixel_values.mean((2, 3)))
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def test_the_hugging_face_trainer_takes_the_datasets(tmp_path: Path) -> None:
    from torch.utils.data import default_collate
    from transformers import Trainer, TrainingArguments

    data = digits()

    def collate(items: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
        images, labels = default_collate(items)
        return {"pixel_values": data.normalize(images), "labels": labels}

    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        max_steps=3,
        per_device_train_batch_size=50,
        per_device_eval_batch_size=90,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(
        Linear(),
        arguments,
        train_dataset=data.train_dataloader().dataset,
        eval_dataset=data.val_dataloader().dataset,
        data_collator=collate,
    )
    result = trainer.train()
    output = trainer.predict(data.val_dataloader().dataset)
    assert result.global_step == 3 and output.predictions.shape == (180, 10)
    assert output.label_ids.tolist() == data.dataset.splits["val"].labels.tolist()
