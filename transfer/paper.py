"""Published numbers, each with its source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperResult:
    """A published transfer accuracy, in percent."""

    dataset: str
    backbone: str
    accuracy: float


# Tan & Le 2019 (arXiv 1905.11946v5), Table 5: the EfficientNet columns.
TABLE5 = (
    PaperResult("cifar10", "b0", 98.1),
    PaperResult("cifar10", "b7", 98.9),
    PaperResult("cifar100", "b0", 88.1),
    PaperResult("cifar100", "b7", 91.7),
    PaperResult("birdsnap", "b5", 82.0),
    PaperResult("birdsnap", "b7", 84.3),
    PaperResult("cars", "b3", 93.6),
    PaperResult("cars", "b7", 94.7),
    PaperResult("flowers", "b5", 98.5),
    PaperResult("flowers", "b7", 98.8),
    PaperResult("aircraft", "b3", 90.7),
    PaperResult("aircraft", "b7", 92.9),
    PaperResult("pets", "b4", 94.8),
    PaperResult("pets", "b6", 95.4),
    PaperResult("food101", "b4", 91.5),
    PaperResult("food101", "b7", 93.0),
)


def paper_results(dataset: str) -> list[PaperResult]:
    """The paper's results on a dataset, smallest network first; empty where it has none."""
    return [result for result in TABLE5 if result.dataset == dataset]
