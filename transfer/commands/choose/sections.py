"""The sections of the page about a choice: a row each, in the order in which they are shown."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import PurePath

from transfer.commands.choose.curve import FACTORS
from transfer.commands.choose.page import ChoiceContent
from transfer.commands.choose.record import Choice, Figures
from transfer.commands.choose.report import PARTS, choose_words, lpft_words_if_left_out
from transfer.config.durations import format_duration
from transfer.config.screens import PROGRAM
from transfer.costs.limits import format_cost
from transfer.records import Interval
from transfer.report.charts import Chart, Series, draw_lines
from transfer.report.class_sections import describe_classes, describe_confusions
from transfer.report.layout import Context, Section, render_single
from transfer.report.metric_sections import describe_devices, metric_name
from transfer.report.run_content import describe_versions
from transfer.report.shots import Shot, data_uri
from transfer.report.verdict import percent

_MOST_SUSPECTS = 40  # that are listed
_MOST_NAMED = 8  # networks whose names a chart has room for


def render_choice(content: ChoiceContent) -> str:
    """Return the page about a choice as HTML."""
    choice = content.choice
    groups = "" if choice.num_groups is None else f" in {choice.num_groups:,} groups"
    facts = (
        f"A choice among {len(choice.candidates)} networks on {choice.dataset}, {choice.num_images:,} images{groups}"
    )
    name = "/".join(content.folder.absolute().parts[-2:])
    footer = [f"{content.folder}{describe_versions(choice.environment)}"]
    return render_single(name, facts, SECTIONS, content, footer)


@dataclass(frozen=True)
class Gain:
    """What would change the accuracy.

    Attributes:
        what: what to do, in words.
        value: the gain, a difference of shares, with its 95% `interval`.
        price: what it takes, in words.
    """

    what: str
    value: float
    interval: Interval
    price: str


def find_gains(choice: Choice) -> list[Gain]:
    """Return what a choice measured or extrapolated to change the accuracy of what it took, the largest gain first."""
    gains = []
    if choice.learning_curve is not None:
        for one in choice.learning_curve.forecasts:
            more = f"{round((one.factor - 1) * choice.num_images):,} more photos"
            gains.append(Gain(f"{FACTORS[one.factor]} the photos", one.gain, one.gain_interval, more))
    for comparison in choice.comparisons:
        best, taken = (choice.candidates[index] for index in (comparison.most_accurate, comparison.faster))
        if comparison.faster == choice.chosen:
            found = comparison.difference
            slower = f"{best.latency_ms / taken.latency_ms:.2f} times the latency"
            gains.append(Gain(f"{_name(best)} instead", found.value, Interval(found.low, found.high), slower))
    if choice.fine_tuning is not None and choice.method == "probe":
        found, seconds = choice.fine_tuning.difference, choice.fine_tuning.fold_seconds
        took = f"training of about {format_duration(sum(seconds) / len(seconds))}"
        gains.append(Gain("fine-tuning (LP-FT)", found.value, Interval(found.low, found.high), took))
    return sorted(gains, key=lambda gain: -gain.value)


def _name(figures: Figures) -> str:
    return f"{figures.backbone} at {figures.image_size} px"


def _folds(choice: Choice) -> str:
    repeats = f"{choice.repeats} x " if choice.repeats > 1 else ""
    return f"{repeats}{choice.folds}-fold cross-validation{'' if choice.num_groups is None else ' by group'}"


def _decision(content: ChoiceContent) -> Context:
    choice = content.choice
    taken, tuned = choice.candidates[choice.chosen], choice.fine_tuning
    takes_lpft = choice.method == "lpft" and tuned is not None
    folds = _folds(choice)
    if takes_lpft and tuned:
        folds = f"{tuned.num_folds} of {choice.folds} folds, {tuned.num_images:,} images"
    facts = []
    if choice.test and choice.metric in choice.test:
        reached = f"On test, which took no part in the choice, it reaches {percent(choice.test[choice.metric])}"
        facts.append(f"{reached}{_interval_on_test(content)}.")
    return {
        "accuracy": tuned.accuracy if takes_lpft and tuned else taken.accuracy,
        "meaning": f"{metric_name(choice.metric)} in {folds}",
        "network": _name(taken),
        "method": "fine-tuned from its linear probe (LP-FT)" if takes_lpft else "with a linear probe",
        "sentence": choice.sentence,
        "reasons": choice.reasons,
        "facts": facts,
        "winner_page": content.winner_page,
        "remarks": content.remarks,
    }


def _interval_on_test(content: ChoiceContent) -> str:
    found = content.winner and content.winner.intervals.get("test", {}).get(content.choice.metric)
    return f" (95% interval {found.percent()})" if found else ""


def _networks(content: ChoiceContent) -> Context:
    choice = content.choice
    order = sorted(choice.candidates, key=lambda one: one.latency_ms)
    taken = choice.candidates[choice.chosen]
    marks = {True: "on the front", False: ""}
    return {
        "charts": [_frontier(choice)],
        "metric": metric_name(choice.metric),
        "rows": [
            {
                "figures": one,
                "num_parameters": format_cost("num_parameters", one.num_parameters, 3),
                "macs": format_cost("macs", one.macs, 3),
                "mark": "taken" if one is taken else marks[one.on_front],
            }
            for one in order
        ],
        "folds": _folds(choice),
        "device": taken.device,
        "left_out": list(map(str, choice.left_out)),
    }


def _frontier(choice: Choice) -> Chart:
    """Return the chart of accuracy against latency."""
    taken = choice.candidates[choice.chosen]
    few = len(choice.candidates) <= _MOST_NAMED

    def series(name: str, found: list[Figures], joined: bool, named: bool = True) -> Series:
        return Series(
            name,
            [one.latency_ms for one in found],
            [one.accuracy for one in found],
            joined=joined,
            low=[one.interval.low for one in found],
            high=[one.interval.high for one in found],
            labels=[f"{one.backbone}, {one.image_size} px" for one in found] if named else (),
        )

    others = [one for one in choice.candidates if one is not taken]
    front = sorted((one for one in others if one.on_front), key=lambda one: one.latency_ms)
    lines = [
        series("taken", [taken], joined=False),
        series("on the front", front, joined=False),
        series("others", [one for one in others if not one.on_front], joined=False, named=few),
    ]
    if (tuned := choice.fine_tuning) is not None:
        interval = tuned.interval
        at = [1.04 * taken.latency_ms]  # beside its probe, which takes as long
        lines.append(Series("fine-tuned", at, [tuned.accuracy], joined=False, low=[interval.low], high=[interval.high]))
    title, labels = "Accuracy and latency", ("ms for one image", "")
    return draw_lines(title, labels, [line for line in lines if len(line.x)], percent=True, log=True)


def _methods(content: ChoiceContent) -> Context:
    choice = content.choice
    tuned, search = choice.fine_tuning, choice.search
    if tuned is None and not choice.folds_left_out:
        return None
    words = lpft_words_if_left_out(choice)
    return {
        "tuned": tuned,
        "metric": metric_name(choice.metric),
        "num_folds": choice.folds,
        "fold_times": ", ".join(map(format_duration, tuned.fold_seconds)) if tuned else "",
        "left_out": choice.folds_left_out,
        "attempts": search.attempts if search else [],
        "search_images": search.num_images if search else 0,
        "command": shlex.join([PROGRAM, "finetune", *words]) if words else None,
    }


def _gains(content: ChoiceContent) -> Context:
    choice = content.choice
    hints = [f"{choice.weakest_class}."] if choice.weakest_class else []
    if count := choice.num_suspects:
        hints.append(f"{count:,} {'photo' if count == 1 else 'photos'} may be mislabelled: see below.")
    if choice.learning_curve is None:
        hints.append("What more photos would bring was not measured: --learning_curve true does.")
    gains = find_gains(choice)
    return {"gains": gains, "hints": hints} if gains or hints else None


def _learning(content: ChoiceContent) -> Context:
    curve = content.choice.learning_curve
    if curve is None:
        return None
    points, now = curve.points, content.choice.num_images
    measured = Series(
        "measured",
        [one.images for one in points],
        [one.accuracy for one in points],
        joined=False,
        low=[one.interval.low for one in points],
        high=[one.interval.high for one in points],
    )
    beyond = Series(
        "extrapolated",
        [one.factor * now for one in curve.forecasts],
        [one.accuracy for one in curve.forecasts],
        dashed=True,
        joined=False,
        low=[one.accuracy_interval.low for one in curve.forecasts],
        high=[one.accuracy_interval.high for one in curve.forecasts],
    )
    lines = [measured, beyond] if curve.forecasts else [measured]
    chart = draw_lines("Accuracy by the photos it learns from", ("photos", ""), lines, percent=True, log=True)
    return {"charts": [chart], "lines": str(curve).split("\n"), "draws": curve.draws}


def _suspects(content: ChoiceContent) -> Context:
    pictures = content.photos.photos
    shots = [
        Shot(
            source=data_uri(pictures.get(position)),
            name="/".join(PurePath(row["image"]).parts[-2:]),
            given=f"{row['label']} {percent(row['label_probability'])}",
            said=f"{row['suggested']} {percent(row['suggested_probability'])}",
        )
        for position, row in enumerate(content.suspects[:_MOST_SUSPECTS])
    ]
    return {"shots": shots, "num_suspects": len(content.suspects), "has_pictures": bool(pictures)} if shots else None


def _confusions(content: ChoiceContent) -> Context:
    return None if content.answers is None else describe_confusions(content.answers)


def _classes(content: ChoiceContent) -> Context:
    return None if content.answers is None else describe_classes(content.answers)


def _costs(content: ChoiceContent) -> Context:
    choice = content.choice
    took = {name: choice.seconds.get(part, 0.0) for part, name in PARTS.items()}
    rows = {name: format_duration(seconds) for name, seconds in took.items() if seconds >= 0.5}
    rows["in all"] = f"{format_duration(sum(choice.seconds.values()))} of {format_duration(choice.budget_seconds)}"
    rows["computed on"] = describe_devices(choice.environment.get("hardware"))[1]
    return {"rows": {name: value for name, value in rows.items() if value}}


def _command(content: ChoiceContent) -> Context:
    return {"command": shlex.join([PROGRAM, "choose", *choose_words(content.choice)])}


SECTIONS: tuple[Section[ChoiceContent], ...] = (
    Section("decision", "Decision", _decision),
    Section("networks", "Networks", _networks),
    Section("methods", "Linear probe or fine-tuning", _methods),
    Section("gains", "What would help most", _gains),
    Section("learning", "Learning curve", _learning),
    Section("suspects", "Photos that may be mislabelled", _suspects),
    Section("confusion", "Confusions", _confusions),
    Section("classes", "Classes", _classes),
    Section("cost", "Time", _costs),
    Section("command", "Command to repeat", _command),
)
