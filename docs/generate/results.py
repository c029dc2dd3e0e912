"""The README's rows of results: `python -m docs.generate.results` puts them there."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median
from typing import Any

from docs.generate.measurement import duration, load, percent, times
from transfer.config.auto import usual_method

README = Path(__file__).parents[2] / "README.md"
_PLACE = re.compile(r"(<!-- results: .*? -->\n).*?(?=<!-- end of results -->)", re.DOTALL)


def rows() -> str:
    """Return the table, a line each."""
    photos = load("small_data_cpu")
    timm, engines = load("cpu_training_cpu"), load("inference_cpu")
    took = duration(median(run["wall_seconds"] for run in photos["clothing-300"]["probe"]["runs"]))
    return f"""\
| What | Result |
| --- | --- |
| `lite0` on 30 clothing photos (300, 2,700), by what your photos get | {_accuracies(photos)} test top-1; \
with 300 in {took} |
| timm's usual recipe there; fastai's | {_accuracies(photos, "timm")}; {_accuracies(photos, "fastai")} |
| Training step of `lite0` (`b0`) on a CPU with bfloat16, against timm | \
{times(timm["lite0"]["ratio"])} ({times(timm["b0"]["ratio"])}) the images/s |
| Inference of `lite0` there, against timm | {times(engines["lite0, 1 thread"]["openvino-bf16"]["ratio_to_timm"], 1)} \
with OpenVINO, {times(engines["lite0, 1 thread"]["torch-bf16"]["ratio_to_timm"], 1)} without |
"""


def _accuracies(photos: Any, method: str | None = None) -> str:
    """Return the mean test accuracies of a method of `benchmarks small_data`, or of what one's own photos get."""
    tasks = [photos[f"clothing-{size}"] for size in (30, 300, 2700)]
    methods = [method or usual_method(task["images"]["train"]) for task in tasks]
    values = [percent(task[name]["mean_test_top1"]["value"]) for task, name in zip(tasks, methods, strict=True)]
    return f"{values[0]} ({', '.join(values[1:])})"


def with_rows(text: str) -> str:
    """Return the README's text with the rows in their place."""
    return _PLACE.sub(lambda match: match[1] + rows(), text)


if __name__ == "__main__":
    README.write_text(with_rows(README.read_text()))
