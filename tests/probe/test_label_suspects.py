"""Doubtful labels: the rule on small matrices, against cleanlab's, and on labels that were changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from transfer.folds import draw_folds
from transfer.probe.cross_validation import cross_validate
from transfer.probe.features import Features
from transfer.probe.label_suspects import rank_suspects


def doubted(probabilities: NDArray[np.float32], is_label: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """Image, label and suggestion of each suspect, whose probabilities are those of the matrix."""
    found = rank_suspects(probabilities, is_label)
    for one in found:
        assert one.label_probability == probabilities[one.image, one.label]
        assert one.suggested_probability == probabilities[one.image, one.suggested] > one.label_probability
    return [(one.image, one.label, one.suggested) for one in found]


def test_suspects_are_confident_in_another_class_than_their_label() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    first = np.array([0.9, 0.7, 0.1, 0.2, 0.3, 0.45])  # usual: 0.567 for class 0, 0.683 for class 1
    probabilities = np.stack([first, 1 - first], 1).astype(np.float32)
    assert doubted(probabilities, np.eye(2, dtype=bool)[labels]) == [(2, 0, 1)]
    probabilities[4] = (0.8, 0.2)
    assert doubted(probabilities, np.eye(2, dtype=bool)[labels]) == [(2, 0, 1), (4, 1, 0)]


def test_an_image_with_several_labels_is_suspect_for_one_that_it_lacks() -> None:
    is_label = np.array([[True, False, False], [True, True, False], [False, True, True]])
    probabilities = np.array([[0.1, 0.95, 0.2], [0.9, 0.8, 0.1], [0.2, 0.9, 0.9]], np.float32)
    assert doubted(probabilities, is_label) == [(0, 0, 1)]


def test_suspects_are_cleanlabs() -> None:
    """Of cleanlab 2.9.0's `find_label_issues` with `low_normalized_margin`."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 60)
    logits = rng.normal(0, 1, (60, 3)) + 2 * np.eye(3)[truth]
    labels = np.where(rng.random(60) < 0.15, (truth + 1) % 3, truth)
    probabilities = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    expected = [57, 33, 52, 19, 6, 42, 36, 10, 49]
    assert [image for image, *_ in doubted(probabilities, np.eye(3, dtype=bool)[labels])] == expected


def test_changed_labels_are_found_out_of_fold() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(300) % 3
    features = torch.from_numpy(4 * np.eye(3)[truth] + rng.normal(size=(300, 3))).float()
    labels = truth.copy()
    labels[:15] = (truth[:15] + 1) % 3
    found = cross_validate([Features(features, torch.from_numpy(labels))], 3, draw_folds(labels, 5))
    suspects = rank_suspects(found.probabilities, np.eye(3, dtype=bool)[labels])
    found_images = {one.image for one in suspects}
    assert len(found_images & set(range(15))) >= 10 and len(found_images - set(range(15))) <= 2
    assert all(one.suggested == truth[one.image] for one in suspects[:10])


def test_nothing_is_doubted_where_all_is_predicted_right() -> None:
    is_label = np.eye(3, dtype=bool)[np.arange(9) % 3]
    assert rank_suspects(np.where(is_label, 0.8, 0.1).astype(np.float32), is_label) == []
    assert (
        rank_suspects(np.ones((4, 1), np.float32), np.ones((4, 1), bool)) == []
    )  # one class: nothing else it could be


@pytest.mark.parametrize("label", [0, 1])
def test_a_class_without_images_is_not_suggested(label: int) -> None:
    probabilities = np.array([[0.2, 0.1, 0.7], [0.1, 0.2, 0.7]], np.float32)
    assert rank_suspects(probabilities, np.eye(3, dtype=bool)[[label, label]]) == []
