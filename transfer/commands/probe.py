"""Linear probe of a frozen EfficientNet: efficientnet-transfer probe --backbone b0 --dataset pets

Computes the features once, into a file that later probes read. Writes config.yaml, best.ckpt (which evaluate,
predict and --init_head of finetune take), results.json, test_reads.json and test_predictions.npz to
runs/<dataset>_<backbone>_probe/<n>/.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer.commands.console import exit_status
from transfer.config.command_line import parse_probe_config, save_config
from transfer.config.schema import FinetuneConfig, ProbeConfig
from transfer.errors import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from datamodules.datamodule import DataModule
    from transfer.networks.classifier import Classifier
    from transfer.probe.features import Features


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and gives the exit status."""
    return exit_status(lambda: probe(*parse_probe_config(sys.argv[1:] if argv is None else argv)))


def probe(config: FinetuneConfig, own: ProbeConfig) -> None:
    """One probe from its configuration to results.json.

    Raises:
        UserError: what the user gave cannot work.
    """
    # Imported here so that --help and a mistyped flag need not wait for them.
    import torch

    from datamodules import get_sheet, load_dataset
    from datamodules.datamodule import DataModule
    from transfer.commands.results_table import print_results
    from transfer.environment import environment
    from transfer.files import write_json
    from transfer.networks.function import FunctionVariant
    from transfer.networks.registry import get_backbone
    from transfer.probe.penalties import fit_probe, linear_metrics, predict
    from transfer.runs.folder import CONFIG, open_run
    from transfer.runs.predictor import save_classifier
    from transfer.runs.results import RESULTS, last_results
    from transfer.runs.test_record import count_test_read, num_test_reads, save_predictions
    from transfer.training.checkpointing import BEST
    from transfer.training.metrics import build_per_class_accuracy
    from transfer.training.trainer import resolve_precision
    from transfer.weights.build import classifier_from
    from transfer.weights.start import resolve_start

    started = time.perf_counter()
    variant = get_backbone(config.backbone)
    if isinstance(variant, FunctionVariant):
        raise UserError(
            f"--backbone {variant.name}: a probe reads the features of trained weights, and none are known here of a"
            " function of your own (allowed: a backbone of the tables)"
        )
    config = replace(config, backbone=variant.name)
    sheet = get_sheet(config.dataset)
    start = resolve_start(
        config.backbone,
        config.pretrained,
        weights=config.weights,
        dataset_size=sheet.default_image_size,
        image_size=config.image_size,
    )
    run_dir = open_run(config, None, kind="_probe").path
    beside = Path(own.beside, RESULTS) if own.beside else last_results(Path("runs", f"{config.dataset}_{variant.name}"))
    fine_tuned = None if beside is None else read_results(beside)

    precision = resolve_precision(config.trainer)
    fabric = build_fabric(config, precision)
    torch.manual_seed(config.seed)
    image_size = start.preprocessing.image_size
    dataset = load_dataset(config.dataset, **config.read_options())
    data = DataModule(dataset, start.preprocessing, **{**config.loader_options(), "augment": "none"})
    classifier = classifier_from(
        start, dataset.num_classes, class_names=dataset.class_names, **config.network_options()
    )
    classifier = classifier.to(fabric.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]  # missing in its types
    if fabric.global_rank == 0:
        print(
            f"{variant.name} from {start.describe()}; {image_size} px, {dataset.num_classes} classes, images"
            f" {dataset.split_sizes}"
        )
        run_dir.mkdir(parents=True, exist_ok=True)
        save_config(config, run_dir / CONFIG)
        if "test" in dataset.split_sizes:
            count_test_read(run_dir)

    features, files = extract(config, own, data, classifier, fabric, precision)
    if fabric.global_rank > 0:
        return
    extracted = time.perf_counter()
    # MPS has no float64.
    device = fabric.device if fabric.device.type == "cuda" else torch.device("cpu")
    found = fit_probe(features["train"], features["val"], dataset.num_classes, sheet.metric, device)
    fit_seconds = time.perf_counter() - extracted
    metrics = {"val": found.val_metrics[found.penalty]}
    per_class = {}
    if "test" in features:
        metrics["test"] = linear_metrics(found.fit, features["test"])
        predictions = predict(found.fit, features["test"])
        save_predictions(run_dir, predictions.numpy())
        accuracies = build_per_class_accuracy(dataset.num_classes, multilabel=False)(
            predictions[:, 1], predictions[:, 0]
        )
        per_class = {
            name: accuracy if count else None
            for name, accuracy, count in zip(
                dataset.class_names, accuracies.tolist(), dataset.class_counts["test"], strict=True
            )
        }
    classifier = classifier.cpu()
    classifier.head.load_state_dict({"fc.weight": found.fit.weight, "fc.bias": found.fit.bias})
    save_classifier(run_dir / BEST, classifier, data.state_dict())
    write_json(
        run_dir / RESULTS,
        {
            "command": sys.argv,
            "protocol": "linear probe",
            "dataset": config.dataset,
            "backbone": variant.name,
            "metrics": metrics,
            "quoted_metric": sheet.metric,
            "per_class_accuracy": per_class,
            "penalty": found.penalty,
            "val_metrics": [{"penalty": penalty, **values} for penalty, values in found.val_metrics.items()],
            "test_reads": num_test_reads(run_dir),
            "seed": config.seed,
            "weights": start.provenance(),
            "num_parameters": sum(p.numel() for p in classifier.parameters()),
            "image_size": image_size,
            "splits": {
                name: {
                    "size": size,
                    "fingerprint": dataset.fingerprint[name],
                    "class_counts": dataset.class_counts[name],
                    "features": str(files[name]),
                }
                for name, size in dataset.split_sizes.items()
            },
            "skipped_images": [asdict(image) for image in dataset.skipped],
            "decay": dataset.decay,
            "copy": dataset.known_copy,
            "extract_seconds": round(extracted - started, 2),
            "fit_seconds": round(fit_seconds, 2),
            "passes": found.passes,
            "wall_seconds": round(time.perf_counter() - started, 2),
            "precision": precision,
            "world_size": fabric.world_size,
            "config": {**config.to_dict(), **asdict(own)},
            **environment(),
        },
    )
    print_results(config.dataset, f"linear probe of {variant.name}", metrics, sheet.metric)
    if fine_tuned is not None and "test" in metrics:
        print(compare(fine_tuned, metrics["test"], sheet.metric, dataset.fingerprint["test"], str(beside)))
    for missing in dataset.decay.values():
        print(f"on {missing}: not comparable with published results")
    print(
        f"penalty {found.penalty:.3g} of {len(found.val_metrics)}; features {extracted - started:.0f} s, fits"
        f" {fit_seconds:.0f} s; results in {run_dir / RESULTS}"
    )


