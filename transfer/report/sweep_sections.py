"""The sections of the page about a sweep: a row each, in the order in which they are shown."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from transfer.experiments.sweep_record import SweepRecord, read_sweep_record
from transfer.report.charts import Chart, Series, draw_lines
from transfer.report.layout import Context, Section, render_single
from transfer.report.metric_sections import format_metric, is_share
from transfer.report.verdict import Verdict

_DECADE = 10  # from the smallest value of a setting to the largest, from which on its axis is logarithmic


@dataclass(frozen=True)
class SweepContent:
    """A sweep as its page sees it: its folder, and what its runs reached."""

    folder: Path
    record: SweepRecord

    @property
    def metric(self) -> str:
        """The metric without its split, as `top1`."""
        return self.record.metric.rpartition("/")[2]

    @property
    def names(self) -> list[str]:
        """The settings that vary."""
        return list(dict.fromkeys(name for trial in self.record.trials for name in trial.settings))


def read_sweep_content(folder: Path) -> SweepContent:
    """Return what the folder of a sweep holds.

    Raises:
        UserError: its sweep.json is missing or damaged.
    """
    return SweepContent(folder, read_sweep_record(folder))


def render_sweep(content: SweepContent) -> str:
    """Return the page about a sweep as HTML."""
    name = "/".join(content.folder.absolute().parts[-2:])
    facts = f"A sweep of {len(content.record.trials):,} runs, compared by {content.record.metric}"
    return render_single(name, facts, SECTIONS, content, [str(content.folder)])


def _verdict(content: SweepContent) -> Context:
    trials = content.record.trials
    states = Counter(trial.state for trial in trials)
    counts = ", ".join(f"{count} {state}" for state, count in states.most_common())
    if not trials or (reached := trials[0].value) is None:
        return {"verdict": Verdict("", f"No run has a result yet: {counts or 'none was begun'}."), "remarks": []}
    best, done = trials[0], states["done"]
    settings = ", ".join(f"{name} {_spell(value)}" for name, value in best.settings.items())
    extreme = "highest" if content.record.maximize else "lowest"
    sentence = f"is the {extreme} {content.record.metric}, of run {best.number:02d}{settings and f': {settings}'}."
    facts = [f"Runs: {counts}."]
    if done > 1:
        facts.append(f"The best of {done} runs, chosen by what it is measured by, looks better than it is.")
    return {"verdict": Verdict(format_metric(content.metric, reached), sentence, facts), "remarks": []}


def _trials(content: SweepContent) -> Context:
    rows = [
        {
            "trial": trial,
            "value": "" if trial.value is None else format_metric(content.metric, trial.value),
            "settings": [_spell(trial.settings.get(name, "")) for name in content.names],
        }
        for trial in content.record.trials
    ]
    return {"rows": rows, "names": content.names, "metric": content.record.metric} if rows else None


def _charts(content: SweepContent) -> Context:
    """Return the metric against each setting that is a number."""
    charts = [chart for name in content.names if (chart := _draw_setting(content, name))]
    return {"charts": charts} if charts else None


def _draw_setting(content: SweepContent, name: str) -> Chart | None:
    points = [
        (float(value), trial.value)
        for trial in content.record.trials
        if trial.value is not None and _is_number(value := trial.settings.get(name))
    ]
    values = [value for value, _ in points]
    if len(set(values)) < 2:
        return None
    log = min(values) > 0 and max(values) >= _DECADE * min(values)
    line = Series(content.record.metric, values, [reached for _, reached in points], joined=False)
    return draw_lines(name, (name, ""), [line], percent=is_share(content.metric), log=log)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _spell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _command(content: SweepContent) -> Context:
    words = content.record.best_command
    return {"command": shlex.join(["efficientnet-transfer", *words])} if words else None


SECTIONS: tuple[Section[SweepContent], ...] = (
    Section("verdict", "Verdict", _verdict),
    Section("settings_tried", "Runs, the best first", _trials),
    Section("values", "Values of the settings", _charts),
    Section("command", "Command that trains the best again, and tests it", _command),
)
