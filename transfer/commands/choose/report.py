"""What a choice says, and the files that it leaves besides choose.json."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.dataset.loaded import Dataset
from transfer.commands.choose.budget import Budget
from transfer.commands.choose.candidates import Tried
from transfer.commands.choose.decision import Decision, Tuned
from transfer.commands.choose.images import Images
from transfer.commands.choose.record import Choice
from transfer.commands.choose.search_record import Searched
from transfer.commands.tables import print_table
from transfer.config.auto import LPFT_FROM
from transfer.config.choose_schema import CHOOSE_FIELDS, CHOOSE_TRAINER_FIELDS, ChooseConfig
from transfer.config.durations import format_duration
from transfer.config.parsing import flatten
from transfer.config.words import changed_words, flag_words
from transfer.costs.limits import format_cost
from transfer.files import written_whole
from transfer.probe.logit_adjustment import is_adjusted
from transfer.resampling import Difference
from transfer.runs.test_record import text_array
from transfer.statistics import Metric

# The parts of a choice that `Choice.seconds` times.
PARTS = {
    "networks": "networks",
    "suspects": "suspects",
    "learning_curve": "the learning curve",
    "fine_tuning": "LP-FT on folds",
    "winner": "the winner's run",
}
OUT_OF_FOLD, PICTURE = "out_of_fold.npz", "frontier.png"


def explain(tried: Sequence[Tried], decision: Decision) -> list[str]:
    """Return why a network is taken, a line for each comparison."""
    best = tried[decision.most_accurate]
    lines = [f"{best.candidate} is the most accurate"] if len(tried) > 1 else []
    for faster, difference in decision.comparisons.items():
        other = tried[faster]
        end = "more than the interval" if difference.is_better else "not more than the interval: it is taken"
        lines.append(
            f"{other.candidate} is {_ratio(best, other)} times as fast, and {best.candidate} better by"
            f" {_points(difference)}, {end}"
        )
    passed = decision.front[: decision.front.index(decision.chosen)]
    if untested := [str(tried[number].candidate) for number in passed if number not in decision.comparisons]:
        lines.append(f"faster only within the spread of the timed runs: {', '.join(untested)}")
    if beaten := [str(one.candidate) for number, one in enumerate(tried) if number not in decision.front]:
        lines.append(f"another is as fast and as accurate, or more: {', '.join(beaten)}")
    return lines


def describe(tried: Tried, images: Images, tuned: Tuned | None, left_out: str, searched: Searched | None = None) -> str:
    """Return the choice in one sentence.

    Args:
        tried: the network to take.
        images: what it was cross-validated on.
        tuned: how fine-tuning it compares with its probe; None if it was not tried.
        left_out: why it was not; empty where it was not asked for.
        searched: how its settings were found, unless they are the rule's.
    """
    found = tried.found
    probe = f"{tried.candidate}, linear probe: {100 * found.value:.1f}% ({found.interval.percent()}, {images})"
    if tuned is None:
        return f"{probe}; fine-tuning (LP-FT) was not tried: {left_out}" if left_out else probe
    folds, difference = count_folds(tuned, images), tuned.difference
    if searched is not None:
        folds += f"; {searched}"
    if not tuned.is_taken:
        return f"{probe}; fine-tuning (LP-FT) is not better: {_points(difference, sign='+')[:-1]}, {folds})"
    reached = (
        f"{tried.candidate}, fine-tuned from its linear probe (LP-FT): {100 * tuned.accuracy:.1f}%"
        f" ({tuned.interval.percent()}, {folds})"
    )
    if difference.is_better:
        return f"{reached}; better than the probe by {_points(difference)} on the same images"
    return (
        f"{reached}; better than the probe by {_points(difference)} on the same images, not more than the interval, but"
        f" with {LPFT_FROM} images or more it usually is (benchmarks/small_data.md)"
    )


def count_folds(tuned: Tuned, images: Images) -> str:
    """Return on how many folds fine-tuning was tried, in words."""
    tried = len(tuned.seconds)
    return f"{tried}-fold" if tried == images.num_folds else f"{tried} of {images.num_folds} folds"


def _ratio(slow: Tried, fast: Tried) -> str:
    return f"{slow.candidate.latency.median_ms / fast.candidate.latency.median_ms:.2f}"


def _points(difference: Difference, sign: str = "") -> str:
    value = format(100 * difference.value, f"{sign}z.1f")
    return f"{value} points ({100 * difference.low:+z.1f} to {100 * difference.high:+z.1f})"


def print_metric(metric: Metric, asked: bool | Literal["auto"]) -> None:
    """Print what accuracy means and whether heads are adjusted, unless both are the usual."""
    adjusted = is_adjusted(asked, metric)
    if metric == "mean_per_class":
        how = "with" if adjusted else "without"
        print(f"accuracy is the mean of the classes' accuracies; heads {how} logit adjustment")
    elif adjusted:
        print("accuracy is the share of all images; heads with logit adjustment")


def print_figures(tried: Sequence[Tried], decision: Decision, reasons: Sequence[str]) -> None:
    """Print a table with a line for each candidate, fastest first, then the reasons."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    device = tried[0].candidate.latency.device
    table = Table(
        title=f"one image, float32 by PyTorch, {device}; * on the front",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("", no_wrap=True)
    for column in ("ms", "parameters", "mult-adds", "accuracy", "interval", ""):
        table.add_column(column, justify="right", no_wrap=True)
    for number in sorted(range(len(tried)), key=lambda number: tried[number].candidate.latency.median_ms):
        candidate, found = tried[number].candidate, tried[number].found
        table.add_row(
            *(str(candidate), f"{candidate.latency.median_ms:.1f}"),
            *(format_cost("num_parameters", candidate.num_parameters, 3), format_cost("macs", candidate.macs, 3)),
            *(f"{100 * found.value:.1f}%", found.interval.percent(), "*" if number in decision.front else ""),
        )
    print_table(table)
    if reasons:
        print(*reasons, sep="\n")


def print_end(choice: Choice, folder: Path, budget: Budget) -> None:
    """Print the weakest class, where everything is, what it took, and the choice in a sentence."""
    if choice.weakest_class:
        print(choice.weakest_class)
    times = {name: choice.seconds[part] for part, name in PARTS.items() if choice.seconds[part] >= 0.5}
    took = ", ".join(f"{name} {format_duration(seconds)}" for name, seconds in times.items())
    print(f"the choice's figures, picture and run: {folder}")
    print(f"{format_duration(budget.spent)} of --budget {budget.text}: {took}")
    if words := lpft_words_if_left_out(choice):
        print(f"to fine-tune it nevertheless: efficientnet-transfer finetune {shlex.join(words)}")
    print(choice.sentence)


def lpft_words_if_left_out(choice: Choice) -> list[str]:
    """Return the words of `lpft_words` if there was no time to try that; else none."""
    is_late = choice.folds_left_out and choice.fine_tuning is None and not choice.config["data"]["stream"]
    return lpft_words(choice) if is_late else []


def lpft_words(choice: Choice) -> list[str]:
    """Return the words of the command that fine-tunes the network to take, on the same data."""
    winner, shared = choice.candidates[choice.chosen], _shared_fields(choice)
    chosen = {"backbone": winner.backbone, "image_size": winner.image_size, "method": "lpft"}
    asked = choice.config.get("logit_adjustment", "auto")  # an earlier version has none
    adjustment = {} if asked == "auto" else {"loss.logit_adjustment": asked}
    return [*changed_words({**shared, **chosen}, without=("out_dir",)), *flag_words(adjustment)]


def choose_words(choice: Choice) -> list[str]:
    """Return the words of the command that chooses anew, on the same data, in another folder."""
    trainer = {f"trainer.{name}": choice.config["trainer"][name] for name in CHOOSE_TRAINER_FIELDS}
    fields = vars(ChooseConfig()).items()  # of which an earlier version may lack some
    own = {name: choice.config[name] for name, default in fields if choice.config.get(name, default) != default}
    return [*changed_words({**_shared_fields(choice), **trainer}, without=("out_dir",)), *flag_words(own)]


def _shared_fields(choice: Choice) -> dict[str, Any]:
    """Return the dotted fields that a choice shares with runs, on which data are read."""
    fields = flatten(choice.config)
    return {name: value for name, value in fields.items() if name.partition(".")[0] in CHOOSE_FIELDS}


def write_files(
    folder: Path,
    name: str,
    tried: Sequence[Tried],
    decision: Decision,
    images: Images,
    dataset: Dataset,
    tuned: Tuned | None = None,
) -> None:
    """Write the out-of-fold predictions and the picture.

    The arrays are `label` (N,), `path` (N,), `class_name` (C,), `fold` (R, N), with groups `group` (N,), and for each
    candidate `logits_<backbone>_<image size>` (R, N, C) and `probability_<backbone>_<image size>` (N, C), which is
    without logit adjustment; of fine-tuning the chosen one, `lpft_<backbone>_<image size>` (N, C), by the folds of the
    first repeat, not a number where it was not tried. `name` is the data's in the picture's title.
    """
    from transfer.commands.choose.figure import Point, draw_frontier

    names = {"path": text_array(images.names), "class_name": text_array(dataset.class_names)}
    arrays = {"label": images.labels, **names, "fold": images.folds}
    if images.groups is not None:
        arrays["group"] = images.groups
    arrays |= {f"logits_{_key(one)}": one.found.logits.numpy() for one in tried}
    arrays |= {f"probability_{_key(one)}": one.found.probabilities for one in tried}
    if tuned is not None:
        arrays[f"lpft_{_key(tried[decision.chosen])}"] = tuned.logits
    with written_whole(folder / OUT_OF_FOLD) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its types know allow_pickle only
    points = [
        Point(str(one.candidate), one.candidate.latency.median_ms, one.found.value, one.found.interval) for one in tried
    ]
    unit = "mean per class (%)" if dataset.metric == "mean_per_class" else "accuracy (%)"
    title = f"{name}: linear probe, {images}, {len(images.labels):,} images"
    axis = f"ms for one image, float32 by PyTorch, {tried[0].candidate.latency.device}"
    point, takes_tuned = None, False
    if tuned is not None:
        latency, takes_tuned = points[decision.chosen].latency_ms, tuned.is_taken
        point = Point(f"LP-FT, {count_folds(tuned, images)}", latency, tuned.accuracy, tuned.interval)
    texts = title, axis, unit
    draw_frontier(points, decision.front, decision.chosen, texts, folder / PICTURE, point, takes_tuned)


def _key(tried: Tried) -> str:
    start = tried.candidate.start
    return f"{start.variant.name}_{start.preprocessing.image_size}"
