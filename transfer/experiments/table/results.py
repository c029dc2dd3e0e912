"""The seeds of a cell combined into one result, and what a reader must know about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transfer.experiments.table.entries import Entry
from transfer.paper import DATASET_TITLES
from transfer.statistics import Mean, bounded, mean_interval

METRICS = ("top1", "mean_per_class", "map", "map_11")


@dataclass(frozen=True)
class Result:
    """All seeds of one dataset, backbone and protocol.

    Attributes:
        entries: the seeds, in the order of the plan.
    """

    dataset: str
    backbone: str
    protocol: str
    entries: tuple[Entry, ...]

    @property
    def key(self) -> tuple[str, str, str]:
        """What no other result of a table shares."""
        return self.dataset, self.backbone, self.protocol

    @cached_property
    def done(self) -> list[Entry]:
        """The seeds that ended."""
        return [entry for entry in self.entries if entry.status == "done"]

    @cached_property
    def failed(self) -> list[Entry]:
        """The seeds that ended in an error."""
        return [entry for entry in self.entries if entry.status == "failed"]

    def mean(self, metric: str) -> Mean | None:
        """Return the mean of a test metric over the seeds in percent, or None if no seed measured it."""
        values = [value for entry in self.done if (value := entry.accuracy(metric)) is not None]
        return bounded(mean_interval(values), 0, 100) if values else None

    @property
    def quoted_metric(self) -> str:
        """The metric that the literature quotes for the dataset, or `map` with several labels per image."""
        quoted = (self.done[0].result.get("quoted_metric") if self.done else None) or "top1"
        return "map" if self.mean("map") and not self.mean(quoted) else quoted

    @property
    def quoted(self) -> Mean | None:
        """The mean of the quoted metric, in percent."""
        return self.mean(self.quoted_metric)

    @property
    def num_parameters(self) -> int | None:
        """Parameters without the classifier; None before a seed is done."""
        return self.done[0].result.get("num_parameters_without_classifier") if self.done else None

    def total(self, quantity: str) -> float:
        """Return the sum of a number of result.json over all seeds that have it."""
        return sum(entry.result.get(quantity) or 0 for entry in self.entries)

    def distinct(self, name: str) -> list[Any]:
        """Return the different values of a field of result.json over the finished seeds, without empty ones."""
        values = [entry.result.get(name) for entry in self.done]
        return [value for index, value in enumerate(values) if value and value not in values[:index]]

    @property
    def trained_on(self) -> list[str | None]:
        """The data that the seeds' weights were trained on; None stands for random weights."""
        weights = [entry.result.get("weights") for entry in self.done]
        return list(dict.fromkeys(None if row is None else row.get("trained_on") or "unknown data" for row in weights))

    @property
    def image_sizes(self) -> list[int | None]:
        """The sides of the seeds' images in pixels; None stands for one that nobody wrote down."""
        return list(dict.fromkeys(entry.image_size for entry in self.done))

    @property
    def caveats(self) -> list[str]:
        """What sets the result apart from one by the protocol on the official data, besides weights and image size."""
        found = [f"search: {search}" for search in self.distinct("search") if search not in ("full grid", "none")]
        found += [f"instead of the protocol's: {settings(values)}" for values in self.distinct("overrides")]
        found += [*self.distinct("data_note"), *self.distinct("copy")]
        found += [text for decay in self.distinct("decay") for text in decay.values()]
        found += [f"{number} images skipped" for number in self.distinct("skipped_images")]
        found += [f"{number} test images seen in training" for number in self.distinct("seen_test_images")]
        reads = [entry.result.get("test_reads") for entry in self.done]
        found += ["test split read an unknown number of times"] if None in reads else []
        most = max((number for number in reads if number is not None), default=1)
        found += [f"test split read {most} times"] if most > 1 else []
        for entry in self.failed[:1]:
            reason = entry.error.partition("\n")[0]
            found.append(f"{len(self.failed)} of {len(self.entries)} seeds failed: {reason}")
        return list(dict.fromkeys(found))

    @property
    def notes(self) -> list[str]:
        """What a reader must know about how the numbers came about."""
        extra = [data for data in self.trained_on if data not in (None, "ImageNet-1k")]
        random = ["random weights"] if None in self.trained_on else []
        return [*self.caveats, *random, *(f"extra data: weights trained on {data}" for data in extra)]


def settings(values: Mapping[str, Any]) -> str:
    """Return dotted fields as a user types them, such as `optim.lr=0.01 optim.weight_decay=0`."""
    return " ".join(f"{name}={value}" for name, value in values.items())


def table_results(entries: Sequence[Entry]) -> list[Result]:
    """Group cells by dataset, backbone and protocol.

    The paper's datasets come first, in its order, then the others in the order of the plan, each dataset in one piece.
    """
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.dataset, entry.backbone, entry.protocol), []).append(entry)
    results = [Result(*key, entries=tuple(group)) for key, group in groups.items()]
    order = list(dict.fromkeys((*DATASET_TITLES, *(result.dataset for result in results))))
    return sorted(results, key=lambda result: order.index(result.dataset))
