"""callbacks.py and checkpointing.py: freezing, averaging, checkpoints, interruption and the log, on runs of seconds."""

from __future__ import annotations

import csv
import errno
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from transfer.errors import RunInterrupted, UserError
from transfer.networks.classifier import Classifier
from transfer.training.batch_norm import BatchNormPolicy
from transfer.training.callbacks import EMA, EpochLog, FinalValidation, FreezeBackbone
from transfer.training.checkpointing import AtomicCheckpointIO, LastCheckpoint
from transfer.training.interruption import GracefulStop
from transfer.training.module import TransferModule

Builder = Callable[..., pl.Trainer]


def copy_state(module: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}


def saved_state(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[int, Any]]:
    """The signal handlers, put back after the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


class Snapshots(pl.Callback):
    """Keeps the module's tensors after every training batch, and raises a signal at one of them."""

    def __init__(self, stop_after: int | None = None, number: int = signal.SIGINT) -> None:
        self.states: list[dict[str, Tensor]] = []
        self.stop_after, self.number = stop_after, number

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.states.append(copy_state(pl_module))
        if len(self.states) == self.stop_after:
            signal.raise_signal(self.number)


def moved(before: dict[str, Tensor], after: dict[str, Tensor], part: str) -> bool:
    """Whether any tensor of a part of the module changed by a bit."""
    return any(not torch.equal(tensor, after[key]) for key, tensor in before.items() if part in key)


def test_a_frozen_backbone_and_its_statistics_stay_to_the_bit_until_its_epoch(
    tiny_classifier: Classifier, random_images: pl.LightningDataModule, build_trainer: Builder
) -> None:
    module, snapshots = TransferModule(tiny_classifier), Snapshots()
    start = copy_state(module)
    build_trainer(FreezeBackbone(2), snapshots, max_epochs=3).fit(module, random_images)
    assert not any(moved(start, state, ".backbone.") for state in snapshots.states[:8])
    assert moved(start, snapshots.states[0], ".head.")
    for part in ("stem.conv.weight", "stem.norm.running_mean", "top.conv.weight"):
        assert moved(start, snapshots.states[8], part)


def test_a_backbone_frozen_for_good_never_moves(
    tiny_classifier: Classifier, random_images: pl.LightningDataModule, build_trainer: Builder
) -> None:
    module = TransferModule(tiny_classifier)
    start = copy_state(module)
    build_trainer(FreezeBackbone(None), max_epochs=2).fit(module, random_images)
    assert not moved(start, copy_state(module), ".backbone.")
    assert moved(start, copy_state(module), ".head.")


