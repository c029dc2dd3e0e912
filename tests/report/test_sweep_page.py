"""The page about a sweep: every setting that is a number has its chart."""

from __future__ import annotations

from pathlib import Path

from tests.support.reported import Page
from transfer.experiments.sweep_record import SweepRecord, SweepTrial
from transfer.report.sweep_sections import read_sweep_content, render_sweep


def test_every_number_that_varies_has_a_chart(tmp_path: Path) -> None:
    numbers = [f"setting_{number}" for number in range(8)]
    trials = [
        SweepTrial(trial, "done", 0.9 - trial / 100, {**dict.fromkeys(numbers, trial), "fixed": 1, "word": "x"}, "")
        for trial in range(3)
    ]
    SweepRecord("val/top1", True, trials, []).save(tmp_path)
    html = render_sweep(read_sweep_content(tmp_path))
    charts = [name for name in [*numbers, "fixed", "word"] if f'aria-label="{name}"' in html]
    assert charts == numbers and html.count("<svg") == len(numbers)
    heads = Page(html).tables[0][0]
    assert heads[2:-1] == [*numbers, "fixed", "word"]
