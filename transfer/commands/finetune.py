"""Fine-tune an EfficientNet: efficientnet-transfer finetune --backbone b7 --dataset flowers

Writes config.yaml, best.ckpt, last.ckpt, metrics.csv and results.json to runs/<dataset>_<backbone>/<n>/; with a test
split test_reads.json and test_predictions.npz; and held_out.json, which images were cut from train where the
dataset has no val (your own: or no test) split.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.commands.console import exit_status
from transfer.config.choices import choose_by_protocol, choose_by_rule
from transfer.config.command_line import given_fields, parse_config, save_config
from transfer.config.schema import FinetuneConfig
from transfer.errors import UserError

if TYPE_CHECKING:
    pass


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and gives the exit status."""
    words = sys.argv[1:] if argv is None else argv

    def command() -> None:
        config, resume = parse_config(words)
        finetune(config, resume, given_fields(words) if resume is None else frozenset())

    return exit_status(command)


def finetune(config: FinetuneConfig, resume: Path | None, given: frozenset[str] = frozenset()) -> None:
    """One run from its configuration to results.json.

    Args:
        resume: folder of the run to go on with; None starts a new one.
        given: dotted fields that the user set, and that `--protocol` and `--recipe auto` leave alone.

    Raises:
        UserError: what the user gave cannot work.
        RunInterrupted: stopped by a signal, after last.ckpt was written.
    """
    # Imported here so that --help and a mistyped flag need not wait for them.
    import numpy as np
    import torch

    from datamodules import build_datamodule, get_dataset
    from transfer.environment import environment, peak_memory_bytes
    from transfer.files import write_json
    from transfer.lightning import pl
    from transfer.networks.registry import get_backbone, get_variant
    from transfer.runs.folder import (
        BEST,
        CONFIG,
        HELD_OUT,
        LAST,
        METRICS,
        RESULTS,
        check_disk_space,
        choose_run_dir,
        count_test_read,
        is_main_process,
        load_head,
        num_test_reads,
        read_classifier_state,
        save_predictions,
    )
    from transfer.runs.results import print_results
    from transfer.training.callbacks import EpochLog
    from transfer.training.losses import balanced_class_weights
    from transfer.training.metrics import main_metric
    from transfer.training.module import TransferModule
    from transfer.training.trainer import build_callbacks, build_loggers, build_trainer, find_lr, quiet_lightning
    from transfer.weights.build import build_classifier, preprocessing_for, select_start, warm_start
    from transfer.weights.downloads import starting_point
    from transfer.weights.files import read_checkpoint, strict_load

    started = time.perf_counter()
    if resume is not None and (resume / RESULTS).exists():
        raise UserError(f"{resume} is a finished run (it has {RESULTS}); there is nothing to resume")
    check_names(config)
    variant = get_backbone(config.backbone)
    config = replace(config, backbone=variant.name)
    sheet = get_dataset(config.dataset)
    run_dir = resume or choose_run_dir(config)

    quiet_lightning()
    # Refuses wrong fields before anything is loaded or written.
    num_processes = build_trainer(config, loggers=[], callbacks=[]).world_size
    torch.set_float32_matmul_precision("high")
    pl.seed_everything(config.seed, verbose=False)
    loaded = None
    if resume is None and (config.protocol is not None or config.recipe == "auto"):
        loaded = build_datamodule(config.dataset, **config.data_options())
        loaded.setup()
        choose = choose_by_rule if config.protocol is None else choose_by_protocol
        config, choices = choose(config, given, loaded, num_processes)
        if is_main_process():
            print("\n".join(choices))
    row = select_start(variant, config.pretrained, config.init_from)
    preprocessing = preprocessing_for(variant, row, sheet.default_image_size)
    image_size = config.image_size or preprocessing.image_size
    preprocessing = replace(preprocessing, image_size=image_size)
    data = build_datamodule(config.dataset, **config.data_options(), **asdict(preprocessing))
    if loaded is not None:
        data.adopt(loaded)
    data.setup()

    last = run_dir / LAST
    if last.exists():
        read_checkpoint(last)  # a damaged one is refused before Lightning meets it
    classifier = build_classifier(
        config.backbone, data.num_classes, load_weights=not last.exists(), **config.network_options()
    )
    if config.init_head is not None and not last.exists():
        load_head(classifier, config, data.class_names)
    classifier = classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its types
    balanced = config.loss.class_weights == "balanced"
    class_weights = balanced_class_weights(data.class_counts["train"]) if balanced else None
    module = TransferModule(classifier, class_weights=class_weights, **config.module_options())

    run_dir.mkdir(parents=True, exist_ok=True)
    check_disk_space(run_dir, sum(p.numel() for p in classifier.parameters()))
    if resume is None and is_main_process():
        save_config(config, run_dir / CONFIG)
        held_out = {name: {"of": split.name, "images": split.sources()} for name, split in data.held_out.items()}
        if held_out:
            (run_dir / HELD_OUT).write_text(json.dumps(held_out) + "\n")
    loggers = build_loggers(config, run_dir, data.fingerprint)
    log = EpochLog(run_dir / METRICS)
    callbacks = build_callbacks(config, run_dir, log)
    if loggers:
        callbacks.append(pl.callbacks.LearningRateMonitor("step"))
    trainer = build_trainer(config, loggers, callbacks)
    if trainer.world_size > 1 and config.freeze.startswith("until") and config.trainer.strategy in ("auto", "ddp"):
        # While it is frozen, the backbone's parameters take no part in the backward pass.
        config.trainer.strategy = "ddp_find_unused_parameters_true"
        trainer = build_trainer(config, loggers, callbacks)
    if config.compile:
        classifier.compile()
    weights = starting_point(row, config.weights, get_variant(row.backbone)) if row else None
    started_from = warm_start(get_variant(variant.name), row) if row and config.init_from else None
    if is_main_process():
        start = f"{weights['name']}, trained on {weights['trained_on']}" if weights else "random weights"
        print(f"{variant.name} from {start}; {image_size} px, {data.num_classes} classes, images {data.split_sizes}")
        if started_from:
            print(f"--init_from {config.init_from}: {started_from}")
        if not data.split_sizes.keys() - {"train"}:
            print("nothing will be measured: there is no test split, and a final fit leaves no val split")
    if config.find_lr and resume is None:
        find_lr(config, module, data)
    try:
        trainer.fit(module, data, ckpt_path=last if last.exists() else None, weights_only=True)
    except torch.OutOfMemoryError:
        raise UserError(
            f"the GPU's memory is too small for --data.batch_size {config.data.batch_size} at {image_size} px: lower it"
            " and raise --trainer.accumulate_grad_batches by as much, or set --grad_checkpointing true"
        ) from None

    if config.data.train_on == "trainval" and not (run_dir / BEST).exists():
        trainer.save_checkpoint(run_dir / BEST)  # it was stopped in its last step, and nothing was left to do
    strict_load(classifier, read_classifier_state(run_dir / BEST), source=str(run_dir / BEST))
    metrics = {}
    if "val" in data.split_sizes:
        metrics["val"] = log.best_metrics(main_metric(config.data.multilabel))
    if "test" in data.split_sizes and config.trainer.limit_test_batches != 0:
        tester = build_trainer(config, loggers, callbacks=[])
        if tester.is_global_zero:
            count_test_read(run_dir)
        logged = tester.test(module, data, verbose=False)[0]
        metrics["test"] = {name.removeprefix("test/"): value for name, value in logged.items()}
    if not trainer.is_global_zero:
        return
    if module.predictions is not None and len(module.predictions) == data.split_sizes["test"]:
        save_predictions(run_dir, module.predictions[np.argsort(data.test_order(trainer.world_size))])
    per_class = {
        name: accuracy if count else None
        for name, accuracy, count in zip(
            data.class_names, module.per_class_accuracy, data.class_counts.get("test", []), strict=False
        )
    }
    write_json(
        run_dir / RESULTS,
        {
            "command": sys.argv,
            "dataset": config.dataset,
            "backbone": variant.name,
            "metrics": metrics,
            "quoted_metric": sheet.metric,
            "per_class_accuracy": per_class,
            "test_reads": num_test_reads(run_dir),
            "seed": config.seed,
            "lr": trainer.optimizers[0].param_groups[-1]["initial_lr"],
            "weights": weights,
            "warm_start": asdict(started_from) if started_from else None,
            "num_parameters": sum(p.numel() for p in classifier.parameters()),
            "image_size": image_size,
            "splits": {
                name: {
                    "size": size,
                    "fingerprint": data.fingerprint[name],
                    "class_counts": data.class_counts[name],
                }
                for name, size in data.split_sizes.items()
            },
            "skipped_images": [asdict(image) for image in data.skipped],
            "tested_images": None if module.predictions is None else len(module.predictions),
            "decay": data.decay,
            "copy": data.known_copy,
            "train_seconds": round(log.seconds, 2),
            "wall_seconds": round(time.perf_counter() - started, 2),
            "images_per_second": log.images_per_second and round(log.images_per_second, 1),
            "precision": trainer.precision,
            "world_size": trainer.world_size,
            "peak_memory_bytes": peak_memory_bytes(),
            "resumed": resume is not None,
            "config": config.to_dict(),
            **environment(),
        },
    )
    print_results(config.dataset, variant.name, metrics, sheet.metric)
    for missing in data.decay.values():
        print(f"on {missing}: not comparable with published results")
    if data.known_copy:
        print(f"data: {data.known_copy}")
    print(f"training {log.seconds:.0f} s, {log.images_per_second or 0:.0f} images/s; results in {run_dir / RESULTS}")


def check_names(config: FinetuneConfig) -> None:
    """Looks all names up before anything is loaded.

    Raises:
        UserError: all unknown names at once.
    """
    from datamodules import get_dataset
    from transfer.config.protocols import get_protocol
    from transfer.networks.heads import get_head
    from transfer.networks.registry import get_backbone
    from transfer.weights.build import select_start

    problems = []
    for look_up in (
        lambda: select_start(get_backbone(config.backbone), config.pretrained, config.init_from),
        lambda: get_dataset(config.dataset),
        lambda: get_head(config.head),
        lambda: config.protocol and get_protocol(config.protocol),
    ):
        try:
            look_up()
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