def test_a_run_resumed_after_the_epoch_keeps_its_backbone_free(
    tiny_classifier: Classifier, random_images: pl.LightningDataModule, build_trainer: Builder, tmp_path: Path
) -> None:
    module = TransferModule(tiny_classifier)
    build_trainer(FreezeBackbone(1), LastCheckpoint(tmp_path), max_epochs=2).fit(module, random_images)
    start = copy_state(module)
    tiny_classifier.freeze()
    trainer = build_trainer(FreezeBackbone(1), max_epochs=3)
    trainer.fit(module, random_images, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert moved(start, copy_state(module), ".backbone.")
    assert moved(start, copy_state(module), "stem.norm.running_mean")


def interrupted_and_resumed(
    build_module: Callable[[], TransferModule],
    build_callbacks: Callable[[], list[pl.Callback]],
    data: Any,
    build_trainer: Builder,
    folder: Path,
    stop_after: int,
) -> tuple[TransferModule, dict[str, Tensor]]:
    """A module whose run of two epochs was stopped after so many batches and resumed; and its state when it stopped."""
    stopped = build_module()
    callbacks = [*build_callbacks(), Snapshots(stop_after), GracefulStop(folder / "last.ckpt")]
    with pytest.raises(RunInterrupted):
        build_trainer(*callbacks, max_epochs=2).fit(stopped, data)
    state = copy_state(stopped)
    data.train_batches.skip = data.train_batches.yielded = 0
    resumed = build_module().train().requires_grad_(True)  # as a new process finds it
    trainer = build_trainer(*build_callbacks(), max_epochs=2)
    trainer.fit(resumed, data, ckpt_path=folder / "last.ckpt", weights_only=True)
    assert trainer.global_step == 8
    return resumed, state


def test_a_run_resumed_in_mid_epoch_is_still_frozen(
    tiny_classifier: Classifier, random_images: Any, build_trainer: Builder, tmp_path: Path
) -> None:
    resumed, stopped = interrupted_and_resumed(
        lambda: TransferModule(tiny_classifier),
        lambda: [FreezeBackbone(None)],
        random_images,
        build_trainer,
        tmp_path,
        2,
    )
    assert not moved(stopped, copy_state(resumed), ".backbone.")
    assert moved(stopped, copy_state(resumed), ".head.")


def test_a_run_resumed_in_mid_epoch_keeps_frozen_statistics(
    tiny_classifier: Classifier, random_images: Any, build_trainer: Builder, tmp_path: Path
) -> None:
    resumed, stopped = interrupted_and_resumed(
        lambda: TransferModule(tiny_classifier), lambda: [BatchNormPolicy("frozen")], random_images, build_trainer,
        tmp_path, 2,
    )  # fmt: skip
    assert not moved(stopped, copy_state(resumed), "running_")


@pytest.mark.parametrize("stop_after", [2, 4, 5])
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(
    tiny_classifier: Classifier, random_images: Any, build_trainer: Builder, tmp_path: Path, stop_after: int
) -> None:
    start = copy_state(tiny_classifier)

    def build_module() -> TransferModule:
        torch.manual_seed(0)
        tiny_classifier.load_state_dict(start)
        return TransferModule(tiny_classifier, lr=0.05, mixup_alpha=0.2)

    def build_callbacks() -> list[pl.Callback]:
        return [EMA(0.2), BatchNormPolicy("adapt")]

    build_trainer(*build_callbacks(), max_epochs=2).fit(build_module(), random_images)
    expected = copy_state(tiny_classifier)
    resumed, _ = interrupted_and_resumed(
        build_module, build_callbacks, random_images, build_trainer, tmp_path, stop_after
    )
    torch.testing.assert_close(copy_state(resumed.classifier), expected, rtol=0, atol=0)


def test_a_checkpoint_of_another_freeze_is_refused() -> None:
    callback = FreezeBackbone(3)
    with pytest.raises(UserError, match="froze 2 epochs, this one 3"):
        callback.load_state_dict({"frozen": False, "num_epochs": 2})


def test_the_half_life_is_a_share_of_the_run(
    tiny_classifier: Classifier, random_images: pl.LightningDataModule, build_trainer: Builder
) -> None:
    ema = EMA(0.25)
    build_trainer(ema, max_epochs=2).fit(TransferModule(tiny_classifier), random_images)
    assert ema.decay ** (0.25 * 8) == pytest.approx(0.5)


@pytest.mark.parametrize("half_life", [0.0, 1.0, -0.1])
def test_a_half_life_out_of_range_is_refused(half_life: float) -> None:
    with pytest.raises(UserError, match=r"allowed is 0 < ema_half_life < 1"):
        EMA(half_life)


@pytest.mark.parametrize("half_life", [0.05, 0.5])
def test_the_average_is_the_recursion_with_tensorflows_ramp(
    tiny_classifier: Classifier, random_images: Any, build_trainer: Builder, tmp_path: Path, half_life: float
) -> None:
    snapshots = Snapshots()
    module = TransferModule(tiny_classifier, lr=0.05)
    callbacks = [snapshots, EMA(half_life), LastCheckpoint(tmp_path)]
    build_trainer(*callbacks, max_epochs=2).fit(module, random_images)
    decay = 0.5 ** (1 / (half_life * 8))
    average = {k: v.double() for k, v in snapshots.states[0].items()}
    for n, state in enumerate(snapshots.states[1:], start=1):
        share = min(decay, (1 + n) / (10 + n))
        average = {k: share * average[k] + (1 - share) * state[k].double() for k in average}
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    for key, tensor in saved_state(tmp_path / "last.ckpt").items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), average[key], rtol=1e-5, atol=1e-7)
            assert torch.equal(saved["current_model_state"][key], snapshots.states[-1][key])
    torch.testing.assert_close(copy_state(module), saved_state(tmp_path / "last.ckpt"), rtol=0, atol=0)


