"""Which validation is the best, and that checkpoint, early stopping and results agree on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from transfer.errors import BadValue
from transfer.training.callbacks import EpochLog
from transfer.training.checkpointing import LastCheckpoint
from transfer.training.selection import BestCheckpoint, EarlyStop, choose_monitor, goodness

Build = Callable[..., pl.Trainer]


class Scripted(pl.LightningModule):
    """Logs a given val/top1 and val/loss at each validation."""

    def __init__(self, scores: list[float], losses: list[float] | None = None) -> None:
        super().__init__()
        self.scores, self.losses = scores, losses or [1.0] * len(scores)
        self.weight = nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/top1", torch.tensor(self.scores[self.current_epoch]))
        self.log("val/loss", torch.tensor(self.losses[self.current_epoch]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(trainer: pl.Trainer, scores: list[float], losses: list[float] | None = None, last: Path | None = None) -> None:
    loader = DataLoader(TensorDataset(torch.zeros(2, 1)))
    trainer.fit(Scripted(scores, losses), loader, loader, ckpt_path=last, weights_only=True)


def epoch_of(path: Path) -> int:
    epoch: int = torch.load(path, weights_only=True)["epoch"]
    return epoch


@pytest.mark.parametrize(
    ("monitor", "scores", "losses", "best"),
    [
        ("top1", [0.5, 0.7, 0.6], [1.0, 1.0, 1.0], 1),
        ("top1", [0.9, 0.1], [1.0, 0.1], 0),
        ("top1", [0.5, 0.7, 0.7, 0.6], [1.0, 1.0, 1.0, 1.0], 2),  # all equal: the later
        ("top1", [0.5, 0.7, 0.7, 0.7], [1.0, 0.4, 0.3, 0.35], 2),  # equal accuracies: the lower loss
        ("loss", [0.5, 0.7, 0.6], [1.0, 0.9, 0.8], 2),
        ("loss", [0.5, 0.7, 0.6], [0.8, 0.9, 0.8], 2),
        ("loss", [0.5, 0.7, 0.6], [0.7, 0.9, 0.8], 0),
    ],
)
def test_checkpoint_and_results_take_the_same_best_validation(
    build_trainer: Build, tmp_path: Path, monitor: str, scores: list[float], losses: list[float], best: int
) -> None:
    trainer = build_trainer(BestCheckpoint(tmp_path, monitor), LastCheckpoint(tmp_path), max_epochs=len(scores))
    fit(trainer, scores, losses)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert (epoch_of(tmp_path / "best.ckpt"), epoch_of(tmp_path / "last.ckpt")) == (best, len(scores) - 1)
    log = EpochLog(tmp_path / "metrics.csv", monitor)
    pairs = zip(scores, losses, strict=True)
    log._rows = [{"val/top1": str(top1), "val/loss": loss} for top1, loss in pairs]  # read back, or its own
    assert log.best_metrics() == {"top1": scores[best], "loss": losses[best]}


def test_a_metric_that_is_not_a_number_is_never_the_best() -> None:
    keys = [goodness({"val/ece": value, "val/loss": 1.0}, "ece") for value in (float("nan"), 0.4, 0.1)]
    assert keys == sorted(keys) and keys[0] < keys[1] < keys[2]


@pytest.mark.parametrize(
    ("monitor", "num_classes", "multilabel", "chosen"),
    [
        (None, 3, False, "top1"), (None, 3, True, "map"), ("loss", 3, False, "loss"), ("top5", 6, False, "top5"),
        ("f1", 3, True, "f1"), ("mean_per_class", 3, False, "mean_per_class"),
    ],
)  # fmt: skip
def test_the_monitor_is_what_the_run_measures(
    monitor: str | None, num_classes: int, multilabel: bool, chosen: str
) -> None:
    assert choose_monitor(monitor, num_classes, multilabel) == chosen


@pytest.mark.parametrize(("monitor", "multilabel", "allowed"), [("top5", False, "loss, .*top1"), ("top1", True, "map")])
def test_a_monitor_that_is_not_measured_is_refused(monitor: str, multilabel: bool, allowed: str) -> None:
    with pytest.raises(BadValue, match=f"`monitor`={monitor}: not measured with 5 classes.*allowed.*{allowed}"):
        choose_monitor(monitor, 5, multilabel)


@pytest.mark.parametrize(
    ("scores", "losses", "epochs"),
    [
        ([0.5, 0.7, 0.6, 0.6, 0.9], [1.0] * 5, 4),  # two validations without a better one
        ([0.5] * 5, [1.0] * 5, 3),  # an equal one is not better
        ([0.5] * 5, [1.0, 0.9, 0.8, 0.8, 0.8], 5),  # an equal accuracy of lower loss is
        ([0.5, 0.6, 0.7, 0.8, 0.9], [1.0] * 5, 5),
    ],
)
def test_early_stopping_ends_the_run_and_says_so_once(
    build_trainer: Build, capsys: pytest.CaptureFixture[str], scores: list[float], losses: list[float], epochs: int
) -> None:
    stop = EarlyStop("top1", 2)
    trainer = build_trainer(stop, max_epochs=5)
    fit(trainer, scores, losses)
    ended = stop.stopped_epoch is not None
    assert trainer.current_epoch == epochs and stop.stopped_epoch == (epochs if ended else None)
    said = capsys.readouterr().out
    assert said == (f"early stopping in epoch {epochs}: no better val top1 in 2 validations\n" if ended else "")
    assert ended == (max(scores[-2:]) < 0.9 or epochs < 5)


def test_a_run_that_was_stopped_early_takes_no_step_when_it_is_resumed(build_trainer: Build, tmp_path: Path) -> None:
    scores = [0.5, 0.7, 0.6, 0.6, 0.9]
    fit(build_trainer(EarlyStop("top1", 2), LastCheckpoint(tmp_path), max_epochs=5), scores)
    before = (tmp_path / "last.ckpt").read_bytes()
    stop = EarlyStop("top1", 2)
    trainer = build_trainer(stop, LastCheckpoint(tmp_path), max_epochs=5)
    fit(trainer, scores, last=tmp_path / "last.ckpt")
    assert (trainer.global_step, stop.stopped_epoch, stop.waited) == (8, 4, 2)
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_a_resumed_run_waits_on_and_knows_its_best(build_trainer: Build, tmp_path: Path) -> None:
    callbacks = lambda: (EarlyStop("top1", 2), BestCheckpoint(tmp_path, "top1"), LastCheckpoint(tmp_path))  # noqa: E731
    scores = [0.5, 0.7, 0.6, 0.6, 0.9]
    fit(build_trainer(*callbacks(), max_epochs=3), scores)
    trainer = build_trainer(*callbacks(), max_epochs=5)
    fit(trainer, scores, last=tmp_path / "last.ckpt")
    assert trainer.current_epoch == 4 and epoch_of(tmp_path / "best.ckpt") == 1
