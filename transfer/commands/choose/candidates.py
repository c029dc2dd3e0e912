"""The networks that a choice is among: whose weights are at hand, what they take, and what they reach."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from datamodules.datamodule import DataModule
from transfer.commands.choose.decision import Outcome
from transfer.commands.choose.record import LeftOut
from transfer.commands.probe import build_network, choose_start
from transfer.commands.probe_features import extract
from transfer.config.choose_schema import ChooseConfig
from transfer.config.probe_schema import ProbeConfig
from transfer.config.schema import FinetuneConfig
from transfer.costs.counts import count
from transfer.costs.latency import Latency, measure_latency
from transfer.costs.limits import QUANTITIES, format_cost, parse_limits
from transfer.errors import BadValue, MissingData
from transfer.probe.cross_validation import CrossValidation, cross_validate
from transfer.probe.features import Features
from transfer.probe.folds import draw_folds, most_folds
from transfer.weights.build import classifier_from
from transfer.weights.downloads import fetch_weights
from transfer.weights.start import Start

if TYPE_CHECKING:
    from datamodules.dataset.loaded import Dataset

SPLITS = ("train", "val")  # all but test


@dataclass(frozen=True)
class Candidate:
    """A network at an image size.

    Attributes:
        config: the configuration of its probe.
        start: the network and its weights.
        num_parameters: with the linear head.
        macs: multiply-adds for one image.
        latency: of one image, in float32 by PyTorch.
    """

    config: FinetuneConfig
    start: Start
    num_parameters: int
    macs: int
    latency: Latency

    def __str__(self) -> str:
        return name_of(self.start)


@dataclass(frozen=True)
class Tried:
    """A candidate, the engine that computed its features, and how its linear heads did."""

    candidate: Candidate
    engine: str
    found: CrossValidation

    @property
    def outcome(self) -> Outcome:
        """What decides."""
        latency = self.candidate.latency
        times = latency.median_ms, latency.lower_quartile_ms, latency.upper_quartile_ms
        return Outcome(self.found.value, times, self.found.predictions)


@dataclass(frozen=True)
class Images:
    """All images but test: train's, then val's.

    Attributes:
        labels: class indices. Shape: (N,)
        groups: see `datamodules.dataset.split.Split`. Shape: (N,)
        names: where each image is.
        folds: the fold of each image in each repeat. Shape: (R, N)
    """

    labels: NDArray[np.int64]
    groups: NDArray[np.str_] | None
    names: list[str]
    folds: NDArray[np.int64]

    @property
    def num_folds(self) -> int:
        """The number of folds."""
        return int(self.folds.max()) + 1

    def __str__(self) -> str:
        repeats = f"{len(self.folds)} x " if len(self.folds) > 1 else ""
        return f"{repeats}{self.num_folds}-fold{' by group' if self.groups is not None else ''}"


def name_of(start: Start) -> str:
    """Return a network and its image size in words."""
    return f"{start.variant.name} at {start.preprocessing.image_size} px"


def find_limits(own: ChooseConfig) -> dict[str, float]:
    """Return the limits, by the names of `transfer.costs.limits.QUANTITIES`.

    Raises:
        BadValue: one is no number above 0.
    """
    given = {"num_parameters": own.max_params, "macs": own.max_macs, "latency_ms": own.max_latency_ms}
    texts = {name: str(limit) for name, limit in given.items() if limit is not None}
    return parse_limits({**dict.fromkeys(QUANTITIES), **texts}) if texts else {}


def find_starts(config: FinetuneConfig, own: ChooseConfig) -> tuple[list[tuple[FinetuneConfig, Start]], list[LeftOut]]:
    """Return the networks whose weights can be had, each once, with the configuration of its probe, and the others.

    Raises:
        BadValue: an unknown backbone, or one without trained weights.
        MissingData: no weights can be had.
    """
    starts: dict[str, tuple[FinetuneConfig, Start]] = {}
    left_out: list[LeftOut] = []
    asked = [choose_start(replace(config, backbone=name)) for name in own.names]
    for named, start in asked:
        assert start.row is not None  # else `choose_start` has refused it
        try:
            fetch_weights(start.row)
        except MissingData as error:
            left_out.append(LeftOut(start.variant.name, str(error).partition("\n")[0]))
            continue
        for size in own.sizes:
            sized = replace(named, image_size=size)
            _, at_size = choose_start(sized)
            starts.setdefault(name_of(at_size), (sized, at_size))
    lines = [f"left out: {one}" for one in left_out]
    if not starts:
        raise MissingData("\n  ".join(["no weights of `backbones` can be had here", *lines]))
    for line in lines:
        warnings.warn(line, stacklevel=2)
    return list(starts.values()), left_out


def read_images(dataset: Dataset, own: ChooseConfig, seed: int) -> Images:
    """Return all images but test, and the folds they are in: those asked for, or as many as there can be.

    Raises:
        BadValue: too few images for two folds.
    """
    splits = [dataset.splits[name] for name in SPLITS if name in dataset.splits]
    labels = torch.cat([split.labels for split in splits]).numpy()
    parts = [split.groups for split in splits if split.groups is not None]
    groups = np.concatenate(parts) if len(parts) == len(splits) else None
    most = most_folds(labels, groups)
    num_folds = own.folds if most < 2 else min(own.folds, most)
    if num_folds < own.folds:
        limit = "groups" if groups is not None else "images of the largest class"
        print(f"{num_folds} folds in place of {own.folds}: there are only so many {limit}")
    folds = draw_folds(labels, num_folds, own.repeats, seed, groups)
    return Images(labels, groups, [name for split in splits for name in split.image_names()], folds)


def measure(
    starts: Sequence[tuple[FinetuneConfig, Start]], limits: Mapping[str, float], dataset: Dataset, fabric: Fabric
) -> tuple[list[Candidate], list[LeftOut]]:
    """Return the candidates within the limits, and the others, each of which is printed with its figures.

    Only a network within the other limits is timed.

    Raises:
        BadValue: none is within the limits.
    """
    candidates: list[Candidate] = []
    left_out: list[LeftOut] = []
    for config, start in starts:
        variant, size = start.variant, start.preprocessing.image_size
        counts = count(variant, size, dataset.num_classes)  # type: ignore[arg-type]  # a function was refused
        costs = {"num_parameters": counts.num_parameters, "macs": counts.macs}
        broken = _broken(costs, limits)
        if not broken:
            latency = measure_latency(
                classifier_from(start, dataset.num_classes, load_weights=False), size, device=fabric.device
            )
            broken = _broken({"latency_ms": latency.median_ms}, limits)
        if broken:
            left_out.append(LeftOut(variant.name, broken, size))
            print(f"left out: {left_out[-1]}")
        else:
            candidates.append(Candidate(config, start, counts.num_parameters, counts.macs, latency))
    if not candidates:
        raise BadValue("\n  ".join(["no network is within the limits", *map(str, left_out)]))
    return candidates, left_out


def _broken(costs: Mapping[str, float], limits: Mapping[str, float]) -> str:
    """Return in words which limits the costs exceed."""
    over = {name: cost for name, cost in costs.items() if cost > limits.get(name, cost)}
    return ", ".join(
        f"{QUANTITIES[name].label} {format_cost(name, cost)} (at most {format_cost(name, limits[name])})"
        for name, cost in over.items()
    )


def try_all(
    candidates: Sequence[Candidate], own: ChooseConfig, dataset: Dataset, images: Images, fabric: Fabric
) -> list[Tried]:
    """Return what each candidate reaches; before each, say how far it is and about how long the rest takes.

    Features are read from their files where they have been computed before.
    """
    tried: list[Tried] = []
    device = fabric.device if fabric.device.type == "cuda" else torch.device("cpu")  # MPS has no float64
    extracting = fitting = 0.0  # seconds
    for number, candidate in enumerate(candidates):
        left = ""
        if number:
            macs = [one.macs for one in candidates]
            rest = sum(macs[number:]) / sum(macs[:number]), (len(macs) - number) / number
            left = f", about {extracting * rest[0] + fitting * rest[1]:.0f} s left"
        print(f"{candidate} ({number + 1} of {len(candidates)}{left})", flush=True)
        started = time.perf_counter()
        features, engine = features_of(candidate, own, dataset, fabric)
        extracted = time.perf_counter()
        metric, groups = dataset.sheet.metric, images.groups
        found = cross_validate([features], dataset.num_classes, images.folds, metric, groups, device=device)
        tried.append(Tried(candidate, engine, found))
        extracting += extracted - started
        fitting += time.perf_counter() - extracted
    return tried


def features_of(candidate: Candidate, own: ChooseConfig, dataset: Dataset, fabric: Fabric) -> tuple[Features, str]:
    """Return the features of all images but test, and the engine that computes them."""
    config = candidate.config
    data = DataModule(dataset, candidate.start.preprocessing, **{**config.loader_options(), "augment": "none"})
    classifier = build_network(config, candidate.start, dataset, fabric)
    found, _, record = extract(config, ProbeConfig(engine=own.engine), data, classifier, fabric, SPLITS)
    assert record is not None  # there is one process
    parts: list[Features] = [found[name][0] for name in SPLITS if name in found]
    features, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("features", "labels"))
    return Features(features, labels), record.engine
