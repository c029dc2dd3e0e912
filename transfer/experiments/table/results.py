"""The seeds of a cell combined into one result, and compared with the paper's Table 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from transfer.experiments.table.entries import Entry
from transfer.paper import DATASET_TITLES, EFFICIENTNETV2, TABLE5, PaperResult, paper_results
from transfer.statistics import Mean, mean_interval

METRICS = ("top1", "mean_per_class", "map")
# In points: two results of one setting differ by as much; see STATUS_RULE.
TOLERANCE = 0.2
# In points, to either side: an interval wider than this says nothing; that of two seeds often is.
WIDEST_INTERVAL = 0.5
_SPREAD = max(spread for row in EFFICIENTNETV2 for spread in row.spread.values())
STATUS_RULE = f"""\
**reproduced**: our mean is within {TOLERANCE} points of the paper's value, or the paper's value lies in our 95%
interval (Student's t over the seeds) and that is no wider than +-{WIDEST_INTERVAL} points. Otherwise **short by** or
**better by** the difference in points. Why {TOLERANCE}: the paper prints one number a cell, rounded to 0.1 and without
its spread; EfficientNetV2's transfer table (arXiv 2104.00298), runs of the same kind, prints up to +-{_SPREAD} over 5
runs, and two results that spread by as much differ by {_SPREAD} x sqrt(2) = {_SPREAD * 2**0.5:.2f}. **data decayed**:
measured on fewer test images than the paper's, so not compared. **failed**: no seed ended. **not run**: no seed was
run, planned or not. The metric in bold is compared: mean per class on Aircraft, Pets and Flowers, as the transfer
literature has it (Table 5 does not say which it prints), top-1 elsewhere."""


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
        return mean_interval(values) if values else None

    @property
    def quoted_metric(self) -> str:
        """The metric that the literature quotes for the dataset, or `map` with several labels per image."""
        if self.mean("map"):
            return "map"
        return self.done[0].result.get("quoted_metric", "top1") if self.done else "top1"

    @property
    def quoted(self) -> Mean | None:
        """The mean of the quoted metric, in percent."""
        return self.mean(self.quoted_metric)

    @property
    def num_parameters(self) -> int | None:
        """Parameters without the classifier; None before a seed is done."""
        return self.done[0].result.get("num_parameters_without_classifier") if self.done else None

    @property
    def decay(self) -> str:
        """How much is left of a test split that has decayed; empty if it is whole."""
        return next((text for entry in self.done for text in (entry.result.get("decay") or {}).values()), "")

    def total(self, quantity: str) -> float:
        """Return the sum of a number of result.json over all seeds that have it."""
        return sum(entry.result.get(quantity) or 0 for entry in self.entries)

    def distinct(self, name: str) -> list[Any]:
        """Return the different values of a field of result.json over the finished seeds, without empty ones."""
        values = [entry.result.get(name) for entry in self.done]
        return [value for index, value in enumerate(values) if value and value not in values[:index]]

    @property
    def notes(self) -> list[str]:
        """What a reader must know about how the numbers came about."""
        notes = [f"search: {search}" for search in self.distinct("search") if search not in ("full grid", "none")]
        notes += [f"instead of the protocol's: {settings(values)}" for values in self.distinct("overrides")]
        notes += self.distinct("data_note")
        weights = self.distinct("weights")
        notes += ["random weights"] if self.done and not weights else []
        sources = dict.fromkeys(row.get("trained_on") or "unknown data" for row in weights)
        notes += [f"extra data: weights trained on {source}" for source in sources if source != "ImageNet-1k"]
        reads = max((entry.result.get("test_reads") or 0 for entry in self.done), default=0)
        notes += [f"test split read {reads} times"] if reads > 1 else []
        if self.failed:
            first = str(self.failed[0].result.get("error") or "no reason given").strip().partition("\n")[0]
            notes.append(f"{len(self.failed)} of {len(self.entries)} seeds failed: {first}")
        return notes


def settings(values: Mapping[str, Any]) -> str:
    """Return dotted fields as a user types them, such as `optim.lr=0.01 optim.weight_decay=0`."""
    return " ".join(f"{name}={value}" for name, value in values.items())


def table_results(entries: Sequence[Entry]) -> list[Result]:
    """Group cells by dataset, backbone and protocol.

    The paper's datasets come first, in its order, then the others in the order of the plan.
    """
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.dataset, entry.backbone, entry.protocol), []).append(entry)
    results = [Result(*key, entries=tuple(group)) for key, group in groups.items()]
    order = list(DATASET_TITLES)
    return sorted(results, key=lambda r: order.index(r.dataset) if r.dataset in order else len(order))


@dataclass(frozen=True)
class Status:
    """What became of a result.

    Attributes:
        name: the status.
        difference: our mean less the paper's value, in points; None where they are not compared.
        detail: a remark that is shown in parentheses.
    """

    name: Literal["done", "reproduced", "short", "better", "data decayed", "failed", "not run"]
    difference: float | None = None
    detail: str = ""

    def __str__(self) -> str:
        if self.name in ("short", "better") and self.difference is not None:
            return f"{self.name} by {abs(self.difference):.2f}"
        return f"{self.name} ({self.detail})" if self.detail else self.name


def status(result: Result | None, paper: PaperResult | None = None) -> Status:
    """Return the status of a result by `STATUS_RULE`, or whether it is done where the paper has no such cell."""
    if result is None or not (result.done or result.failed):
        return Status("not run")
    if not result.done:
        return Status("failed")
    if result.decay:
        return Status("data decayed", detail=result.decay)
    mean = result.quoted
    if paper is None or mean is None:
        return Status("done")
    difference = mean.value - paper.accuracy
    is_close = abs(difference) <= TOLERANCE + 1e-9
    is_covered = (
        mean.low is not None
        and mean.high is not None
        and mean.high - mean.low <= 2 * WIDEST_INTERVAL
        and mean.low <= paper.accuracy <= mean.high
    )
    if is_close or is_covered:
        return Status("reproduced", difference)
    return Status("better" if difference > 0 else "short", difference)


def paper_cell(result: Result) -> PaperResult | None:
    """Return the cell of Table 5 with the dataset and backbone of a result, or None if there is none."""
    return next((paper for paper in paper_results(result.dataset) if paper.backbone == result.backbone), None)


@dataclass(frozen=True)
class Table5Line:
    """A cell of Table 5 with our result by one protocol, or without one."""

    paper: PaperResult
    result: Result | None

    @property
    def status(self) -> Status:
        """The status of our result by `STATUS_RULE`."""
        return status(self.result, self.paper)

    @property
    def ratio(self) -> float | None:
        """The peer's printed parameters over ours; None before a seed is done, or where the paper prints none."""
        if self.result is None or not self.result.num_parameters or self.paper.peer_millions is None:
            return None
        return 1e6 * self.paper.peer_millions / self.result.num_parameters


def table5_lines(results: Sequence[Result]) -> list[Table5Line]:
    """Return all 16 cells, each once for every protocol that it was planned with.

    Empty if the table has none of them.
    """
    lines = []
    for paper in TABLE5:
        own = [result for result in results if paper_cell(result) == paper]
        lines += [Table5Line(paper, result) for result in own] or [Table5Line(paper, None)]
    return lines if any(line.result for line in lines) else []
