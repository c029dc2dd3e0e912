"""What a fine-tuning run trains, and on what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.config.schema import FinetuneConfig

if TYPE_CHECKING:
    from datamodules.datamodule import DataModule
    from datamodules.dataset.loaded import Dataset
    from transfer.runs.teacher import Teacher
    from transfer.training.module import TransferModule
    from transfer.weights.start import Start


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to train, before it has a folder.

    Attributes:
        config: the configuration with everything chosen.
        start: what the network starts from.
        module: the network and how it is trained.
        data: the data.
        teacher: the run whose answers it learns from, too.
        choices: why the configuration is as it is, in lines.
        monitor: name of the metric on val that chooses the best checkpoint.
        num_processes: number of processes that train together.
        started: when the command started, by `time.perf_counter`.
        opens: whether the user sees the run in a browser while it goes on.
    """

    config: FinetuneConfig
    start: Start
    module: TransferModule
    data: DataModule
    teacher: Teacher | None
    choices: Sequence[str]
    monitor: str
    num_processes: int
    started: float
    opens: bool


def build_data(config: FinetuneConfig, start: Start, dataset: Dataset) -> DataModule:
    """Return the loaders, which know on which images the networks were trained that the run starts or learns from."""
    from datamodules.datamodule import DataModule
    from transfer.weights.seen import read_seen_images

    data = DataModule(dataset, start.preprocessing, progressive=config.progressive, **config.loader_options())
    data.seen_before = read_seen_images(config.weights, config.init_from, config.init_head, config.teacher)
    return data


def build_module(
    config: FinetuneConfig, start: Start, data: DataModule, teacher: Teacher | None, resume: Path | None
) -> TransferModule:
    """Return the module to train; a resumed run with a checkpoint loads no other weights.

    Raises:
        UserError: the weights are unavailable, the checkpoint is damaged, or the head of `init_head` or the teacher
            does not fit.
    """
    import torch

    from transfer.runs.folder import RunFolder
    from transfer.runs.predictor import load_head
    from transfer.runs.run_start import head_source
    from transfer.training.losses import balanced_class_weights, log_class_shares
    from transfer.training.module import TransferModule
    from transfer.weights.build import classifier_from
    from transfer.weights.files import read_checkpoint

    dataset = data.dataset
    distillation = None if teacher is None else teacher.distillation(config, data.class_names, data.preprocessing)
    last = None if resume is None else RunFolder(resume).last
    continues = False
    if last is not None and last.exists():
        continues = True
        read_checkpoint(last)  # reports a damaged checkpoint before Lightning reads it
    classifier = classifier_from(
        start,
        dataset.num_classes,
        class_names=dataset.class_names,
        load_weights=not continues,
        **config.network_options(),
    )
    if not continues and (head := head_source(config, dataset.class_names)):
        load_head(classifier, replace(config, init_head=head), dataset.class_names)
    classifier = classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its types
    if config.compile:
        classifier.compile(dynamic=None if config.progressive is None else False)
    weights = None if config.loss.class_weights == "none" else balanced_class_weights(dataset.class_counts["train"])
    adjustment = log_class_shares(dataset.class_counts["train"]) if config.loss.logit_adjustment else None
    return TransferModule(
        classifier,
        class_weights=weights,
        logit_adjustment=adjustment,
        distillation=distillation,
        **config.module_options(),
    )
