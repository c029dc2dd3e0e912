"""Whether a result reproduces the published one: an equivalence test, where nothing else differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transfer.experiments.table.results import Result
from transfer.paper import EFFICIENTNETV2, TABLE5, TABLE5_SOURCE, PaperResult, Published, published_result

# In points: 0.05 (the published value is rounded) + 0.13 (its spread) + 0.32 (the interval of three seeds that spread
# as much, 2.48 standard deviations to either side). A smaller margin would fail a faithful rerun.
MARGIN = 0.5
FEWEST_SEEDS = 3
_SPREAD = max(spread for row in EFFICIENTNETV2 for spread in row.spread.values())
STATUS_RULE = f"""\
A result is compared with what its protocol's own paper prints for the dataset and the network. **reproduced**: the 95%
interval of at least {FEWEST_SEEDS} seeds (Student's t) lies within {MARGIN} points of the published value (an
equivalence test). **short by**, **better by**: it lies wholly beyond. **inconclusive**: it does neither, or there are
fewer seeds. **not comparable**: something else than chance differs, and what: the data of the weights, the protocol or
its search, the image size, the copy of the data, images that are missing, further reads of the test split, seeds that
failed. **failed**: no seed ended. **not run**: no seed was run, planned or not. **done**: nothing is published to
compare it with. Why {MARGIN}: the published value is rounded (0.05) and one of many (EfficientNetV2's table, arXiv
2104.00298, prints up to ±{_SPREAD}), and three seeds that spread by {_SPREAD} have an interval of ±0.32; together
0.50. So two results that both reproduce a value may differ by a point. The metric in bold is compared: mean per class
on Aircraft, Pets, Caltech-101 and Flowers, as the transfer literature has it (Table 5 does not say which it prints),
11-point mAP on VOC2007, top-1 elsewhere."""


@dataclass(frozen=True)
class Status:
    """What became of a result.

    Attributes:
        name: the status.
        difference: our mean less the published value, in points; None where they are not compared.
        detail: a remark that is shown in parentheses; for `not comparable`, all that deviates.
    """

    name: Literal["done", "reproduced", "short", "better", "inconclusive", "not comparable", "failed", "not run"]
    difference: float | None = None
    detail: str = ""

    def __str__(self) -> str:
        if self.name in ("short", "better") and self.difference is not None:
            return f"{self.name} by {abs(self.difference):.2f}"
        return f"{self.name} ({self.detail})" if self.detail else self.name


def published_of(result: Result) -> Published | None:
    """Return what the paper of a result's protocol reports for its dataset and backbone, or None."""
    return published_result(result.protocol, result.dataset, result.backbone)


def status(result: Result | None) -> Status:
    """Return the status of a result by `STATUS_RULE`."""
    if result is None or not (result.done or result.failed):
        return Status("not run")
    if not result.done:
        return Status("failed")
    published, mean = published_of(result), result.quoted
    if published is None or mean is None:
        return Status("done")
    if found := deviations(result, published):
        return Status("not comparable", detail="; ".join(found))
    difference = mean.value - published.accuracy
    if mean.low is None or mean.high is None or mean.count < FEWEST_SEEDS:
        return Status("inconclusive", difference, f"{mean.count} of at least {FEWEST_SEEDS} seeds")
    low, high = mean.low - published.accuracy, mean.high - published.accuracy
    if max(-low, high) <= MARGIN:
        return Status("reproduced", difference)
    if low > MARGIN or high < -MARGIN:
        return Status("better" if difference > 0 else "short", difference)
    return Status("inconclusive", difference, f"{difference:+z.2f}, 95% interval {low:+z.2f} to {high:+z.2f}")


def deviations(result: Result, published: Published) -> list[str]:
    """Return what sets a result apart from the published one besides chance, in words; empty if nothing does."""
    found = []
    for data in result.trained_on:
        if data != published.trained_on:
            found.append(f"weights trained on {data}" if data else "random weights")
    for size in result.image_sizes:
        if size != published.image_size:
            found.append(f"{size} px, not {published.image_size}" if size else "image size unknown")
    return [*found, *result.caveats]


def remaining_notes(result: Result, found: Status) -> list[str]:
    """Return what a reader must know of a result besides what its status says already."""
    return [note for note in result.notes if note not in found.detail]


@dataclass(frozen=True)
class Table5Line:
    """A cell of Table 5 with our result by one protocol, or without one."""

    paper: PaperResult
    result: Result | None

    @property
    def status(self) -> Status:
        """The status of our result by `STATUS_RULE`."""
        return status(self.result)

    @property
    def ratio(self) -> float | None:
        """The peer's printed parameters over ours; None before a seed is done, or where the paper prints none."""
        if self.result is None or not self.result.num_parameters or self.paper.peer_millions is None:
            return None
        return 1e6 * self.paper.peer_millions / self.result.num_parameters


def paper_cell(result: Result) -> PaperResult | None:
    """Return the cell of Table 5 that a result is compared with, or None if it is compared with none."""
    published = published_of(result)
    if published is None or published.source != TABLE5_SOURCE:
        return None
    return next(cell for cell in TABLE5 if (cell.dataset, cell.backbone) == (result.dataset, result.backbone))


def table5_lines(results: Sequence[Result]) -> list[Table5Line]:
    """Return all 16 cells, each once for every protocol of that table that it was planned with.

    Empty if the table has none of them.
    """
    lines = []
    for paper in TABLE5:
        own = [result for result in results if paper_cell(result) == paper]
        lines += [Table5Line(paper, result) for result in own] or [Table5Line(paper, None)]
    return lines if any(line.result for line in lines) else []