def test_validation_sees_the_average(
    tiny_classifier: Classifier, random_images: pl.LightningDataModule, build_trainer: Builder, tmp_path: Path
) -> None:
    class Seen(pl.Callback):
        def on_validation_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            self.state = copy_state(pl_module)

    seen, snapshots = Seen(), Snapshots()
    callbacks = [EMA(0.3), seen, snapshots, LastCheckpoint(tmp_path)]
    build_trainer(*callbacks, max_epochs=1).fit(TransferModule(tiny_classifier), random_images)
    torch.testing.assert_close(seen.state, saved_state(tmp_path / "last.ckpt"), rtol=0, atol=0)
    assert moved(seen.state, snapshots.states[-1], "conv.weight")


def read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_log_has_one_row_for_each_validation(
    tiny_classifier: Classifier, random_images: Any, build_trainer: Builder, tmp_path: Path, capsys: Any
) -> None:
    log, module = EpochLog(tmp_path / "metrics.csv"), TransferModule(tiny_classifier, lr=0.05, schedule="constant")
    build_trainer(log, max_epochs=3).fit(module, random_images)
    rows = read_rows(tmp_path / "metrics.csv")
    assert list(rows[0])[:6] == ["epoch", "step", "lr", "train/loss", "train/top1", "val/loss"]
    assert {*list(rows[0])[6:]} == {"val/top1", "val/mean_per_class", "val/ece", "images_per_second"}
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "4"), ("2", "8"), ("3", "12")]
    assert {float(row["lr"]) for row in rows} == {0.05}
    assert len(capsys.readouterr().out.strip().splitlines()) == 3


def test_the_row_holds_the_losses_and_scores_of_its_epoch(
    tiny_classifier: Classifier, random_images: Any, build_trainer: Builder, tmp_path: Path
) -> None:
    class Losses(pl.Callback):
        values: list[float] = []  # noqa: RUF012

        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
            self.values.append(outputs["loss"].item())

    losses, module = Losses(), TransferModule(tiny_classifier, lr=0.05, label_smoothing=0.1)
    build_trainer(EpochLog(tmp_path / "metrics.csv"), losses, max_epochs=2).fit(module, random_images)
    row = read_rows(tmp_path / "metrics.csv")[-1]
    assert float(row["train/loss"]) == pytest.approx(sum(losses.values[4:]) / 4, rel=1e-5)
    with torch.no_grad():
        logits = module.eval()(random_images.images[:12])
    hits = (logits.argmax(1) == random_images.targets[:12]).float().mean().item()
    assert float(row["val/top1"]) == pytest.approx(hits)
    loss = nn.functional.cross_entropy(logits, random_images.targets[:12]).item()
    assert float(row["val/loss"]) == pytest.approx(loss, rel=1e-4)


