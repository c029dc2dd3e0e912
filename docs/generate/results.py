"""The README's rows of results: `python -m docs.generate.results` puts them there."""

from __future__ import annotations

import re
from pathlib import Path

from docs.generate.measurement import duration, load, percent, times

README = Path(__file__).parents[2] / "README.md"
_PLACE = re.compile(r"(<!-- results: .*? -->\n).*?(?=<!-- end of results -->)", re.DOTALL)


def rows() -> str:
    """Return the table, a line each."""
    photos, choice = load("small_data_cpu"), load("choose_clothing_cpu")
    timm, engines = load("cpu_training_cpu"), load("inference_cpu")
    few, many = (photos[task]["lpft"]["mean_test_top1"]["value"] for task in ("clothing-300", "clothing-2700"))
    recipes = [photos["clothing-300"][name]["mean_test_top1"]["value"] for name in ("timm", "fastai")]
    gain = 100 * choice["fine_tuning"]["difference"]["value"]
    took = duration(sum(choice["seconds"].values()))
    return f"""\
| What | Result |
| --- | --- |
| `lite0` on 300 clothing photos (2,700), by what your photos get | {percent(few)} ({percent(many)}) test top-1; \
timm's usual recipe {percent(recipes[0])}, fastai's {percent(recipes[1])} |
| `choose` on {choice["num_images"]:,} photos | fine-tuning {gain:+.1f} points over the probe on the same folds, \
{took} in all |
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
