"""The README's rows of results: `python -m docs.generate.results` puts them there."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median

from docs.generate.measurement import duration, load, percent, times

README = Path(__file__).parents[2] / "README.md"
_PLACE = re.compile(r"(<!-- results: .*? -->\n).*?(?=<!-- end of results -->)", re.DOTALL)


def rows() -> str:
    """Return the table, a line each."""
    photos = load("small_data_cpu")
    timm, engines = load("cpu_training_cpu"), load("inference_cpu")
    few, many = (photos[task]["lpft"]["mean_test_top1"]["value"] for task in ("clothing-300", "clothing-2700"))
    recipes = [photos["clothing-300"][name]["mean_test_top1"]["value"] for name in ("timm", "fastai")]
    probes = [photos[task]["probe"]["mean_test_top1"]["value"] for task in ("clothing-30", "clothing-300")]
    took = duration(median(run["wall_seconds"] for run in photos["clothing-300"]["probe"]["runs"]))
    return f"""\
| What | Result |
| --- | --- |
| `lite0` on 300 clothing photos (2,700), by what your photos get | {percent(few)} ({percent(many)}) test top-1; \
timm's usual recipe {percent(recipes[0])}, fastai's {percent(recipes[1])} |
| `probe` of `lite0` on 30 clothing photos (300) | {percent(probes[0])} ({percent(probes[1])}), in {took} with 300 |
| Training step of `lite0` (`b0`) on a CPU with bfloat16, against timm | \
{times(timm["lite0"]["ratio"])} ({times(timm["b0"]["ratio"])}) the images/s |
| Inference of `lite0` there, against timm | {times(engines["lite0, 1 thread"]["openvino-bf16"]["ratio_to_timm"], 1)} \
with OpenVINO, {times(engines["lite0, 1 thread"]["torch-bf16"]["ratio_to_timm"], 1)} without |
"""


def with_rows(text: str) -> str:
    """Return the README's text with the rows in their place."""
    return _PLACE.sub(lambda match: match[1] + rows(), text)


if __name__ == "__main__":
    README.write_text(with_rows(README.read_text()))
