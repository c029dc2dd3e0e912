"""The mean training loss of an epoch, over stops and processes."""

from __future__ import annotations

import pytest
import torch
from torch import distributed as dist

from transfer.training.train_loss import TrainLoss


def filled(losses: list[float]) -> TrainLoss:
    loss = TrainLoss()
    for value in losses:
        loss.update(torch.tensor(value, requires_grad=True))
    return loss


def test_it_is_the_mean_of_the_batches_whatever_their_order() -> None:
    losses = [1e8, 1.0, -1e8, 0.1, 3.0]
    assert filled(losses).compute() == filled(losses[::-1]).compute() == pytest.approx(4.1 / 5, rel=1e-7)


def test_a_restored_one_goes_on_to_the_last_bit() -> None:
    losses = torch.rand(7).tolist()
    restored = TrainLoss()
    restored.restore(filled(losses[:3]).state())
    for value in losses[3:]:
        restored.update(torch.tensor(value))
    assert len(restored) == 7 and restored.compute() == filled(losses).compute()
    restored.reset()
    assert len(restored) == 0


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_losses_of_all_ranks_are_divided_among_those_that_resume(
    monkeypatch: pytest.MonkeyPatch, world_size: int
) -> None:
    state, found = [[1.0, 2.0], [3.0, 4.0]], []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: world_size)
    for rank in range(world_size):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        loss = TrainLoss()
        loss.restore(state)
        found += loss._restored
    assert sorted(found) == [1.0, 2.0, 3.0, 4.0]
