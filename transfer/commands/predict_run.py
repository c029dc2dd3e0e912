"""Classify photos with a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from datamodules.images.transforms import build_eval_transform, normalize
from datamodules.loading.predicting import build_predict_loader
from transfer.calibration.calibration import Calibration
from transfer.commands.predict_options import Batch, Options
from transfer.images.depth import Decoding
from transfer.inference.classifier import EngineClassifier
from transfer.inference.names import needs_cpu, num_examples
from transfer.runs.predictor import Run, load_run


@dataclass(frozen=True)
class RunPredictor:
    """A run with an engine; see `Predictor`."""

    run: Run
    options: Options

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.run.class_names

    @property
    def multilabel(self) -> bool:
        return self.run.config.data.multilabel

    @property
    def separator(self) -> str:
        return self.run.config.data.label_separator

    @property
    def decoding(self) -> Decoding:
        return self.run.decoding

    @property
    def temperature(self) -> float:
        return self.run.temperature

    def calibrated(self) -> Calibration:
        return self.run.calibrated()

    def predict(self, paths: Sequence[Path]) -> Iterator[Batch]:
        run, options = self.run, self.options
        transform = build_eval_transform(run.preprocessing)
        loader = build_predict_loader(list(paths), transform, options.batch_size, options.num_workers, run.decoding)
        for images, names, unreadable in loader:
            found = run.predictions(images, options.top_k or 1, options.guarantees) if names else []
            yield Batch(names, found, unreadable)

    def engine(self) -> str:
        assert isinstance(self.run.classifier, EngineClassifier)
        record = self.run.classifier.record
        is_plain = record is None or not (record.images_compared or record.refused)
        return "" if is_plain else f"engine: {record}"


def open_run(run_dir: Path, paths: Sequence[Path], options: Options) -> RunPredictor:
    """Return a run, on a GPU where there is one, with the engine that computes so many images.

    Raises:
        UserError: see `load_run` and `choose_engine`.
    """
    run = load_run(run_dir, f"{options.checkpoint}.ckpt", allow_user_code=options.allow_user_code)
    run.classifier.to("cuda" if torch.cuda.is_available() and not needs_cpu(options.engine) else "cpu")
    examples = partial(read_examples, run, paths, options.num_workers, num_examples(options.engine))
    return RunPredictor(run.with_engine(options.engine, len(paths), examples), options)


def read_examples(run: Run, paths: Sequence[Path], num_workers: int | None, most: int) -> Tensor:
    """Return images from all over, normalised, that engines are compared on: the readable ones of so many files."""
    chosen = list(paths[:: max(1, len(paths) // most)][:most])
    transform = build_eval_transform(run.preprocessing)
    images, _, _ = next(iter(build_predict_loader(chosen, transform, most, num_workers, run.decoding)))
    return normalize(images, run.preprocessing)
