"""What `predict` says of many images at a glance: the first of them in a table, and a summary at the end."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from transfer.errors import printable
from transfer.predictions import Prediction

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

UNSURE = 0.5  # probability below which the most probable class is more often wrong than right
_ROWS_PRINTED = 20
_CLASSES_PRINTED = 20
_LEAST_SURE = 3  # images named


@dataclass
class Summary:
    """What became of the images so far.

    Attributes:
        multilabel: whether an image may have several labels.
        num_images: images that were read.
        num_unknown: of these, how many were left unanswered.
        num_unsure: of the answered ones, how many have a probability below `UNSURE`; of several labels, how many have
            no label.
        unreadable: the files that could not be read.
        answers: probabilities of every class that was given, by its name.
        least_sure: probability and class of the answered images that are least sure, by file.
    """

    multilabel: bool = False
    num_images: int = 0
    num_unknown: int = 0
    num_unsure: int = 0
    unreadable: list[str] = field(default_factory=list)
    answers: dict[str, list[float]] = field(default_factory=dict)
    least_sure: list[tuple[float, str, str]] = field(default_factory=list)

    def add(self, image: str, prediction: Prediction) -> None:
        """Add an image."""
        self.num_images += 1
        if prediction.unknown:
            self.num_unknown += 1
            return
        given = prediction.labels if self.multilabel else prediction.top[:1]
        for name, probability in given:
            self.answers.setdefault(name, []).append(probability)
        self.num_unsure += not given if self.multilabel else prediction.probability < UNSURE
        if not self.multilabel:
            found = (*self.least_sure, (prediction.probability, prediction.class_name, image))
            self.least_sure = heapq.nsmallest(_LEAST_SURE, found)

    def print(self, console: Console) -> None:
        """Print how many images there are of each class, and how sure the answers are; of a single image nothing."""
        if self.num_images + len(self.unreadable) < 2:
            return
        if self.answers:
            console.print(self._class_table())
        said = [f"{self.num_images:,} images"]
        if probabilities := [value for values in self.answers.values() for value in values]:
            said.append(f"mean probability {sum(probabilities) / len(probabilities):.1%}")
        if self.num_unsure:
            unsure = "without a label" if self.multilabel else f"unsure (below {UNSURE:.0%})"
            said.append(f"{self.num_unsure:,} {unsure}")
        console.print(", ".join(said), soft_wrap=True)
        if self.num_unsure and self.num_images > _LEAST_SURE:
            named = [f"{image} ({name} {value:.0%})" for value, name, image in self.least_sure]
            console.print(f"least sure: {printable(', '.join(named))}", soft_wrap=True)

    def _class_table(self) -> Table:
        ranked = sorted(self.answers.items(), key=lambda item: (-len(item[1]), item[0]))
        more = len(ranked) - _CLASSES_PRINTED
        table = _table("label" if self.multilabel else "class")
        for name in ("images", "share", "mean probability"):
            table.add_column(name, justify="right")
        for name, values in ranked[:_CLASSES_PRINTED]:
            share, mean = len(values) / self.num_images, sum(values) / len(values)
            table.add_row(printable(name), f"{len(values):,}", f"{share:.1%}", f"{mean:.1%}")
        if more > 0:
            table.add_row(f"... and {more:,} more", f"{sum(len(v) for _, v in ranked[_CLASSES_PRINTED:]):,}")
        return table


def print_first(rows: Iterator[dict[str, Any]], console: Console, separator: str) -> None:
    """Print the first rows as a table, as soon as they are there, then read all others and say how many there are."""
    from tqdm import tqdm

    if not (first := list(islice(rows, _ROWS_PRINTED))):
        return
    table = _table(*first[0])
    for row in first:
        table.add_row(*_cells(row, separator))
    console.print(table)
    rest = tqdm(rows, initial=len(first), unit=" images", delay=1, leave=False, disable=None)
    if more := sum(1 for _ in rest):
        console.print(f"... and {more:,} more: --out FILE.csv writes all, --format csv prints them", soft_wrap=True)


def _cells(row: Mapping[str, Any], separator: str) -> Iterable[str]:
    for value in row.values():
        values = value if isinstance(value, list) else [value]
        yield separator.join(f"{one:.1%}" if isinstance(one, float) else printable(one) for one in values)


def _table(*columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column.startswith("probabilit") else "left")
    return table
