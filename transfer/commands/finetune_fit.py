"""What takes the time of a fine-tuning run: training, and measuring the best checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue
from transfer.runs.results import Metrics

if TYPE_CHECKING:
    from datamodules.datamodule import DataModule
    from transfer.lightning import pl
    from transfer.runs.folder import RunFolder
    from transfer.training.callbacks import EpochLog
    from transfer.training.module import TransferModule


def fit(config: FinetuneConfig, run: RunFolder, trainer: pl.Trainer, module: TransferModule, data: DataModule) -> None:
    """Train, and load the best checkpoint's tensors into the module.

    Raises:
        UserError: the GPU's memory is too small, or no learning rate was found.
        RunInterrupted: a signal stopped the run, after last.ckpt was written.
    """
    import torch

    from transfer.commands.finetune_rate import find_rate
    from transfer.runs.checkpoint import classifier_state
    from transfer.weights.files import read_checkpoint, strict_load

    try:
        if config.find_lr and not run.last.exists():
            module.lr = find_rate(config, run, module, data)
        trainer.fit(module, data, ckpt_path=run.last if run.last.exists() else None, weights_only=True)
    except torch.OutOfMemoryError:
        raise BadValue(
            f"the GPU's memory is too small for `data.batch_size`={config.data.batch_size} at"
            f" {data.preprocessing.image_size} px: lower it and raise `trainer.accumulate_grad_batches` by the same"
            " factor, or set `grad_checkpointing`=true"
        ) from None
    if config.data.train_on == "trainval" and not run.best.exists():
        trainer.save_checkpoint(run.best)  # a run stopped in its last step has nothing left to train
    best = read_checkpoint(run.best)
    strict_load(module.classifier, classifier_state(best, run.best), source=str(run.best))
    module.classifier.threshold = best.get("threshold")


def measure(
    config: FinetuneConfig,
    run: RunFolder,
    trainer: pl.Trainer,
    module: TransferModule,
    data: DataModule,
    log: EpochLog,
) -> dict[str, Metrics]:
    """Return the metrics of the best checkpoint on val and test, and count the read of the test split."""
    from transfer.commands.finetune_report import save_test_predictions
    from transfer.runs.test_record import count_test_read
    from transfer.training.interruption import StopAtOnce
    from transfer.training.trainer import build_progress, build_trainer

    sizes = data.dataset.split_sizes
    metrics = {"val": Metrics(log.best_metrics())} if "val" in sizes else {}
    if "test" in sizes and config.trainer.limit_test_batches != 0:
        callbacks = [*build_progress(config), StopAtOnce(run.interrupted, trainer)]
        tester = build_trainer(config, [], callbacks, trains=False)
        if tester.is_global_zero:
            count_test_read(run.path)
        logged = tester.test(module, data, verbose=False)[0]
        metrics["test"] = Metrics({name.removeprefix("test/"): value for name, value in logged.items()})
        if tester.is_global_zero:
            save_test_predictions(run, tester, module, data)
    return metrics
