"""A training step is one graph for torch.compile, and the same one for every batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from transfer.training.batch_norm import BatchNormPolicy
from transfer.training.mixing import draw_mix
from transfer.training.module import TransferModule
from transfer.weights.build import build_classifier

# Each family, and the blocks that only one of its members has; with as few of them as its stages allow.
NETWORKS = ("b0@d=0.1", "lite0@d=0.1", "v2-s@d=0.1", "mobilenet-v1@d=0.1", "mobilenet-v2@d=0.1", "resnet50@d=0.1")


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last), torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(("backbone", "options"), [*((name, {}) for name in NETWORKS), (NETWORKS[0], {"bn": "frozen"})])
def test_a_training_step_has_no_graph_break(
    backbone: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = TransferModule(build_classifier(backbone, 3, load_weights=False), **options).train()
    monkeypatch.setattr(module, "log", lambda *_: None)  # Lightning's own, outside the graph
    BatchNormPolicy(module.bn).on_train_epoch_start(None, module)
    torch._dynamo.reset()
    explained = torch._dynamo.explain(module.training_step)(batch(), 0)
    assert (explained.graph_count, explained.break_reasons) == (1, [])


@pytest.mark.parametrize(
    ("options", "graphs"),
    [
        ({"label_smoothing": 0.1, "mixup_alpha": 0.4}, 1),
        ({"loss": "bce", "cutmix_alpha": 1.0, "bn": "frozen"}, 1),
        ({"logit_adjustment": [-1.0, -2.0, -3.0], "mixup_alpha": 0.4}, 1),
        ({"class_weights": [1.0, 2.0, 3.0], "mixup_alpha": 1.0, "cutmix_alpha": 1.0}, 2),
    ],
)
def test_every_mix_is_computed_by_the_same_graph(options: dict[str, Any], graphs: int) -> None:
    module = TransferModule(build_classifier("mobilenet-v1@d=0.1,w=0.1", 3), **options).train()
    BatchNormPolicy(module.bn).on_train_epoch_start(None, module)
    torch._dynamo.reset()
    counter = CompileCounter()
    loss = torch.compile(module.batch_loss, backend=counter, fullgraph=True, dynamic=False)
    for _ in range(8):
        images, targets = batch()
        loss(images, targets, draw_mix(images, module.mixup_alpha, module.cutmix_alpha))[0].backward()
    assert counter.frame_count == graphs
