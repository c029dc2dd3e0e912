"""The networks that a choice is among: whose weights are at hand, what they take, and what they reach."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from lightning_fabric import Fabric

from datamodules.datamodule import DataModule
from transfer.commands.choose.budget import Budget
from transfer.commands.choose.decision import Outcome
from transfer.commands.choose.images import SPLITS, Images
from transfer.commands.choose.record import LeftOut
from transfer.commands.probe import build_network, choose_start, widths_of
from transfer.commands.probe_features import extract
from transfer.config.choose_schema import ChooseConfig
from transfer.config.durations import format_duration
from transfer.config.probe_schema import ProbeConfig
from transfer.config.schema import FinetuneConfig
from transfer.costs.counts import Counts, count
from transfer.costs.latency import Latency, measure_latency
from transfer.costs.limits import QUANTITIES, format_cost, parse_limits
from transfer.errors import BadValue, MissingData
from transfer.probe.cross_validation import CrossValidation, cross_validate
from transfer.probe.features import Features
from transfer.probe.logit_adjustment import is_adjusted
from transfer.weights.build import classifier_from
from transfer.weights.downloads import fetch_weights
from transfer.weights.start import Start

if TYPE_CHECKING:
    from datamodules.dataset.loaded import Dataset

_TIMED_ROUNDS, _TIMED_RUNS = 3, 10


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
    """A candidate with the head that fits it best, the engine that computed its features, and how its heads did."""

    candidate: Candidate
    engine: str
    found: CrossValidation

    @property
    def outcome(self) -> Outcome:
        """What decides."""
        latency = self.candidate.latency
        times = latency.median_ms, latency.lower_quartile_ms, latency.upper_quartile_ms
        return Outcome(self.found.value, times, self.found.predictions)


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


def measure(
    starts: Sequence[tuple[FinetuneConfig, Start]], limits: Mapping[str, float], dataset: Dataset, fabric: Fabric
) -> tuple[list[Candidate], list[LeftOut]]:
    """Return the candidates within the limits, and the others, each of which is printed with its figures.

    Only networks within the other limits are timed.

    Raises:
        BadValue: none is within the limits.
    """
    left_out: list[LeftOut] = []

    def is_within(start: Start, costs: Mapping[str, float]) -> bool:
        if broken := _broken(costs, limits):
            left_out.append(LeftOut(start.variant.name, broken, start.preprocessing.image_size))
            print(f"left out: {left_out[-1]}")
        return not broken

    counted: list[tuple[FinetuneConfig, Start, Counts]] = []
    for config, start in starts:
        counts = count(start.variant, start.preprocessing.image_size, dataset.num_classes)  # type: ignore[arg-type]  # a function was refused
        if is_within(start, {"num_parameters": counts.num_parameters, "macs": counts.macs}):
            counted.append((config, start, counts))
    latencies = _time_networks([start for _, start, _ in counted], dataset.num_classes, fabric.device)
    candidates = [
        Candidate(config, start, counts.num_parameters, counts.macs, latency)
        for (config, start, counts), latency in zip(counted, latencies, strict=True)
        if is_within(start, {"latency_ms": latency.median_ms})
    ]
    if not candidates:
        raise BadValue("\n  ".join(["no network is within the limits", *map(str, left_out)]))
    return candidates, left_out


def _time_networks(starts: Sequence[Start], num_classes: int, device: torch.device) -> list[Latency]:
    """Return the latency of each network: in the quickest of alternating rounds, as other work only slows one down."""

    def time_once(start: Start) -> Latency:
        network = classifier_from(start, num_classes, load_weights=False)
        return measure_latency(network, start.preprocessing.image_size, device=device, runs=_TIMED_RUNS)

    rounds = [[time_once(start) for start in starts] for _ in range(_TIMED_ROUNDS)]
    return [min(of_one, key=lambda latency: latency.median_ms) for of_one in zip(*rounds, strict=True)]


def _broken(costs: Mapping[str, float], limits: Mapping[str, float]) -> str:
    """Return in words which limits the costs exceed."""
    over = {name: cost for name, cost in costs.items() if cost > limits.get(name, cost)}
    return ", ".join(
        f"{QUANTITIES[name].label} {format_cost(name, cost)} (at most {format_cost(name, limits[name])})"
        for name, cost in over.items()
    )


def try_all(
    candidates: Sequence[Candidate],
    own: ChooseConfig,
    dataset: Dataset,
    images: Images,
    fabric: Fabric,
    budget: Budget,
) -> tuple[list[Tried], list[LeftOut]]:
    """Return what each candidate reaches, and those for which no time was left; the first one is tried in any case.

    Before each, say how far it is and about how long the rest takes. Features are read from their files where they have
    been computed before.
    """
    tried: list[Tried] = []
    late: list[LeftOut] = []
    extracting = fitting = 0.0  # seconds
    for number, candidate in enumerate(candidates):
        left = ""
        if tried:
            done = sum(one.candidate.macs for one in tried)
            times = [extracting * one.macs / done + fitting / len(tried) for one in candidates[number:]]
            if times[0] > budget.left:
                size = candidate.start.preprocessing.image_size
                reason = f"about {format_duration(times[0])} for it, {budget}"
                late.append(LeftOut(candidate.start.variant.name, reason, size))
                print(f"left out: {late[-1]}")
                continue
            left = f", about {format_duration(sum(times))} left"
        print(f"{candidate} ({number + 1} of {len(candidates)}{left})", flush=True)
        found, took = _try(candidate, own, dataset, images, fabric)
        tried.append(found)
        extracting, fitting = extracting + took[0], fitting + took[1]
    return tried, late


def _try(
    candidate: Candidate, own: ChooseConfig, dataset: Dataset, images: Images, fabric: Fabric
) -> tuple[Tried, tuple[float, float]]:
    """Return what a candidate reaches, and the seconds that its features and the fits took; its features are let go."""
    device = fabric.device if fabric.device.type == "cuda" else torch.device("cpu")  # MPS has no float64
    started = time.perf_counter()
    features, widths, engine = features_of(candidate, own, dataset, images, fabric)
    extracted = time.perf_counter()
    metric, groups = dataset.metric, images.groups
    found = cross_validate(
        [features],
        dataset.num_classes,
        images.folds,
        metric,
        groups,
        device=device,
        widths=widths,
        logit_adjustment=is_adjusted(own.logit_adjustment, metric),
    )
    if more := found.choice.num_features - widths[0]:
        candidate = replace(
            candidate,
            config=replace(candidate.config, head="stages"),
            num_parameters=candidate.num_parameters + more * dataset.num_classes,
            macs=candidate.macs + more * dataset.num_classes,
        )
    return Tried(candidate, engine, found), (extracted - started, time.perf_counter() - extracted)


def features_of(
    candidate: Candidate, own: ChooseConfig, dataset: Dataset, images: Images, fabric: Fabric
) -> tuple[Features, list[int], str]:
    """Return the images' features, how many of them a head may see, fewest first, and the engine that computes them."""
    config, of_probe = candidate.config, ProbeConfig(engine=own.engine)
    data = DataModule(dataset, candidate.start.preprocessing, **{**config.loader_options(), "augment": "none"})
    classifier = build_network(config, candidate.start, dataset, fabric)
    found, _, record = extract(config, of_probe, data, classifier, fabric, SPLITS)
    assert record is not None  # there is one process
    parts: list[Features] = [found[name][0] for name in SPLITS if name in found]
    features, labels = (
        torch.cat([getattr(part, name) for part in parts])[images.order] for name in ("features", "labels")
    )
    assert torch.equal(labels, images.split.labels)
    return Features(features, labels), widths_of(classifier, of_probe), record.engine
