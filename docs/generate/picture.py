"""The README's picture: accuracy with few photos, by method. `python -m docs.generate.picture` draws it anew."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from docs.generate.accuracy import METHODS, TASKS
from docs.generate.measurement import load

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = Path(__file__).parents[1] / "few_photos.png"
# Blue and orange for what your photos get by themselves, greys for the rest.
_COLOURS = {"probe": "#c2540a", "lpft": "#1f5fbf", "timm": "#555555", "fastai": "#555555", "defaults": "#555555"}
_DASHES = {"timm": "--", "fastai": ":", "defaults": "-."}


def figures() -> dict[str, list[tuple[int, list[float]]]]:
    """Return for each method its points: the training photos, and the test top-1 in percent of each draw."""
    results = load("small_data_cpu")
    tasks = [results[task] for task in TASKS if task.startswith("clothing")]
    return {
        method: [
            (task["images"]["train"], [100 * run["test_top1"] for run in task[method]["runs"]])
            for task in tasks
            if method in task
        ]
        for method in METHODS
    }


def digest(points: dict[str, Any]) -> str:
    """Return what tells one set of figures from another; the picture carries it."""
    return hashlib.sha256(json.dumps(points).encode()).hexdigest()


def draw() -> None:
    """Draw the picture into `PICTURE`, on white, so that it reads on dark pages, too."""
    points = figures()
    figure, axes = plt.subplots(figsize=(8, 3.6), dpi=110)
    for method, title in METHODS.items():
        _draw_method(axes, title, method, points[method])
    axes.set_xscale("log")
    sizes = [size for size, _ in points["probe"]]
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlim(sizes[0] * 0.85, sizes[-1] * 1.15)
    axes.set_xlabel("training photos, ten classes of clothing")
    axes.set_ylabel("test top-1, %")
    axes.grid(axis="y", color="#dddddd")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Description": digest(points), "Software": ""})
    plt.close(figure)


def _draw_method(axes: Axes, title: str, method: str, points: list[tuple[int, list[float]]]) -> None:
    """Draw a line through the means, and a dot for each draw."""
    colour = _COLOURS[method]
    sizes = [size for size, _ in points]
    means = [sum(draws) / len(draws) for _, draws in points]
    axes.plot(sizes, means, _DASHES.get(method, "-"), color=colour, linewidth=2, label=title)
    for size, draws in points:
        axes.plot([size] * len(draws), draws, ".", color=colour, alpha=0.6)


if __name__ == "__main__":
    draw()
