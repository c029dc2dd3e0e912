"""BatchNorm policies move the statistics as promised, and the check notices when they did not arrive."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from transfer.config.schema import FinetuneConfig
from transfer.errors import UserError
from transfer.files import read_rows
from transfer.networks.classifier import Classifier
from transfer.networks.layers import fold_norms
from transfer.training import batch_norm, callbacks
from transfer.training.batch_norm import (
    BatchNormCheck,
    BatchNormPolicy,
    batch_norm_momentum,
    batch_norm_training,
    batch_norms,
    recompute_statistics,
)
from transfer.training.callbacks import EpochLog, FreezeBackbone
from transfer.training.module import TransferModule
from transfer.training.trainer import build_callbacks
from transfer.weights.build import build_classifier

Builder = Callable[..., pl.Trainer]


def statistics(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items() if "running_" in k or "num_batches" in k}


def test_recomputed_statistics_are_mean_and_variance_over_all_pixels() -> None:
    network = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    images = 3.0 + 2.0 * torch.randn(10, 3, 5, 5)
    recompute_statistics(network.train(), network, iter([images]))
    pixels = images.double().permute(0, 2, 3, 1).reshape(-1, 3).numpy()
    outputs = pixels @ network[1].weight[:, :, 0, 0].detach().double().numpy().T + network[1].bias.detach().numpy()
    np.testing.assert_allclose(network[2].running_mean, outputs.mean(0), rtol=1e-5)
    np.testing.assert_allclose(network[2].running_var, outputs.var(0, ddof=1), rtol=1e-5)


def test_recomputed_statistics_weigh_every_batch_alike_and_forget_the_old_ones() -> None:
    norm = nn.BatchNorm2d(2)
    norm.running_mean.fill_(100.0)
    batches = [torch.randn(6, 2, 4, 4) * scale + scale for scale in (1.0, 2.0, 5.0)]
    recompute_statistics(norm, norm, iter(batches))
    torch.testing.assert_close(norm.running_mean, torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0))
    assert norm.num_batches_tracked == 3


def test_a_deeper_norm_sees_what_the_first_ones_batch_statistics_give() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.BatchNorm2d(2))
    images = 50.0 + torch.randn(8, 2, 6, 6)
    recompute_statistics(network, network, iter([images]))
    normalised = (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(network[2].running_mean, normalised.relu().mean((0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_recomputing_leaves_modes_momenta_and_gradients_as_they_were() -> None:
    network = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3, momentum=0.07), nn.BatchNorm2d(3))
    network.train()
    network[2].eval()
    recompute_statistics(network, network, iter([torch.randn(4, 3, 2, 2)]))
    assert [m.training for m in network.modules()] == [True, True, True, False]
    assert [norm.momentum for norm in batch_norms(network)] == [0.07, 0.1]


def train(
    classifier: Classifier, policy: str, data: pl.LightningDataModule, build_trainer: Builder, lr: float = 0.05
) -> TransferModule:
    module = TransferModule(classifier, lr=lr)
    build_trainer(BatchNormPolicy(policy), max_epochs=2).fit(module, data)
    return module


def test_frozen_statistics_do_not_move_by_a_bit_while_weights_do(
    tiny_classifier: Classifier, random_images: Any, build_trainer: Builder
) -> None:
    recompute_statistics(tiny_classifier, tiny_classifier, iter([random_images.images]))
    before = statistics(tiny_classifier)
    weights = {name: p.detach().clone() for name, p in tiny_classifier.named_parameters()}
    train(tiny_classifier, "frozen", random_images, build_trainer, lr=1e-3)
    torch.testing.assert_close(statistics(tiny_classifier), before, rtol=0, atol=0)
    for name in ("backbone.stem.conv.weight", "backbone.stem.norm.weight", "backbone.top.norm.bias"):
        assert not torch.equal(tiny_classifier.get_parameter(name), weights[name])


@pytest.mark.parametrize(("frozen_epochs", "grad_checkpointing"), [(0, True), (1, False)])
def test_frozen_norms_are_folded_in_training_and_learn_the_same(
    tiny_classifier: Classifier, random_images: Any, build_trainer: Builder, frozen_epochs: int,
    grad_checkpointing: bool, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    recompute_statistics(tiny_classifier, tiny_classifier, iter([random_images.images]))
    tiny_classifier.set_grad_checkpointing(grad_checkpointing)
    runs, norm_calls = {}, Counter[str]()
    for name, fold in {"folded": fold_norms, "plain": lambda *_: None}.items():
        torch.manual_seed(0)
        monkeypatch.setattr(batch_norm, "fold_norms", fold)
        monkeypatch.setattr(callbacks, "fold_norms", fold)
        module = TransferModule(copy.deepcopy(tiny_classifier), lr=1e-3, warmup_epochs=0)
        module.backbone.stem.norm.register_forward_hook(
            lambda norm, _, out, name=name: norm_calls.update({name: torch.is_grad_enabled()})
        )
        extra = [FreezeBackbone(frozen_epochs)] if frozen_epochs else []
        trainer = build_trainer(*extra, BatchNormPolicy("frozen"), max_epochs=2, precision="64-true")
        trainer.fit(module, random_images)
        assert not any(getattr(layer, "fold_norm", False) for layer in module.modules())
        runs[name] = {name: (p - tiny_classifier.get_parameter(name)).detach() for name, p in
                      module.classifier.named_parameters()}  # fmt: skip
    assert norm_calls["folded"] == 0 < norm_calls["plain"]
    assert runs["plain"]["backbone.stem.norm.weight"].abs().max() > 1e-5
    torch.testing.assert_close(runs["folded"], runs["plain"], rtol=1e-6, atol=1e-10)


def test_under_ddp_every_weight_of_a_folded_network_gets_its_gradient(
    tiny_classifier: Classifier, random_images: Any
) -> None:
    recompute_statistics(tiny_classifier, tiny_classifier, iter([random_images.images]))
    nn.init.normal_(tiny_classifier.head.fc.weight)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        network = nn.parallel.DistributedDataParallel(tiny_classifier.train())
        for norm in batch_norms(tiny_classifier):
            norm.eval()
        fold_norms(tiny_classifier)
        for _ in range(2):  # the second fails if a weight took no part in the first
            network(random_images.images).square().sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    assert all(p.grad.abs().sum() > 0 for p in tiny_classifier.parameters())


def test_in_bfloat16_a_folded_network_is_as_near_to_float32_as_a_plain_one(
    tiny_classifier: Classifier, random_images: Any
) -> None:
    recompute_statistics(tiny_classifier, tiny_classifier, iter([random_images.images]))
    nn.init.normal_(tiny_classifier.head.fc.weight)
    exact = tiny_classifier.eval()(random_images.images)
    differences = {}
    for fold in (False, True):
        fold_norms(tiny_classifier, fold)
        with torch.autocast("cpu", torch.bfloat16):
            differences[fold] = (tiny_classifier(random_images.images) - exact).norm() / exact.norm()
    assert 0 < differences[True] < 2 * differences[False] < 0.3


def test_adapt_sets_the_momentum_for_the_length_of_the_run(
    tiny_classifier: Classifier, random_images: pl.LightningDataModule, build_trainer: Builder
) -> None:
    train(tiny_classifier, "adapt", random_images, build_trainer)
    assert {norm.momentum for norm in batch_norms(tiny_classifier)} == {0.3}
    assert tiny_classifier.backbone.stem.norm.num_batches_tracked == 8


def test_adapt_counts_batches_where_several_make_up_one_step() -> None:
    norm = nn.BatchNorm2d(2)
    trainer = SimpleNamespace(estimated_stepping_batches=500, accumulate_grad_batches=4, num_training_batches=1000)
    BatchNormPolicy("adapt").on_train_start(trainer, norm)
    assert norm.momentum == pytest.approx(40 / 2000)


def test_train_keeps_the_checkpoints_momentum(
    tiny_classifier: Classifier, random_images: pl.LightningDataModule, build_trainer: Builder
) -> None:
    train(tiny_classifier, "train", random_images, build_trainer)
    assert {norm.momentum for norm in batch_norms(tiny_classifier)} == {0.01}


def test_recompute_leaves_the_statistics_of_the_final_weights(
    tiny_classifier: Classifier, random_images: Any, build_trainer: Builder
) -> None:
    module = train(tiny_classifier, "recompute", random_images, build_trainer)
    after = statistics(tiny_classifier)
    recompute_statistics(module, module, iter(random_images.images.split(6)))
    torch.testing.assert_close(statistics(tiny_classifier), after)
    assert {int(v) for k, v in after.items() if k.endswith("num_batches_tracked")} == {4}


def test_recompute_averages_over_so_many_batches(
    tiny_classifier: Classifier, random_images: pl.LightningDataModule, build_trainer: Builder
) -> None:
    policy = BatchNormPolicy("recompute", num_batches=2)
    build_trainer(policy, max_epochs=1).fit(TransferModule(tiny_classifier), random_images)
    assert tiny_classifier.backbone.stem.norm.num_batches_tracked == 2


def test_an_unknown_policy_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"unknown bn policy 'freeze'; did you mean 'frozen'"):
        BatchNormPolicy("freeze")


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(2), nn.BatchNorm1d(2)], ids=["2d", "1d"])
def test_batch_norm_training_moves_no_statistics_and_restores_modes(norm: nn.Module) -> None:
    network = nn.Sequential(nn.Dropout(), norm).train()
    images = 9.0 + torch.randn(8, 2, *([3, 3] if isinstance(norm, nn.BatchNorm2d) else []))
    before = statistics(network)
    with batch_norm_training(network, True):
        assert network(images).mean().abs() < 1e-5
    with batch_norm_training(network, False):
        torch.testing.assert_close(network(images), images / (1 + 1e-5) ** 0.5)
    torch.testing.assert_close(statistics(network), before, rtol=0, atol=0)
    assert all(m.training for m in network.modules())


class AboveAverage(nn.Module):
    """Says class 1 where a one-pixel image is above the mean that its BatchNorm believes in."""

    def __init__(self, running_mean: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.norm.running_mean.fill_(running_mean)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(images).flatten(1)
        return torch.cat([-x, x], dim=1)


def check(
    network: nn.Module,
    epoch: int = 9,
    is_last_batch: bool = True,
    times: int = 1,
    batch_idx: int = 2,
    callback: BatchNormCheck | None = None,
) -> list[str]:
    """Messages of the check on a batch of images around 100 whose class is whether they are above."""
    images = torch.tensor([99.0, 101.0] * 10).reshape(20, 1, 1, 1)
    trainer = SimpleNamespace(
        global_step=3 * (epoch + 1), estimated_stepping_batches=30, is_last_batch=is_last_batch,
        precision_plugin=SimpleNamespace(forward_context=nullcontext),
        strategy=SimpleNamespace(reduce=lambda value, reduce_op: value),
    )  # fmt: skip
    callback = callback or BatchNormCheck()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(times):
            callback.on_train_batch_end(trainer, network, None, (images, torch.tensor([0, 1] * 10)), batch_idx)
    return [str(warning.message) for warning in caught]


def test_the_check_warns_once_where_the_statistics_lag_behind() -> None:
    (message,) = check(AboveAverage(running_mean=0.0), times=3)
    assert "100% of the last training batch is right with the batch's own statistics but 50% with" in message
    assert "set `bn`=recompute" in message


@pytest.mark.parametrize(("policy", "count"), [("adapt", 1), ("train", 1), ("recompute", 0)])
def test_statistics_that_evaluation_recomputes_are_not_checked(tmp_path: Path, policy: str, count: int) -> None:
    found = build_callbacks(FinetuneConfig(bn=policy), tmp_path, EpochLog(tmp_path / "metrics.csv"))  # type: ignore[arg-type]
    assert sum(isinstance(callback, BatchNormCheck) for callback in found) == count


def test_the_check_is_silent_where_the_statistics_are_right() -> None:
    assert check(AboveAverage(running_mean=100.0)) == []


def test_the_check_is_silent_where_training_uses_the_running_statistics_too() -> None:
    network = AboveAverage(running_mean=0.0)
    for norm in batch_norms(network):
        norm.eval()
    assert check(network) == []


def test_the_check_waits_for_the_last_batch_and_the_second_half() -> None:
    assert check(AboveAverage(0.0), is_last_batch=False) == []
    assert check(AboveAverage(0.0), epoch=4) == []
    assert len(check(AboveAverage(0.0), epoch=5)) == 1


def test_both_answers_are_kept_for_the_epoch_that_gave_them() -> None:
    callback = BatchNormCheck()
    expected = {"train/top1_batch_statistics": 1.0, "train/top1_running_statistics": 0.5}
    for epoch, batch_idx, found in ((9, 2, expected), (0, 2, {}), (0, 48, {}), (0, 49, expected)):
        callback.on_train_epoch_start(None, None)
        messages = check(AboveAverage(0.0), epoch, batch_idx=batch_idx, callback=callback)
        assert callback.accuracies == found
        assert bool(messages) is (epoch == 9)  # of the first half it does not warn
    frozen = AboveAverage(0.0)
    frozen.norm.eval()
    callback.on_train_epoch_start(None, None)
    check(frozen, callback=callback)
    assert callback.accuracies == {}


def test_a_run_is_the_same_to_the_last_bit_with_the_check_in_every_epoch(
    build_trainer: Builder, random_images: pl.LightningDataModule, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(batch_norm, "_LONG_EPOCH", 1)
    states, rows = [], []
    for checks in ([], [BatchNormCheck()]):
        torch.manual_seed(0)
        module = TransferModule(build_classifier("mobilenet-v1@d=0.1,w=0.1", 3, load_weights=False), lr=0.05)
        log = callbacks.EpochLog(tmp_path / f"{len(checks)}.csv")
        build_trainer(*checks, log, max_epochs=2).fit(module, random_images)
        states.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
        rows.append(read_rows(log.path))
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    answers = [name for name in rows[1][0] if name not in rows[0][0]]
    assert answers == ["train/top1_batch_statistics", "train/top1_running_statistics"]
    assert all(0 <= float(row[name]) <= 1 for row in rows[1] for name in answers)
    assert [row["val/loss"] for row in rows[0]] == [row["val/loss"] for row in rows[1]]


def test_the_check_changes_nothing() -> None:
    network = AboveAverage(0.0).train()
    before = statistics(network)
    check(network)
    torch.testing.assert_close(statistics(network), before, rtol=0, atol=0)
    assert network.training and network.norm.training


@pytest.mark.parametrize(
    ("steps_per_epoch", "total_steps", "momentum"),
    [
        (1000, 20_000, 0.01),  # Kornblith's rule, TensorFlow momentum 1 - 10 / s
        (200, 20_000, 0.05),
        (50, 20_000, 0.1),  # his floor of 0.9
        (1000, 2000, 0.02),  # short runs: 40 over the run's steps
        (100, 250, 0.16),
        (20, 100, 0.3),  # and no more than 0.3
        (1, 1, 0.3),
    ],
)
def test_batch_norm_momentum_follows_the_length_of_the_run(
    steps_per_epoch: int, total_steps: int, momentum: float
) -> None:
    assert batch_norm_momentum(steps_per_epoch, total_steps) == pytest.approx(momentum)


def test_a_run_without_steps_is_refused() -> None:
    with pytest.raises(UserError, match=r"at least one step \(per epoch 0, in all 0\)"):
        batch_norm_momentum(0, 0)
