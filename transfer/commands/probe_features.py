"""The features that a linear probe is fitted to: which engine computes them, and the files that hold them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.config.probe_schema import ProbeConfig
from transfer.config.schema import FinetuneConfig
from transfer.files import default_cache_dir, expanded

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from datamodules.datamodule import DataModule
    from transfer.inference.engines import Engine, EngineRecord
    from transfer.networks.classifier import Classifier
    from transfer.probe.features import Features


def start_engine(
    name: str, data: DataModule, classifier: Classifier, fabric: Fabric
) -> tuple[Engine, EngineRecord | None]:
    """Return the engine of a name that computes pooled features on this process's device.

    Args:
        name: `auto` or an engine. `auto` compares them on val, in the first process, whose choice all take.
        data: the images.
        classifier: in eval mode, on the device of `fabric`.
        fabric: launched.

    Returns:
        The engine, and in the first process how it was chosen.
    """
    from transfer.inference.engines import build_engine, choose_engine
    from transfer.inference.names import num_examples
    from transfer.probe.network import PooledFeatures

    network = PooledFeatures(classifier).eval()
    examples = data.normalize(data.eval_dataloader("val").examples(num_examples(name)).to(fabric.device))
    if fabric.global_rank > 0:
        return build_engine(fabric.broadcast(""), network, examples), None
    engine, record = choose_engine(name, network, examples, sum(data.dataset.split_sizes.values()))
    fabric.broadcast(engine.name)
    return engine, record


def extract(
    config: FinetuneConfig,
    own: ProbeConfig,
    data: DataModule,
    classifier: Classifier,
    fabric: Fabric,
    splits: Collection[str] | None = None,
) -> tuple[dict[str, list[Features]], dict[str, Path], EngineRecord | None]:
    """Return the features of the splits' views, the file of each split's first view, and `start_engine`'s record.

    The first view is prepared as in evaluation. Only train has others, which are augmented. `splits`
    None stands for all.
    """
    from transfer.probe.features import cached_features, feature_file
    from transfer.probe.network import backbone_digest

    engine, record = start_engine(own.engine, data, classifier, fabric)
    if record is not None:
        print(f"features computed by {record}")
    folder = expanded(config.data.cache_dir) if config.data.cache_dir else default_cache_dir()
    fixed = backbone_digest(classifier), asdict(data.preprocessing), engine.name
    features: dict[str, list[Features]] = {}
    files: dict[str, Path] = {}
    for name, split in data.dataset.splits.items():
        if splits is not None and name not in splits:
            continue
        content = (*fixed, split.ordered_fingerprint())
        features[name] = []
        for view in range(own.views if name == "train" else 1):
            augmented = (view, config.seed, repr(data.train_transform), data.cache) if view else ()
            title = f"{config.dataset}-{name}-{config.backbone}-{data.preprocessing.image_size}"
            title += f"-view{view}" if view else ""
            path = feature_file(folder, title, own.feature_dtype, *content, *augmented)
            files.setdefault(name, path)
            build_loader = partial(data.view_dataloader, view) if view else partial(data.eval_dataloader, name)
            num_features = classifier.backbone.num_features
            features[name].append(
                cached_features(
                    path, len(split), num_features, own.feature_dtype, engine, build_loader, data.normalize, fabric
                )
            )
    return features, files, record
