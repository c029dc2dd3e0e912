"""Loss and accuracy of an epoch in training, over stops and processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import distributed as dist

from transfer.training.train_scores import TrainScores

LOGITS = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])  # classes 0, 1, 0
TARGETS = torch.tensor([0, 1, 1])


def filled(losses: list[float], batches: int = 0) -> TrainScores:
    """Scores of batches with these losses, of which the first ones have three images each, two of them right."""
    scores = TrainScores()
    for number, value in enumerate(losses):
        answers = (LOGITS.clone().requires_grad_(), TARGETS) if number < batches else ()
        scores.update(torch.tensor(value, requires_grad=True), *answers)
    return scores


def test_the_loss_is_the_mean_of_the_batches_whatever_their_order() -> None:
    losses = [1e8, 1.0, -1e8, 0.1, 3.0]
    found = filled(losses).compute()
    assert found == filled(losses[::-1]).compute() == {"train/loss": pytest.approx(4.1 / 5, rel=1e-7)}


def test_the_accuracy_is_the_share_of_the_images_that_have_a_class() -> None:
    scores = filled([1.0, 1.0, 1.0], batches=2)
    assert scores.compute()["train/top1"] == 4 / 6
    scores.update(torch.ones(()), LOGITS[:1], TARGETS[:1])  # a smaller batch counts by its images
    assert scores.compute()["train/top1"] == 5 / 7
    scores.reset()
    assert len(scores) == 0 and "train/top1" not in filled([1.0]).compute()


def test_restored_scores_go_on_to_the_last_bit() -> None:
    losses = torch.rand(7).tolist()
    restored = TrainScores()
    restored.restore(filled(losses[:3], batches=3).state())
    for value in losses[3:]:
        restored.update(torch.tensor(value), LOGITS, TARGETS)
    assert len(restored) == 7 and restored.compute() == filled(losses, batches=7).compute()
    restored.reset()
    assert len(restored) == 0


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_what_all_ranks_have_is_divided_among_those_that_resume(
    monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    state: dict[str, Any] = {"train_loss": [[1.0, 2.0], [3.0, 4.0]], "train_hits": [[5, 6], [1, 6]], "epoch": 3}
    losses, counts = [], torch.zeros(2, dtype=torch.int64)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: world_size)
    for rank in range(world_size):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        scores = TrainScores()
        scores.restore(state)
        losses += scores._restored_losses
        counts += torch.tensor(scores._restored_hits)
    assert sorted(losses) == [1.0, 2.0, 3.0, 4.0] and counts.tolist() == [6, 12]


def test_a_checkpoint_of_an_earlier_version_has_losses_alone() -> None:
    scores = TrainScores()
    scores.restore({"train_loss": [[1.0, 3.0]]})
    assert scores.compute() == {"train/loss": 2.0}
