"""Fine-tune an EfficientNet: efficientnet-transfer finetune --backbone b7 --dataset flowers

A run writes config.yaml, best.ckpt, last.ckpt, metrics.csv, results.json, report.html and the pictures in it,
report_photos.safetensors, into runs/<data>_<backbone>/<n>/; with a val split calibration.safetensors and
val_predictions.npz, and of few images first_probe.json; with a test split test_reads.json and test_predictions.npz;
held_out.json if val or test was held out of train; lr_find.csv and lr_find.png with --find_lr; tracking.json with
--logger wandb or mlflow.
With --folds and without --fold there is a run for each fold, see `transfer.commands.finetune_folds`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from transfer.commands.console import exit_status
from transfer.config.choices import (
    choose_by_protocol,
    choose_by_rule,
    settle_method,
    settle_recipe,
    settled_fields,
    share_batch,
)
from transfer.config.command_line import build_config, build_parser, given_fields, parse_config
from transfer.config.problems import check_shares
from transfer.config.recipes import allows_user_code, opens_page
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue, UserError
from transfer.files import expanded
from transfer.networks.user_code import is_import_path
from transfer.runs.results import Results

if TYPE_CHECKING:
    from datamodules.dataset.loaded import Dataset
    from datamodules.dataset.sheet import Sheet
    from transfer.commands.finetune_build import Prepared
    from transfer.runs.folder import RunFolder
    from transfer.weights.start import Start

T = TypeVar("T")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    words = sys.argv[1:] if argv is None else argv

    def command() -> None:
        from transfer.commands.finetune_folds import resumed_words, train_folds
        from transfer.commands.next_steps import say_next, say_next_of_run
        from transfer.runs.folder import is_main_process

        argv = resumed_words(words)
        config, resume = parse_config(argv)
        given = given_fields(argv) if resume is None else frozenset()
        if resume is None and config.folds is not None and config.fold is None:
            if opens_page(words):
                raise BadValue("`open` with `folds`: the page is one run's: give `fold`, too, or leave `open` out")
            record = train_folds(config, given, allows_user_code(argv))
            if not is_import_path(config.backbone) and not is_import_path(config.head):  # whose code no bundle holds
                say_next("folds trained", [str(Path(record.folder) / one.run_dir) for one in record.runs])
        else:
            results = _run(config, resume, given, allows_user_code(argv), opens_page(words))
            if is_main_process():
                say_next_of_run(results)

    return exit_status(command, build_parser)


def finetune(
    config: FinetuneConfig | None = None,
    *,
    resume: str | Path | None = None,
    allow_user_code: bool = False,
    **fields: Any,
) -> Results:
    """Fine-tune a network and return the results; `load_run(results.run_dir)` loads the trained network.

    Args:
        config: the whole configuration; None starts from the defaults. It is not modified.
        resume: folder of an interrupted run to continue, or of any run that more epochs or steps lengthen.
        allow_user_code: whether to import a backbone or a head of one's own that the run to continue or the teacher
            names.
        fields: fields of `transfer.config.schema.FinetuneConfig` that override `config`; groups are dictionaries:
            `finetune(dataset="folder", data_root="photos", trainer={"max_epochs": 3})`.

    Raises:
        UserError: the configuration or the data cannot be used; the message says why.
        RunInterrupted: a signal stopped the run, after last.ckpt was written.
    """
    run_dir = None if resume is None else expanded(resume)
    config, given = build_config(config, run_dir, fields, allow_user_code)
    if config.folds is not None and config.fold is None:
        raise BadValue(f"`folds`={config.folds} without `fold`: transfer.finetune_folds trains a network for each fold")
    return _run(config, run_dir, given, allow_user_code)


def _run(
    config: FinetuneConfig, resume: Path | None, given: frozenset[str], allow_user_code: bool, opens: bool = False
) -> Results:
    """Perform one run, from its configuration to results.json, and return the results.

    Args:
        config: the configuration.
        resume: folder of the run to continue.
        given: dotted fields that the user set; `protocol` and `recipe` do not change them.
        allow_user_code: whether to import a backbone or a head of one's own that the teacher names.
        opens: whether to show the run in a browser while it goes on.
    """
    # Imported here so that --help and mistyped flags do not wait for them.
    from datamodules import load_dataset
    from transfer.commands.finetune_build import Prepared, build_data, build_module
    from transfer.commands.finetune_probe import probe_alone
    from transfer.runs.folder import check_run_dir, find_interrupted, open_run
    from transfer.runs.teacher import load_teacher
    from transfer.training.interruption import interruptible
    from transfer.training.selection import choose_monitor
    from transfer.training.trainer import prepare_process
    from transfer.weights.start import resolve_start

    started = time.perf_counter()
    config, start, sheet = check_names(config, given)
    teacher = load_teacher(config, resume, allow_user_code)  # before the seed is set, which it does not move
    check_run_dir(config, resume, settled=settled_fields(config, given))
    num_processes = prepare_process(config)
    dataset = load_dataset(config.dataset, **config.read_options())
    if resume is None:
        config, choices = choose(config, given, start, dataset, num_processes)
        if config.method == "probe":
            return probe_alone(config, dataset, choices, opens)
        resume = find_interrupted(config)
    else:
        config, choices = share_batch(config, given, num_processes)[0], []
    check_shares(config, dataset.split_sizes, num_processes)
    # Again, because what was chosen may be other weights and another size.
    start = resolve_start(**config.start_options(), dataset_size=sheet.default_image_size, image_size=config.image_size)
    monitor = choose_monitor(config.monitor or config.data.metric, dataset.num_classes, config.data.multilabel)
    data = build_data(config, start, dataset)
    module = build_module(config, start, data, teacher, resume)
    prepared = Prepared(config, start, module, data, teacher, choices, monitor, num_processes, started, opens)
    with open_run(config, resume) as run, interruptible(run.interrupted):
        return _perform(prepared, run)


def _perform(prepared: Prepared, run: RunFolder) -> Results:
    """Train and measure in a run's folder, and return the results."""
    from transfer.commands.calibrate import calibrate_run
    from transfer.commands.finetune_fit import fit, measure
    from transfer.commands.finetune_probe import probe_first
    from transfer.commands.finetune_report import collect_results, leave_results, print_start
    from transfer.commands.finetune_tracking import conclude, follow
    from transfer.commands.live_page import live_page
    from transfer.runs.folder import is_main_process
    from transfer.training.callbacks import EpochLog
    from transfer.training.trainer import build_fit_trainer

    config, start, module, data = prepared.config, prepared.start, prepared.module, prepared.data
    run.check_space(sum(p.numel() for p in module.classifier.parameters()))
    with follow(prepared, run) as tracker, live_page(prepared, run) as page:
        log = EpochLog(run.metrics, prepared.monitor, tracker.show_best)
        image_size = start.preprocessing.image_size
        trainer = build_fit_trainer(config, image_size, run.path, log, tracker.loggers, page.callbacks)
        if is_main_process():
            cut = data.dataset.held_out
            run.begin(config, {name: {"of": split.name, "images": split.sources()} for name, split in cut.items()})
            print_start(prepared, run, trainer.precision)
            page.begin()
        first_probe = probe_first(config, run, start, module.classifier, data, prepared.num_processes)
        fit(config, run, trainer, module, data)
        metrics = measure(config, run, trainer, module, data, log)
        calibration = calibrate_run(run, trainer, module, data)
        found = collect_results(prepared, run, trainer, log, metrics)
        results = replace(found, calibration=calibration, first_probe=first_probe)
        if trainer.is_global_zero:
            leave_results(results, config, module.classifier, data)
            conclude(tracker, prepared, results)
        return results


