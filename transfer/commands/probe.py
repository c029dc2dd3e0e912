"""Linear probe of a frozen EfficientNet: efficientnet-transfer probe --backbone b0 --dataset pets

Computes the features once, into a file that later probes read. Writes config.yaml, best.ckpt (which evaluate,
predict and `init_head` of finetune take), results.json, calibration.safetensors, val_predictions.npz, test_reads.json,
test_predictions.npz, report.html and its pictures, report_photos.safetensors, to runs/<data>_<backbone>_probe/<n>/.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import yaml

from transfer.commands.console import exit_status
from transfer.commands.next_steps import say_next
from transfer.config.command_line import build_probe_parser, parse_probe_config
from transfer.config.probe_schema import ProbeConfig
from transfer.config.schema import FinetuneConfig
from transfer.errors import BadValue, UserError
from transfer.files import expanded, write_text
from transfer.inference.names import check_engine
from transfer.run_files import CALIBRATION, PREDICTIONS, PROBE
from transfer.runs.results import Results, last_results, read_results

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from datamodules.datamodule import DataModule
    from datamodules.dataset.loaded import Dataset
    from transfer.networks.classifier import Classifier
    from transfer.probe.cross_validation import ChosenHead
    from transfer.probe.features import Features
    from transfer.probe.linear import Probe
    from transfer.runs.folder import RunFolder
    from transfer.weights.start import Start


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    words = sys.argv[1:] if argv is None else argv

    def command() -> None:
        if (results := probe(*parse_probe_config(words))) is not None:
            say_next("trained", results.run_dir)

    return exit_status(command, build_probe_parser)


def probe(
    config: FinetuneConfig, own: ProbeConfig, dataset: Dataset | None = None, choice: ChosenHead | None = None
) -> Results | None:
    """Fit a linear probe, leave its files in a run's folder, print its results, and return them in the first process.

    Args:
        config: a run's configuration, of which a probe uses PROBE_FIELDS and PROBE_TRAINER_FIELDS.
        own: the fields that only a probe has.
        dataset: what `config` describes, if it has been read.
        choice: the head to fit, if it has been chosen.

    Raises:
        UserError: what the user gave cannot work.
    """
    # Imported here so that --help and a mistyped flag need not wait for them.
    import torch

    from datamodules import load_dataset
    from datamodules.datamodule import DataModule
    from transfer.commands.probe_features import extract
    from transfer.commands.probe_report import collect_results, leave_results, measure_neighbours, measure_test
    from transfer.probe.fabric import build_fabric
    from transfer.probe.logit_adjustment import is_adjusted
    from transfer.runs.folder import check_run_dir, open_run

    started = time.perf_counter()
    check_engine(own.engine)
    config, start = choose_start(config)
    check_run_dir(config, None, kind="_probe")
    fine_tuned = find_fine_tuned(config, own)
    dataset = dataset or load_dataset(config.dataset, **config.read_options())
    # Processes that Fabric starts inherit the folder.
    with open_run(config, None, kind="_probe") as run:
        fabric = build_fabric(config.trainer)
        torch.manual_seed(config.seed)
        augment = config.augment if own.views > 1 else "none"
        data = DataModule(dataset, start.preprocessing, **{**config.loader_options(), "augment": augment})
        classifier = build_network(config, start, dataset, fabric)
        if fabric.global_rank == 0:
            begin(run, config, own, start, data)
        features, files, record = extract(config, own, data, classifier, fabric)
        if record is None:
            return None
        extracted = time.perf_counter() - started
        adjusts = is_adjusted(own.logit_adjustment, dataset.metric)
        found = fit(features, dataset, fabric, choice, widths_of(classifier, own), adjusts)
        seconds = {"extract": extracted, "fit": time.perf_counter() - started - extracted}
        features = {name: [view.leading(found.num_features) for view in views] for name, views in features.items()}
        config = set_head(run, config, classifier, found.num_features)
        results = replace(
            collect_results(config, own, run.path, start, dataset, found, files, record, seconds),
            calibration=save_probe(run, classifier.cpu(), found, features["val"][0], data),
            **measure_test(run.path, found, features.get("test", ()), data),
            neighbours=measure_neighbours(features, dataset.num_classes, found.fit.weight.device),
            num_parameters=sum(p.numel() for p in classifier.parameters()),
            wall_seconds=round(time.perf_counter() - started, 2),
            world_size=fabric.world_size,
        )
        leave_results(results, fine_tuned, config, classifier, found, data)
        return results


def choose_start(config: FinetuneConfig) -> tuple[FinetuneConfig, Start]:
    """Return what the probe starts from (the network, its weights, how its images are prepared), named as we do.

    Raises:
        BadValue: an unknown name, or a function of the user's own, of which no trained weights are known.
    """
    from datamodules import get_sheet
    from transfer.networks.user_code import is_import_path
    from transfer.runs.run_start import start_from_run
    from transfer.weights.start import resolve_start

    config = start_from_run(config)
    if is_import_path(config.backbone):
        raise BadValue(
            f"`backbone`={config.backbone}: a probe reads the features of trained weights, and none are known here of a"
            " function of your own (allowed: a backbone of the tables)"
        )
    start = resolve_start(
        config.backbone,
        config.pretrained,
        weights=config.weights,
        dataset_size=get_sheet(config.dataset).default_image_size,
        image_size=config.image_size,
    )
    return replace(config, backbone=start.variant.name), start


def build_network(config: FinetuneConfig, start: Start, dataset: Dataset, fabric: Fabric) -> Classifier:
    """Return the frozen network with a linear head for all features that it may see, on this process's device."""
    import torch

    from transfer.weights.build import classifier_from

    options = {**config.network_options(), "head": "stages"}
    classifier = classifier_from(start, dataset.num_classes, class_names=dataset.class_names, **options).eval()
    return classifier.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its types


