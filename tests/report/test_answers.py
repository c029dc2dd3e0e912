"""What answers amount to, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from transfer.errors import DamagedFile
from transfer.report.answers import Answers
from transfer.runs.test_record import SavedPredictions, make_predictions
from transfer.statistics import share_interval

NAMES = ("cat", "dog", "owl", "emu")


def drawn(num_images: int = 200, num_classes: int = 4) -> Answers:
    """Random answers, more often right than wrong; the last class has no image."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_classes - 1, num_images)
    logits = rng.normal(size=(num_images, num_classes)) + 1.5 * np.eye(num_classes)[labels]
    probabilities = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    return Answers("val", make_predictions(labels, probabilities, [], NAMES[:num_classes]))


def test_the_matrix_the_pairs_and_the_classes_are_those_of_scikit_learn() -> None:
    answers = drawn()
    labels, found = answers.saved.labels, answers.saved.predictions
    expected = confusion_matrix(labels, found, labels=range(4))
    assert (answers.matrix() == expected).all()
    pairs = {(pair.given, pair.predicted): len(pair.images) for pair in answers.confusions}
    assert pairs == {(i, j): expected[i, j] for i in range(4) for j in range(4) if i != j and expected[i, j]}
    counts = [len(pair.images) for pair in answers.confusions]
    assert counts == sorted(counts, reverse=True) and sum(counts) == (labels != found).sum()
    for pair in answers.confusions:
        assert pair.share == pytest.approx(len(pair.images) / expected[pair.given].sum())
        assert {(labels[i], found[i]) for i in pair.images} == {(pair.given, pair.predicted)}
    scores = precision_recall_fscore_support(labels, found, labels=range(4), zero_division=0)
    for row, precision, recall, f1, images in zip(answers.class_rows, *scores, strict=True):
        assert row.images == images
        assert (row.recall or 0, row.precision or 0, row.f1 or 0) == pytest.approx((recall, precision, f1))
        assert row.interval == (share_interval(recall, images) if images else None)
    assert answers.class_rows[3].recall is None and answers.class_rows[3].interval is None


def test_several_labels_are_counted_as_scikit_learn_does() -> None:
    rng = np.random.default_rng(1)
    labels, probabilities = rng.random((60, 3)) < 0.4, rng.random((60, 3), dtype=np.float32)
    answers = Answers("test", make_predictions(labels, probabilities, [], NAMES[:3], 0.6), 0.6)
    expected = precision_recall_fscore_support(labels, probabilities >= 0.6, average=None)
    for row, precision, recall, f1, images in zip(answers.class_rows, *expected, strict=True):
        assert (row.precision, row.recall, row.f1, row.images) == pytest.approx((precision, recall, f1, images))
    assert answers.confusions == []


def test_the_worst_and_the_most_unsure_photos_by_hand() -> None:
    rows = [[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.05, 0.05, 0.9], [0.4, 0.35, 0.25], [0.34, 0.33, 0.33]]
    labels = np.array([0, 0, 1, 1, 2])  # the first alone is right
    answers = Answers("val", make_predictions(labels, np.array(rows, np.float32), [], NAMES[:3]))
    assert answers.worst() == [2, 1, 3, 4] and answers.worst(2) == [2, 1]
    assert answers.unsure(2) == [4, 3]
    found = [(pair.given, pair.predicted, pair.images, pair.share) for pair in answers.confusions]
    assert found == [(2, 0, [4], 1.0), (0, 1, [1], 0.5), (1, 0, [3], 0.5), (1, 2, [2], 0.5)]
    assert answers.photos()[:4] == [2, 1, 3, 4] and sorted(answers.photos()) == [0, 1, 2, 3, 4]


def test_the_worst_and_the_most_unsure_labels_by_hand() -> None:
    probabilities = np.array([[0.9, 0.2], [0.1, 0.45], [0.98, 0.97]], np.float32)
    labels = np.array([[1, 0], [1, 0], [1, 0]], bool)
    answers = Answers("test", make_predictions(labels, probabilities, [], NAMES[:2]))
    assert answers.worst() == [2, 1]  # 0.97 of a dog that is none, then 0.1 of a cat that is one
    assert [answers.mistake(index) for index in (2, 1)] == [1, 0]
    assert answers.unsure(1) == [1] and answers.doubt(1) == 1
    assert answers.given_names(0) == ["cat"]


def test_a_network_that_diverged_has_no_photos_to_show_and_unknown_classes_are_damage() -> None:
    labels = np.array([0, 1])
    diverged = Answers("val", make_predictions(labels, np.full((2, 2), np.nan, np.float32), [], NAMES[:2]))
    assert diverged.worst() == diverged.unsure() == [] and len(diverged.confusions) == 1
    with pytest.raises(DamagedFile, match="predictions on test: 6 classes, but 2 names"):
        Answers("test", SavedPredictions(labels, np.array([0, 5]), class_names=NAMES[:2])).class_names  # noqa: B018
