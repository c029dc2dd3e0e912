"""Tables with every kind of result, for the tests of their report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transfer.paper import PARAMETERS_WITHOUT_CLASSIFIER

# Tan & Le's released code.
SIZES = {"b0": 224, "b1": 240, "b2": 260, "b3": 300, "b4": 380, "b5": 456, "b6": 528, "b7": 600}
EVIL = "=HYPERLINK(1)|<b>x</b>\n`$y_z"


def done(top1: float, mean_per_class: float, **fields: Any) -> dict[str, Any]:
    """A result.json as a table writes it; accuracies in percent."""
    return {
        "status": "done",
        "metrics": {"test": {"top1": top1 / 100, "mean_per_class": mean_per_class / 100, "loss": 0.1}, "val": None},
        "quoted_metric": "top1",
        "num_parameters_without_classifier": PARAMETERS_WITHOUT_CLASSIFIER["b0"],
        "decay": {},
        "chosen": {"optim.lr": 0.01},
        "num_trials": 56,
        "search": "full grid",
        "overrides": {},
        "data_note": None,
        "weights": {"name": "w", "sha256": "0", "trained_on": "ImageNet-1k"},
        "final_run": "final/1",
        "test_reads": 1,
        "train_seconds": 100.0,
        "gpu_hours": 0.5,
        "hardware": {"cpu": "Xeon", "cores": 2, "gpus": []},
        "versions": {"torch": "2.13.0"},
        "git_commit": "0123abcd",
        "error": None,
        **fields,
    }


def of(backbone: str) -> int:
    return PARAMETERS_WITHOUT_CLASSIFIER[backbone]


def every_kind_of_cell() -> list[tuple[str, str, str, dict[str, Any] | None]]:
    """Dataset, backbone, protocol and result.json (None: not run) of each planned cell, in the plan's order."""
    pets = {"quoted_metric": "mean_per_class", "num_parameters_without_classifier": of("b4")}
    bent = {
        "search": "reduced grid: 4 of 56",
        "overrides": {"image_size": 32, "optim.lr": 0.1},
        "data_note": "went through JPEG once",
        "weights": {"name": "w", "trained_on": "JFT-300M and ImageNet-1k"},
        "test_reads": 2,
        "image_size": 32,
        "num_parameters_without_classifier": of("b4"),
    }
    birds = {"decay": {"test": "1,902 of 2,443 test images"}, "num_parameters_without_classifier": of("b5")}
    return [
        (EVIL, "lite0", "scratch", done(50, 40, weights=None, chosen={})),
        ("food101", "b4", "kornblith", done(91.9, 91.9, **bent)),
        ("cifar10", "b0", "kornblith", done(97.9, 97.8)),
        ("cifar10", "b0", "kornblith", done(98.1, 98.0)),
        ("cifar10", "b0", "kornblith", done(98.3, 98.2)),
        ("cifar10", "b0", "kornblith", {"status": "failed", "error": "loss is nan | =1\nTraceback"}),
        ("cifar10", "b7", "kornblith", {"status": "failed", "error": EVIL}),
        ("pets", "b4", "paper", done(94.1, 93.0, **pets)),
        ("pets", "b4", "paper", done(94.3, 94.0, **pets)),
        ("birdsnap", "b5", "kornblith", done(70.0, 69.0, **birds)),
        ("cars", "b3", "kornblith", None),
    ]


Cells = list[tuple[str, str, str, dict[str, Any] | None]]


def save_table(folder: Path, cells: Cells, seeds: Sequence[int] | None = None) -> Path:
    """Write a table's files; each cell has its number as its seed, unless others are given."""
    plan = []
    for number, (dataset, backbone, protocol, result) in enumerate(cells):
        seed = number if seeds is None else seeds[number]
        cell = {"id": f"cell-{number}", "dataset": dataset, "backbone": backbone, "protocol": protocol, "seed": seed}
        plan.append({**cell, "image_size": SIZES.get(backbone, 224)})
        path = folder / "cells" / f"cell-{number}" / "result.json"
        path.parent.mkdir(parents=True)
        if result is not None:
            path.write_text(json.dumps({**cell, **result}))
    (folder / "table.json").write_text(json.dumps({"cells": plan, "version": 1}))
    return folder
