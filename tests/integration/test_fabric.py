"""Lightning Fabric: a loop of the user's own around the module's step, our parameter groups and our schedule."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader, TensorDataset

from transfer.networks.classifier import Classifier
from transfer.training.module import TransferModule
from transfer.training.optim import build_optimizer, parameter_groups
from transfer.training.sam import SAM
from transfer.training.schedules import build_schedule


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_a_loop_of_the_users_own_is_the_same_loop_without_fabric(tiny_classifier: Classifier) -> None:
    generator = torch.Generator().manual_seed(1)
    dataset = TensorDataset(torch.randn(24, 3, 32, 32, generator=generator), torch.arange(24) % 3)

    def train(fabric: Fabric | None) -> tuple[list[float], dict[str, torch.Tensor]]:
        torch.manual_seed(0)
        module = TransferModule(copy.deepcopy(tiny_classifier), label_smoothing=0.1).train()
        optimizer = build_optimizer("sgd", parameter_groups(module.classifier, 0.05, 1e-5), 0.05, 0.9)
        schedule = build_schedule(optimizer, "cosine", 0.5, total_steps=8, steps_per_epoch=4)
        loader, step, losses = DataLoader(dataset, batch_size=6), module.training_step, []
        if fabric is not None:
            model, optimizer = fabric.setup(module, optimizer)
            loader, step = fabric.setup_dataloaders(loader), model.training_step
        for _ in range(2):
            for index, batch in enumerate(loader):
                loss = step(batch, index)
                optimizer.zero_grad()
                if fabric is None:
                    loss.backward()
                else:
                    fabric.backward(loss)
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
        return losses, module.classifier.state_dict()

    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    with_fabric, without = train(fabric), train(None)
    assert with_fabric[0] == without[0] and len(without[0]) == 8
    torch.testing.assert_close(with_fabric[1], without[1], rtol=0, atol=0)
    assert len(set(without[0])) == 8  # it learned


def test_sam_steps_under_fabric(tiny_classifier: Classifier) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    module = TransferModule(tiny_classifier).train()
    groups = parameter_groups(module.classifier, 0.05, 0.0)
    model, optimizer = fabric.setup(module, SAM(build_optimizer("sgd", groups, 0.05, 0.0), rho=0.05))
    batch = (torch.randn(6, 3, 32, 32), torch.arange(6) % 3)
    losses = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model.training_step(batch, 0)
        fabric.backward(loss)
        losses.append(loss.item())
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert len(losses) == 6  # two passes a step
    assert losses[0] == pytest.approx(math.log(3))  # a head of zeros
    assert losses[1] > losses[0] and losses[-2] < losses[0]  # uphill in the second pass, downhill with the steps
