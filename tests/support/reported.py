"""Folders of finished runs for the tests of their report, without a network: results, answers, pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from transfer.calibration.calibration import fit_calibration
from transfer.calibration.file import save_calibration
from transfer.config.schema import FinetuneConfig
from transfer.records import Interval
from transfer.report.answers import Answers
from transfer.report.photos import Facts, Photos
from transfer.run_files import CALIBRATION, METRICS, PREDICTIONS, VAL_PREDICTIONS
from transfer.runs.results import Metrics, Results, SplitFacts
from transfer.runs.test_record import SavedPredictions, make_predictions

HOSTILE = ("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a\"b'c&d", "\u202egnp.exe\n${x}{{ x }}")


def written_run(
    folder: Path,
    class_names: Sequence[str],
    num_images: int = 60,
    *,
    split: str = "val",
    multilabel: bool = False,
    seed: int = 0,
    results: dict[str, Any] | None = None,
) -> SavedPredictions:
    """Write a run's folder with random answers on one split, and return these."""
    folder.mkdir(parents=True)
    rng, size = np.random.default_rng(seed), len(class_names)
    truth = rng.integers(0, size, num_images)
    labels = rng.random((num_images, size)) < 0.3 if multilabel else truth
    logits = rng.normal(size=(num_images, size)) + 2 * np.eye(size)[truth]
    scores = 1 / (1 + np.exp(-logits)) if multilabel else np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    paths = [f"/photos/{class_names[i % size]}/{i}.jpg".replace("\n", " ") for i in range(num_images)]
    saved = make_predictions(labels, scores.astype(np.float32), paths, class_names)
    saved.save(folder / {"val": VAL_PREDICTIONS, "test": PREDICTIONS}[split])
    save_calibration(fit_calibration(logits, labels, rng.normal(size=(num_images, 8))), folder / CALIBRATION)
    (folder / METRICS).write_text(
        "epoch,step,lr,train/loss,val/loss,val/top1\n1,4,0.02,1.5,1.4,0.5\n2,8,,1.1,1.2,0.6\n"
    )
    answers = Answers(split, saved)
    kept = {index: jpeg(rng) for index in answers.photos()}
    evidence = {str(index): class_names[0] for index in kept}
    batch = Facts(split, "CAM", evidence, [class_names[0]] * 2)
    Photos(batch, kept, kept, [jpeg(rng)] * 2).save(folder)
    counts = [int(count) for count in (labels.sum(0) if multilabel else np.bincount(labels, minlength=size))]
    share = float((saved.labels == saved.predictions).mean())
    metric = "map" if multilabel else "top1"
    facts = {
        "command": ["finetune"],
        "dataset": "folder",
        "backbone": "lite0",
        "metrics": {split: Metrics({metric: share, "loss": 1.2})},
        "intervals": {split: {metric: Interval(0.5, 0.7)}},
        "monitor": metric,
        "splits": {
            name: SplitFacts(size=num_images, fingerprint="0", class_counts=counts) for name in ("train", split)
        },
        "config": FinetuneConfig(dataset="folder", data_root="photos/of mine", seed=seed).to_dict(),
    }
    Results(run_dir=folder, **{**facts, **(results or {})}).save()
    return saved


def jpeg(rng: np.random.Generator) -> bytes:
    """A picture of noise, which compresses worse than any photo."""
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (192, 192, 3), dtype=np.uint8)).save(file, "JPEG", quality=80)
    return file.getvalue()


class Page(HTMLParser):
    """What a browser would make of a page: its elements, its text, and the rows of its tables.

    Attributes:
        elements: names and attributes of the elements, in order.
        text: all text between them but for styles and scripts.
        tables: of each table its rows, of each row the texts of its cells.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br", "path", "use"):
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("style", "script"):
            return
        self.text += data
        if {"td", "th"} & {*self._open}:
            self.tables[-1][-1][-1] += data.strip()
