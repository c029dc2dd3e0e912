"""The linear probe that a fine-tuning of few images begins with: what the frozen network reaches in seconds."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from transfer.config.auto import FEW_IMAGES
from transfer.config.probe_schema import ProbeConfig
from transfer.config.schema import FinetuneConfig
from transfer.errors import MissingData
from transfer.files import read_object, write_json
from transfer.records import checked
from transfer.run_files import FIRST_PROBE, REPORT
from transfer.runs.results import FirstProbe, Metrics, Results

if TYPE_CHECKING:
    from datamodules.datamodule import DataModule
    from datamodules.dataset.loaded import Dataset
    from transfer.networks.classifier import Classifier
    from transfer.probe.linear import Probe
    from transfer.runs.folder import RunFolder
    from transfer.weights.start import Start


def probe_first(
    config: FinetuneConfig, run: RunFolder, start: Start, classifier: Classifier, data: DataModule, num_processes: int
) -> FirstProbe | None:
    """Fit a linear probe to the network that a run starts with, and print and keep what it reaches.

    The method `lpft` starts from its head. Nothing else changes, random states included. A run that was interrupted
    has done it before.

    Returns:
        What the probe reaches; None of a run that begins without one, see `begins_with_probe`.

    Raises:
        UserError: under `lpft`, the features cannot be computed.
    """
    from transfer.runs.predictor import warn_of_moving_statistics

    path = run.path / FIRST_PROBE
    if run.last.exists():
        return checked(read_object(path), FirstProbe, path) if path.exists() else None
    takes_head = config.method == "lpft" and config.init_head is None
    if not takes_head and not begins_with_probe(config, start, data, num_processes):
        return None
    started = time.perf_counter()
    try:
        found, metrics, engine = _fit(config, classifier, data, exact=takes_head)
    except (MissingData, OSError) as error:  # the features' folder cannot be written
        if takes_head:
            raise
        warnings.warn(f"no linear probe first: {error}", stacklevel=2)
        return None
    if takes_head:
        classifier.head.load_state_dict(found.train_fit.state_dict())
        warn_of_moving_statistics(config, "`method`=lpft")
    seconds, adjusted = round(time.perf_counter() - started, 1), found.logit_adjustment
    first = FirstProbe(
        penalty=found.penalty, metrics=metrics, engine=engine, seconds=seconds, logit_adjustment=adjusted
    )
    write_json(path, asdict(first))
    metric = data.dataset.metric
    how = f"{seconds:.1f} s{', with logit adjustment' if adjusted else ''}"
    print(f"linear probe first: val {metric} {metrics[metric]:.2%} ({how})", flush=True)
    return first


def begins_with_probe(config: FinetuneConfig, start: Start, data: DataModule, num_processes: int) -> bool:
    """Return whether a run begins with a probe that it can be compared with.

    It has few training images with one label each, all of which it trains on in one process, a val split that it
    measures, and trained weights. It is no trial of a search: these leave test unread, and nobody reads their output.
    """
    sizes, trainer = data.dataset.split_sizes, config.trainer
    is_part = trainer.limit_train_batches is not None or trainer.limit_val_batches is not None
    is_trial = trainer.limit_test_batches == 0
    return (
        sizes["train"] <= FEW_IMAGES
        and "val" in sizes
        and start.row is not None
        and num_processes == 1
        and not (config.data.multilabel or config.data.stream or is_part or is_trial or trainer.overfit_batches)
    )


def _fit(
    config: FinetuneConfig, classifier: Classifier, data: DataModule, *, exact: bool
) -> tuple[Probe, Metrics, str]:
    """Return the probe, its metrics on val, and the engine that computed the features. Test is not read.

    It sees what the run's head sees and is adjusted as the run's loss is, if it is `exact`; else it takes what predicts
    better, and the adjustment of the data's metric, as the command `probe` does.

    Args:
        config: the run's configuration.
        classifier: the network, which stays as it is.
        data: the images.
        exact: whether the features are those of training, to the digit, on whatever machine.
    """
    from transfer.commands.probe import fit, widths_of
    from transfer.commands.probe_features import extract
    from transfer.lightning import pl
    from transfer.networks.heads import pooled_stages
    from transfer.probe.fabric import build_fabric
    from transfer.probe.linear import linear_metrics
    from transfer.probe.logit_adjustment import is_adjusted

    own = ProbeConfig(engine="torch", feature_dtype="float32") if exact else ProbeConfig()
    with pl.utilities.seed.isolate_rng():
        fabric = build_fabric(replace(config.trainer, strategy="auto"))
        modes = {module: module.training for module in classifier.modules()}
        network = classifier.eval().to(fabric.device)
        network.backbone.set_pooled_stages(pooled_stages(config.head if exact else "stages"))
        try:
            features, _, record = extract(config, own, data, network, fabric, ("train", "val"))
            widths = () if exact else widths_of(network, own)
        finally:
            classifier.cpu()
            classifier.backbone.set_pooled_stages(pooled_stages(config.head))
            for module, mode in modes.items():
                module.training = mode
        adjusts = config.loss.logit_adjustment if exact else is_adjusted("auto", data.dataset.metric)
        found = fit(features, data.dataset, fabric, widths=widths, logit_adjustment=adjusts)
    assert record is not None
    val = features["val"][0].leading(found.num_features)
    return found, Metrics(linear_metrics(found.train_fit, val)), record.engine


def probe_alone(config: FinetuneConfig, dataset: Dataset, choices: Sequence[str], opens: bool) -> Results:
    """Print what was chosen, fit a linear probe in place of training, open its page if asked, and return its results.

    Raises:
        UserError: what the user gave cannot work.
    """
    from transfer.commands.live_page import open_page
    from transfer.commands.probe import probe

    print(*choices, sep="\n", flush=True)
    results = probe(config, ProbeConfig(), dataset)
    assert results is not None  # there is one process
    if opens and (page := results.run_dir / REPORT).exists():
        open_page(page)
    return results


def ends_below_probe(results: Results) -> bool:
    """Return whether a run is worse on val than the linear probe that it began with."""
    first, metric = results.first_probe, results.quoted_metric
    return first is not None and results.val[metric] < first.metrics[metric]


def print_comparison(results: Results) -> None:
    """Print what the probe at a run's beginning reached on val and what the run did, and warn if that is less."""
    first, metric = results.first_probe, results.quoted_metric
    if first is None:
        return
    tuned, probed, images = results.val[metric], first.metrics[metric], results.splits["val"].size
    print(f"{metric} on {images} val images: fine-tuned {tuned:.2%}, linear probe of the frozen network {probed:.2%}")
    if ends_below_probe(results):
        advice = "" if results.config["method"] == "lpft" else ", and `method`=lpft starts from it"
        warnings.warn(
            f"fine-tuning ended below the linear probe, {tuned:.2%} against {probed:.2%} on val: efficientnet-transfer"
            f" probe makes that network in seconds{advice}",
            stacklevel=2,
        )
