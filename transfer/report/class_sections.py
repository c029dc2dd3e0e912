"""The sections about classes: what is confused, how each fares, how many images it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from transfer.report.answers import MOST_PAIRS, PHOTOS_OF_PAIR, Answers, ClassRow
from transfer.report.layout import Context
from transfer.report.run_content import RunContent
from transfer.report.shots import Shot, pair_shots
from transfer.report.verdict import class_names

MOST_IN_MATRIX = 20  # classes whose matrix a screen can hold
MOST_LISTED = 50  # confused pairs
MOST_CLASSES = 100  # rows of the table of classes
MOST_BARS = 30


def confusion_section(content: RunContent) -> Context:
    """Return which classes are taken for which, with photos of the most confused pairs."""
    answers = content.answers
    if answers is None or answers.multilabel:
        return None
    has_photos = content.facts.split == answers.split
    return describe_confusions(answers, (lambda images: pair_shots(content, images)) if has_photos else None)


def describe_confusions(answers: Answers, shots_of: Callable[[Sequence[int]], list[Shot]] | None = None) -> Context:
    """Return which classes are taken for which, where an image has one.

    Args:
        answers: of a network.
        shots_of: returns some images' photos; None shows none.
    """
    names, pairs = answers.class_names, answers.confusions
    matrix = None
    if len(names) <= MOST_IN_MATRIX:
        counts = answers.matrix()
        totals = counts.sum(1).clip(min=1)
        matrix = [
            (name, [(int(count), count / total) for count in row], int(row.sum()))
            for name, row, total in zip(names, counts, totals, strict=True)
        ]
    return {
        "answers": answers,
        "names": names,
        "matrix": matrix,
        "num_wrong": sum(len(pair.images) for pair in pairs),
        "pairs": pairs[:MOST_LISTED],
        "num_pairs": len(pairs),
        "shown": [(pair, shots_of(pair.images[:PHOTOS_OF_PAIR])) for pair in pairs[:MOST_PAIRS]] if shots_of else [],
    }


def classes_section(content: RunContent) -> Context:
    """Return how each class fares on the split that is looked at, and its accuracy on test."""
    answers = content.answers
    if answers is None:
        return None
    return describe_classes(answers, {} if answers.split == "test" else content.results.per_class_accuracy)


def describe_classes(answers: Answers, tested: Mapping[str, float | None] | None = None) -> Context:
    """Return how each class fares, the worst first.

    Args:
        answers: of a network.
        tested: the accuracy on test by class name.
    """
    rows, tested = sorted(answers.class_rows, key=_fares), tested or {}
    return {
        "answers": answers,
        "rows": [(row, tested.get(row.name)) for row in rows[:MOST_CLASSES]],
        "num_classes": len(rows),
        "has_test": any(accuracy is not None for accuracy in tested.values()),
    }


def _fares(row: ClassRow) -> tuple[float, float]:
    """Return a key that puts the class that fares worst first, and those without images last."""
    return (2.0, 0.0) if row.recall is None else (row.recall, row.f1 or 0.0)


def balance_section(content: RunContent) -> Context:
    """Return the images of each class in each split, the largest class first."""
    splits = {name: facts.class_counts for name, facts in content.results.splits.items() if facts.class_counts}
    names = class_names(content)
    if not splits or any(len(counts) != len(names) for counts in splits.values()):
        return None
    totals = [sum(counts) for counts in zip(*splits.values(), strict=True)]
    order = sorted(range(len(names)), key=lambda index: -totals[index])
    shown = order if len(order) <= MOST_BARS else order[: MOST_BARS // 2] + order[-MOST_BARS // 2 :]
    return {
        "splits": list(splits),
        "rows": [(names[index], [counts[index] for counts in splits.values()]) for index in shown],
        "largest": max(*totals, 1),
        "num_classes": len(names),
    }
