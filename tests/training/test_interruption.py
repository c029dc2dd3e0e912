"""Ctrl-C and SIGTERM: a step is finished, what is computed is kept, and the exception says how to go on."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from tests.conftest import RandomImages
from tests.training.test_callbacks import Snapshots, handlers, read_rows, saved_state
from transfer.errors import Interrupted, RunInterrupted
from transfer.networks.classifier import Classifier
from transfer.training.callbacks import EpochLog
from transfer.training.interruption import GracefulStop, StopAtOnce, interruptible
from transfer.training.module import TransferModule
from transfer.training.selection import BestCheckpoint

__all__ = ["handlers"]  # a fixture
Builder = Callable[..., pl.Trainer]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_writes_last_and_raises(
    tiny_classifier: Classifier, random_images: Any, build_trainer: Builder, tmp_path: Path,
    number: signal.Signals,
) -> None:  # fmt: skip
    module, snapshots = TransferModule(tiny_classifier), Snapshots(3, number)
    trainer = build_trainer(snapshots, GracefulStop(tmp_path / "last.ckpt"), max_epochs=2)
    with pytest.raises(RunInterrupted, match=f"stopped by {number.name}") as caught:
        trainer.fit(module, random_images)
    assert caught.value.signal_number == number
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert (saved["epoch"], saved["global_step"]) == (0, 3)
    torch.testing.assert_close(saved_state(tmp_path / "last.ckpt"), snapshots.states[-1], rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, {"val_check_interval": 2}])
@pytest.mark.parametrize("stop_after", [2, 4, 6, 8])
def test_a_validation_that_is_due_comes_before_the_stop(
    tiny_classifier: Classifier, random_images: Any, build_trainer: Builder, tmp_path: Path, stop_after: int,
    options: dict[str, int],
) -> None:  # fmt: skip
    def fit(*callbacks: pl.Callback, ckpt_path: Path | None = None) -> EpochLog:
        log, checkpoint = EpochLog(tmp_path / "metrics.csv"), BestCheckpoint(tmp_path, "top1")
        trainer = build_trainer(log, checkpoint, *callbacks, max_epochs=2, **options)
        trainer.fit(TransferModule(tiny_classifier), random_images, ckpt_path=ckpt_path, weights_only=True)
        return log

    with pytest.raises(RunInterrupted):
        fit(Snapshots(stop_after), GracefulStop(tmp_path / "last.ckpt"))
    random_images.train_batches.skip = random_images.train_batches.yielded = 0
    assert "top1" in fit(ckpt_path=tmp_path / "last.ckpt").best_metrics()
    steps = [row["step"] for row in read_rows(tmp_path / "metrics.csv")]
    assert steps == (["2", "4", "6", "8"] if options else ["4", "8"])
    assert (tmp_path / "best.ckpt").exists()


def test_a_second_ctrl_c_stops_at_once(
    tiny_classifier: Classifier, random_images: Any, build_trainer: Builder, tmp_path: Path
) -> None:
    stop = GracefulStop(tmp_path / "last.ckpt")
    stop.on_train_start(build_trainer(), TransferModule(tiny_classifier))
    signal.raise_signal(signal.SIGINT)
    assert stop.received == signal.SIGINT
    signal.raise_signal(signal.SIGTERM)  # which a parent passes on that got the Ctrl-C too
    assert stop.received == signal.SIGINT
    with pytest.raises(RunInterrupted, match="stopped by SIGINT; go on with"):
        signal.raise_signal(signal.SIGINT)


def test_several_batches_of_one_step_are_not_torn_apart(
    tiny_classifier: Classifier, random_images: Any, build_trainer: Builder, tmp_path: Path
) -> None:
    snapshots = Snapshots(1)
    trainer = build_trainer(snapshots, GracefulStop(tmp_path / "last.ckpt"), max_epochs=2, accumulate_grad_batches=2)
    with pytest.raises(RunInterrupted):
        trainer.fit(TransferModule(tiny_classifier), random_images)
    assert len(snapshots.states) == 2
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 1


@pytest.mark.parametrize("stop_after", [None, 2])
def test_the_signal_handlers_are_put_back(
    tiny_classifier: Classifier, random_images: Any, build_trainer: Builder, tmp_path: Path, handlers: Any,
    stop_after: int | None,
) -> None:  # fmt: skip
    trainer = build_trainer(Snapshots(stop_after), GracefulStop(tmp_path / "last.ckpt"), max_epochs=1)
    try:
        trainer.fit(TransferModule(tiny_classifier), random_images)
    except RunInterrupted:
        assert stop_after is not None
    assert {number: signal.getsignal(number) for number in handlers} == handlers


@pytest.mark.parametrize("in_validation", [True, False])
def test_the_training_loss_of_an_epoch_knows_nothing_of_the_stop_before_it(
    tiny_classifier: Classifier, random_images: Any, build_trainer: Builder, tmp_path: Path, in_validation: bool
) -> None:
    class Stop(pl.Callback):
        def on_validation_batch_end(self, *_: Any) -> None:
            if in_validation:
                signal.raise_signal(signal.SIGTERM)

    start = {name: tensor.clone() for name, tensor in tiny_classifier.state_dict().items()}

    def fit(folder: str, *callbacks: pl.Callback, ckpt_path: Path | None = None) -> list[str]:
        torch.manual_seed(0)
        tiny_classifier.load_state_dict(start)
        random_images.train_batches.skip = random_images.train_batches.yielded = 0
        trainer = build_trainer(EpochLog(tmp_path / folder / "metrics.csv"), *callbacks, max_epochs=2)
        trainer.fit(TransferModule(tiny_classifier), random_images, ckpt_path=ckpt_path, weights_only=True)
        return [row["train/loss"] for row in read_rows(tmp_path / folder / "metrics.csv")]

    for folder in ("whole", "stopped"):
        (tmp_path / folder).mkdir()
    last = tmp_path / "last.ckpt"
    with pytest.raises(RunInterrupted):
        fit("stopped", Stop(), Snapshots(None if in_validation else 2), GracefulStop(last))
    assert fit("stopped", ckpt_path=last) == fit("whole")


def test_a_signal_in_a_test_raises_at_once_and_kills_the_other_processes(
    tiny_classifier: Classifier, random_images: RandomImages, build_trainer: Builder, handlers: Any
) -> None:
    killed: list[int] = []

    class Launcher:
        def kill(self, number: int) -> None:
            killed.append(number)

    class Stop(pl.Callback):
        def on_test_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.strategy._launcher = Launcher()  # as if Lightning had started processes
            signal.raise_signal(signal.SIGTERM)

    trainer = build_trainer(StopAtOnce(lambda number: Interrupted(number, "again")), Stop())
    with pytest.raises(Interrupted, match="stopped by SIGTERM; go on with: again"):
        trainer.test(TransferModule(tiny_classifier), random_images, verbose=False)
    assert killed == [signal.SIGKILL]
    assert {number: signal.getsignal(number) for number in handlers} == handlers


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_between_training_and_test_a_signal_raises_and_the_handlers_are_put_back(
    number: signal.Signals, handlers: Any
) -> None:
    with (
        pytest.raises(Interrupted, match=f"stopped by {number.name}; go on with: again"),
        interruptible(lambda number: Interrupted(number, "again")),
    ):
        signal.raise_signal(number)
    assert {number: signal.getsignal(number) for number in handlers} == handlers
