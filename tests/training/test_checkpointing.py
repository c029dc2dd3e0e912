"""Checkpoints are written whole, and those of earlier versions are still read."""

from __future__ import annotations

from pathlib import Path

import torch

from transfer.training.checkpointing import AtomicCheckpointIO


def test_the_state_of_data_is_found_under_the_name_that_earlier_versions_gave_it(tmp_path: Path) -> None:
    state = {"class_names": ["a", "b"], "train_progress": {"epoch": 1, "batches": 2}}
    torch.save({"epoch": 1, "DigitsDataModule": state}, tmp_path / "old.ckpt")
    torch.save({"epoch": 1, "DataModule": state}, tmp_path / "new.ckpt")
    for name in ("old.ckpt", "new.ckpt"):
        content = AtomicCheckpointIO().load_checkpoint(tmp_path / name, weights_only=True)
        assert content == {"epoch": 1, "DataModule": state}


def test_a_training_loss_that_earlier_versions_kept_among_the_tensors_is_left_out(tmp_path: Path) -> None:
    states = {name: {"classifier.w": torch.ones(2)} for name in ("state_dict", "current_model_state")}
    old = {name: {**state, "train_loss.mean_value": torch.ones(())} for name, state in states.items()}
    torch.save(old, tmp_path / "old.ckpt")
    content = AtomicCheckpointIO().load_checkpoint(tmp_path / "old.ckpt", weights_only=True)
    assert {name: state.keys() for name, state in content.items()} == {name: {"classifier.w"} for name in states}