class TrainAnswers(pl.Callback):
    """Notes what the network says in each training step of the images that it learns from."""

    def __init__(self) -> None:
        self.hits: list[Tensor] = []
        self._targets = torch.empty(0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.classifier.register_forward_hook(
            lambda network, _, logits: self.hits.append(logits.argmax(1) == self._targets) if network.training else None
        )

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._targets = batch[1]


def test_the_accuracy_in_training_is_that_of_the_steps_own_answers(
    tiny_classifier: Classifier, random_images: Any, build_trainer: Builder, tmp_path: Path
) -> None:
    answers, module = TrainAnswers(), TransferModule(tiny_classifier, lr=0.05)
    trainer = build_trainer(EpochLog(tmp_path / "metrics.csv"), answers, max_epochs=2)
    trainer.fit(module, random_images)
    shares = [torch.cat(answers.hits[at : at + 4]).float().mean().item() for at in (0, 4)]
    rows = read_rows(tmp_path / "metrics.csv")
    assert [float(row["train/top1"]) for row in rows] == pytest.approx(shares)
    assert trainer.callback_metrics["train/top1"].item() == pytest.approx(shares[1])


def test_mixed_images_have_no_accuracy_in_training(
    tiny_classifier: Classifier, random_images: Any, build_trainer: Builder, tmp_path: Path
) -> None:
    module = TransferModule(tiny_classifier, mixup_alpha=0.2)
    build_trainer(EpochLog(tmp_path / "metrics.csv"), max_epochs=1).fit(module, random_images)
    assert "train/top1" not in read_rows(tmp_path / "metrics.csv")[0]


@pytest.mark.parametrize("is_old", [False, True])
def test_a_resumed_log_keeps_its_rows_and_drops_those_to_be_repeated(
    tiny_classifier: Classifier, random_images: Any, build_trainer: Builder, tmp_path: Path, is_old: bool
) -> None:
    path, module = tmp_path / "metrics.csv", TransferModule(tiny_classifier)
    build_trainer(EpochLog(path), LastCheckpoint(tmp_path), max_epochs=1).fit(module, random_images)
    first = read_rows(path)
    if is_old:  # a checkpoint of an earlier version leaves the rows to the table
        content = torch.load(tmp_path / "last.ckpt", weights_only=True)
        del content["callbacks"]["EpochLog"]["rows"]
        torch.save(content, tmp_path / "last.ckpt")
        with open(path, "a", encoding="utf-8") as file:
            file.write(",".join(["2", "8", *["9"] * (len(first[0]) - 2)]) + "\n")
    else:
        path.write_text("damaged")
    shown: list[tuple[Mapping[str, float], int]] = []
    trainer = build_trainer(EpochLog(path, show_best=lambda *best: shown.append(best)), max_epochs=2)
    trainer.fit(module, random_images, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    rows = read_rows(path)
    assert [(best["top1"], step) for best, step in shown] == [(max(float(row["val/top1"]) for row in rows), 7)]
    assert rows[:1] == first
    assert [row["step"] for row in rows] == ["4", "8"]
    assert rows[1]["lr"] != "9"


class Pause(pl.Callback):
    """Makes a training batch take 100 ms more, and a validation 200 ms."""

    def on_train_batch_start(self, *_: Any) -> None:
        time.sleep(0.1)

    def on_validation_batch_start(self, *_: Any) -> None:
        time.sleep(0.1)


@pytest.mark.parametrize(
    "options",
    [{}, {"val_check_interval": 2}, {"check_val_every_n_epoch": 2}],
    ids=["epoch", "half epoch", "two epochs"],
)
def test_the_speed_counts_all_training_and_no_validation(
    tiny_classifier: Classifier, random_images: Any, build_trainer: Builder, tmp_path: Path, options: dict[str, Any]
) -> None:
    log = EpochLog(tmp_path / "metrics.csv")
    started = time.perf_counter()
    build_trainer(log, Pause(), max_epochs=2, **options).fit(TransferModule(tiny_classifier), random_images)
    wall = time.perf_counter() - started
    validations = len(read_rows(tmp_path / "metrics.csv"))
    assert log.num_images == 48
    assert 8 * 0.1 <= log.seconds <= wall - 0.2 * validations
    assert log.images_per_second == pytest.approx(48 / log.seconds)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, target)

    def full_disk(checkpoint: object, file: Any) -> None:
        file.write(b"half")
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904  # as torch does it

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left") as error:
        AtomicCheckpointIO().save_checkpoint({"step": 2}, target)
    assert error.value.errno == errno.ENOSPC
    assert torch.load(target, weights_only=True) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"max_epochs": 3, "max_steps": 6}, ["4", "6"]),
        ({"max_epochs": 3, "check_val_every_n_epoch": 2}, ["8", "12"]),
        ({"max_epochs": 2}, ["4", "8"]),
    ],
)
def test_the_end_of_a_run_is_validated_once(
    tiny_classifier: Classifier,
    random_images: pl.LightningDataModule,
    build_trainer: Builder,
    tmp_path: Path,
    options: dict[str, int],
    steps: list[str],
) -> None:
    trainer = build_trainer(FinalValidation(), EpochLog(tmp_path / "metrics.csv"), **options)
    trainer.fit(TransferModule(tiny_classifier), random_images)
    with open(tmp_path / "metrics.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == steps
    assert all(float(row["train/loss"]) > 0 for row in rows)