def check_names(config: FinetuneConfig, given: frozenset[str]) -> tuple[FinetuneConfig, Start, Sheet]:
    """Look up all names before anything is loaded.

    Args:
        config: configuration as the user set it.
        given: dotted fields that the user set; a protocol may start from other weights unless `pretrained` is one.

    Returns:
        The configuration with the names that we use, what the network starts from, at its own image size, and the
        dataset's sheet.

    Raises:
        UserError: names are unknown; all are listed.
    """
    from datamodules import get_sheet
    from transfer.config.protocols import get_protocol
    from transfer.networks.heads import get_head
    from transfer.runs.run_start import start_from_run
    from transfer.tracking.registry import check_installed
    from transfer.weights.start import resolve_start

    problems: list[str] = []

    def found(look_up: Callable[[], T]) -> T | None:
        try:
            return look_up()
        except UserError as error:
            problems.append(str(error))
            return None

    config = found(lambda: start_from_run(config)) or config
    protocol = found(lambda: None if config.protocol is None else get_protocol(config.protocol))
    options = config.start_options()
    if protocol is not None and "pretrained" in protocol.settings.keys() - given:
        options["pretrained"] = protocol.settings["pretrained"]
    start = found(lambda: resolve_start(**options))
    sheet = found(lambda: get_sheet(config.dataset))
    found(lambda: get_head(config.head))
    found(lambda: check_installed(config.logger))
    if start is None or sheet is None or problems:
        raise BadValue("\n".join(problems))
    return replace(config, backbone=start.variant.name), start, sheet


def choose(
    config: FinetuneConfig, given: frozenset[str], start: Start, dataset: Dataset, num_processes: int
) -> tuple[FinetuneConfig, list[str]]:
    """Return the configuration with what its protocol, recipe and method choose and its batch divided, and the reasons.

    Args:
        config: configuration as the user set it.
        given: dotted fields that the user set; they stay unchanged.
        start: what the network starts from, at its own image size.
        dataset: the loaded dataset.
        num_processes: number of processes that train together.

    Raises:
        UserError: the choices conflict with what the user set.
    """
    from transfer.runs.run_start import adopt_head

    config, lines = adopt_head(config)
    if config.protocol is not None:
        known = sum(size for name, size in dataset.split_sizes.items() if name != "test")
        trained = dataset.split_sizes["train"]
        config, chosen = choose_by_protocol(config, given, num_images=known, epoch_images=trained)
        lines += chosen
    config, shares = share_batch(config, given, num_processes)
    lines += shares
    num_images, has_weights = dataset.split_sizes["train"], start.row is not None
    config, remarks = settle_recipe(config, given, num_images=num_images, has_weights=has_weights)
    config, reasons = settle_method(
        config, given, num_images=num_images, has_weights=has_weights, num_processes=num_processes
    )
    config, chosen = choose_by_rule(
        config,
        given,
        num_images=num_images,
        is_balanced=dataset.metric == "mean_per_class",
        num_classes=dataset.num_classes,
        short_side=dataset.median_short_side() if config.recipe == "auto" else 0,
        resolution=start.preprocessing.image_size,
        dropout_rate=start.variant.dropout_rate,
        num_processes=num_processes,
    )
    lines += [*remarks, *reasons, *chosen]
    return config, lines
