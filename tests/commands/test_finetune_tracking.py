"""What of a run its tracker is told at the end: the confusions and mistakes, and photos if they may leave."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from datamodules import load_dataset
from tests.support.runs import save_classes
from transfer.commands.finetune_tracking import conclude
from transfer.config.schema import FinetuneConfig
from transfer.run_files import PREDICTIONS, VAL_PREDICTIONS
from transfer.runs.results import Metrics, Results
from transfer.runs.test_record import make_predictions
from transfer.tracking.tracker import Outcome, Tracker


class Told(Tracker):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.loggers = [SimpleNamespace()]  # type: ignore[list-item]
        self.outcomes: list[Outcome] = []

    def conclude(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


def told(tmp_path: Path, splits: Sequence[str], log_photos: bool) -> Outcome:
    """What a tracker hears of a run that calls every image a cat, and answered these splits."""
    data = load_dataset("folder", data_root=str(save_classes(tmp_path / "photos", {"cat": 20, "dog": 20})))
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for split in splits:
        images = data.split(split)
        backwards = list(range(len(images)))[::-1]  # a run answers in an order of its own
        names = images.image_names()
        make_predictions(
            np.array([int(images.labels[k]) for k in backwards]),
            np.tile(np.float32([0.75, 0.25]), (len(images), 1)),
            [names[k] for k in backwards],
            data.class_names,
        ).save(run_dir / {"val": VAL_PREDICTIONS, "test": PREDICTIONS}[split])
    metrics = {split: Metrics(top1=0.5) for split in splits}
    results = Results(run_dir=run_dir, command=[], dataset="folder", backbone="lite0", metrics=metrics)
    prepared = SimpleNamespace(config=FinetuneConfig(log_photos=log_photos), data=SimpleNamespace(dataset=data))
    tracker = Told()
    conclude(tracker, prepared, results)  # type: ignore[arg-type]
    (outcome,) = tracker.outcomes
    return outcome


@pytest.mark.parametrize("splits", [["val"], ["val", "test"]])
def test_the_mistakes_are_those_on_test_or_else_on_val(tmp_path: Path, splits: list[str]) -> None:
    outcome = told(tmp_path, splits, log_photos=True)
    assert outcome.split == splits[-1] and {c[:2] for c in outcome.confusions} == {("cat", "cat"), ("dog", "cat")}
    assert len(outcome.mistakes) == next(images for actual, _, images in outcome.confusions if actual == "dog")
    for mistake in outcome.mistakes:
        assert mistake.picture is not None and mistake.label == Path(mistake.image).parent.name == "dog"
        assert np.asarray(mistake.picture).mean() > 128  # dogs are bright in these photos


def test_no_photo_is_shown_unless_it_may_be(tmp_path: Path) -> None:
    outcome = told(tmp_path, ["val"], log_photos=False)
    assert outcome.mistakes and {mistake.picture for mistake in outcome.mistakes} == {None}


def test_a_run_that_answered_nothing_has_no_mistakes(tmp_path: Path) -> None:
    outcome = told(tmp_path, [], log_photos=True)
    assert not outcome.confusions and not outcome.mistakes
