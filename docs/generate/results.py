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
    few, some, many = (_accuracy(photos[f"clothing-{size}"]) for size in (30, 300, 2700))
    timm_few, timm_some, fastai_few, fastai_some = (
        _accuracy(photos[task], method) for method in ("timm", "fastai") for task in ("clothing-30", "clothing-300")
    )
    took = duration(median(run["wall_seconds"] for run in photos["clothing-300"]["probe"]["runs"]))
    return f"""\
| What | Result |
| --- | --- |
| `lite0` on 30 clothing photos (300, 2,700), by what your photos get | {few} ({some}, {many}) test top-1; \
with 300 in {took} |
| timm's usual recipe on 30 of them (300); fastai's | {timm_few} ({timm_some}); {fastai_few} ({fastai_some}) |
| Training step of `lite0` (`b0`) on a CPU with bfloat16, against timm | \
{times(timm["lite0"]["ratio"])} ({times(timm["b0"]["ratio"])}) the images/s |
| Inference of `lite0` there, against timm | {times(engines["lite0, 1 thread"]["openvino-bf16"]["ratio_to_timm"], 1)} \
with OpenVINO, {times(engines["lite0, 1 thread"]["torch-bf16"]["ratio_to_timm"], 1)} without |
"""


def _accuracy(task: Any, method: str | None = None) -> str:
    """Return the mean test accuracy of a method of `benchmarks small_data`, or of what one's own photos get."""
    method = method or usual_method(task["images"]["train"])
    return percent(task[method]["mean_test_top1"]["value"])


def with_rows(text: str) -> str:
    """Return the README's text with the rows in their place."""
    return _PLACE.sub(lambda match: match[1] + rows(), text)


if __name__ == "__main__":
    README.write_text(with_rows(README.read_text()))