def widths_of(classifier: Classifier, own: ProbeConfig) -> list[int]:
    """Return how many of the features a head may see, fewest first."""
    last, every = classifier.backbone.num_map_channels, classifier.num_features
    return {"last": [last], "stages": [every], "auto": [last, every]}[own.features]


def set_head(run: RunFolder, config: FinetuneConfig, classifier: Classifier, num_features: int) -> FinetuneConfig:
    """Give the network a linear head that sees so many features; return the configuration with it, as it is written."""
    head = "stages" if num_features > classifier.backbone.num_map_channels else "linear"
    classifier.reset_head(classifier.num_classes, head, class_names=classifier.class_names)
    config = replace(config, head=head)
    run.begin(config, {})
    return config


def begin(run: RunFolder, config: FinetuneConfig, own: ProbeConfig, start: Start, data: DataModule) -> None:
    """Write what the run starts with, and print whose features are fitted."""
    from transfer.commands.finetune_report import warn_of_seen_images
    from transfer.weights.seen import read_seen_images

    dataset = data.dataset
    data.seen_before = read_seen_images(config.weights)
    warn_of_seen_images(data)

    for stale in (run.best, run.path / PREDICTIONS, run.path / CALIBRATION):  # of a probe that was killed here
        stale.unlink(missing_ok=True)
    write_text(run.path / PROBE, yaml.safe_dump(asdict(own), sort_keys=False))
    run.begin(config, {})
    print(dataset.describe())
    print(f"{start.variant.name} from {start.describe()}; {start.preprocessing.image_size} px")


def fit(
    features: Mapping[str, Sequence[Features]],
    dataset: Dataset,
    fabric: Fabric,
    choice: ChosenHead | None = None,
    widths: Sequence[int] = (),
    logit_adjustment: bool = False,
) -> Probe:
    """Return the fit to the features of train and val, computed on the process's GPU or on the CPU.

    Args:
        features: of each view of train and val.
        dataset: the images.
        fabric: launched.
        choice: the head to fit, if it has been chosen; it says whether it is adjusted.
        widths: numbers of leading features to compare; empty: all of them.
        logit_adjustment: whether the head is adjusted by the class shares of the images.
    """
    import torch

    from transfer.probe.linear import fit_choice, fit_probe

    # MPS has no float64.
    device = fabric.device if fabric.device.type == "cuda" else torch.device("cpu")
    if choice is not None:
        return fit_choice(features["train"], features["val"][0], dataset.num_classes, choice, device)
    classes, metric, groups = dataset.num_classes, dataset.metric, dataset.split("train").groups
    return fit_probe(features["train"], features["val"][0], classes, metric, device, groups, widths, logit_adjustment)


def save_probe(
    run: RunFolder, classifier: Classifier, found: Probe, val: Features, data: DataModule
) -> dict[str, Any] | None:
    """Write the network with the head that was found, and its calibration, whose summary is returned.

    The checkpoint names the images of val, too, as trained on: the head was fitted to them.
    """
    from transfer.commands.calibrate import calibrate_probe
    from transfer.runs.checkpoint import save_classifier
    from transfer.seen_images import KEY, SeenImages

    classifier.head.load_state_dict(found.fit.state_dict())
    seen = data.seen_images() | SeenImages.of(data.dataset.split("val").ids())
    save_classifier(run.best, classifier, {**data.state_dict(), KEY: seen.to_text()})
    return calibrate_probe(run, classifier, found, val, data)


def find_fine_tuned(config: FinetuneConfig, own: ProbeConfig) -> Results | None:
    """Return the results of the fine-tuned run that stands beside the probe: `beside`, or the last one of its data.

    Raises:
        MissingData: `beside` is not a finished run.
    """
    from transfer.runs.names import numbered_runs

    beside = expanded(own.beside) if own.beside else last_results(numbered_runs(config))
    if beside is None:
        return None
    try:
        found = read_results(beside)
        return found if own.beside or _has_same_data(found, config) else None
    except UserError as error:
        if own.beside is None:
            warnings.warn(f"{beside} does not stand beside the probe: {error}", stacklevel=2)
            return None
        raise type(error)(f"`beside`={beside}: no finished run there ({error})") from None


def _has_same_data(found: Results, config: FinetuneConfig) -> bool:
    """Return whether a run is of the same dataset; folders of one's own may have the same name in different places."""
    before, now = found.config.get("data_root"), config.data_root
    if found.dataset != "folder" or before is None or now is None:
        return found.dataset == config.dataset
    return config.dataset == "folder" and expanded(before).resolve() == expanded(now).resolve()