def build_fabric(config: FinetuneConfig, precision: Any) -> Fabric:
    """Lightning's Fabric on the devices of the configuration, launched.

    Raises:
        UserError: Lightning refuses a field.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    from transfer.training.trainer import quiet_lightning

    quiet_lightning()
    trainer = config.trainer
    try:
        fabric = Fabric(
            accelerator=trainer.accelerator,
            devices=trainer.devices,
            num_nodes=trainer.num_nodes,
            strategy=trainer.strategy,
            precision=precision,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(f"--trainer: {error}") from None
    fabric.launch()
    return fabric


def extract(
    config: FinetuneConfig,
    own: ProbeConfig,
    data: DataModule,
    classifier: Classifier,
    fabric: Fabric,
    precision: Any,
) -> tuple[dict[str, Features], dict[str, Path]]:
    """The features of every split, prepared as in evaluation, and their files."""
    from datamodules.loading.cache import default_cache_dir
    from transfer.probe.features import backbone_digest, cached_features, feature_file

    folder = Path(config.data.cache_dir).expanduser() if config.data.cache_dir else default_cache_dir()
    settings = asdict(data.preprocessing)
    digest = backbone_digest(classifier)
    features, files = {}, {}
    for name, split in data.dataset.splits.items():
        data.test_split = name
        files[name] = feature_file(
            folder,
            f"{config.dataset}-{name}-{config.backbone}-{data.preprocessing.image_size}",
            own.feature_dtype,
            digest,
            split.ordered_fingerprint(),
            settings,
            precision,
        )
        features[name] = cached_features(
            files[name], len(split), own.feature_dtype, classifier, data.test_dataloader, data.normalize, fabric
        )
    data.test_split = "test"
    return features, files


def read_results(path: Path) -> dict[str, Any]:
    """The results of a finished run.

    Raises:
        UserError: there are none.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        raise UserError(f"--beside {path.parent}: no finished run there (no {path.name} that can be read)") from None


def compare(
    fine_tuned: Mapping[str, Any], probe: Mapping[str, float], metric: str, fingerprint: str, source: str
) -> str:
    """The line that sets a fine-tuned run's accuracy beside the probe's."""
    tested = fine_tuned["metrics"].get("test")
    if tested is None or metric not in tested:
        return f"fine-tuned: {source} has no test {metric}"
    test = fine_tuned["splits"]["test"]["fingerprint"]
    other = "" if test == fingerprint else " on other test images"
    return (
        f"test {metric}: probe {100 * probe[metric]:.2f}%, fine-tuned {100 * tested[metric]:.2f}%"
        f" at {fine_tuned['image_size']} px{other} ({source})"
    )
