"""Checks of what a configuration draws from its data: folds, and a part of train."""

from __future__ import annotations

from collections.abc import Iterator

from transfer.config.schema import FinetuneConfig


def drawing_problems(config: FinetuneConfig) -> Iterator[str]:
    """Yield a message for each field that conflicts with another, with its name in backticks."""
    data, folds, fold = config.data, config.folds, config.fold
    if fold is not None and folds is None:
        yield f"`fold`={fold} without `folds`: say how many there are"
    elif fold is not None and folds is not None and not 0 <= fold < folds:
        yield f"`fold`={fold} with `folds`={folds} (allowed: 0 to {folds - 1})"
    if folds is not None and data.train_on == "trainval":
        yield f"`folds`={folds} with `data.train_on`=trainval, which leaves no fold for val (use one of them)"
    if data.per_class is not None and data.fraction is not None:
        yield f"`data.per_class`={data.per_class} with `data.fraction`={data.fraction}: choose one"
    if data.per_class is not None and data.multilabel:
        yield f"`data.per_class`={data.per_class} with `data.multilabel`=True (use `data.fraction`)"
    drawn = {"folds": folds, "data.per_class": data.per_class, "data.fraction": data.fraction}
    given = {name: value for name, value in drawn.items() if value is not None}
    if data.stream:
        for name, value in given.items():
            yield f"`{name}`={value} with `data.stream`=True, whose images are not known in advance"
    if data.draw and not given:
        yield f"`data.draw`={data.draw} without `folds`, `data.per_class` or `data.fraction`: unused"
