"""What a fine-tuning run trains, and on what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.config.schema import FinetuneConfig

if TYPE_CHECKING:
    from datamodules.datamodule import DataModule
    from datamodules.dataset.loaded import Dataset
    from transfer.runs.teacher import Teacher
    from transfer.training.module import TransferModule
    from transfer.weights.start import Start


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
    from transfer.training.losses import balanced_class_weights
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
    options = config.module_options()
    return TransferModule(classifier, class_weights=weights, distillation=distillation, **options)
