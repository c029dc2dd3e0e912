"""What a network is most wrong about, and what it takes for what."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.tracked import CLASS_NAMES, CONFUSIONS, LABELS, PROBABILITIES, WORST
from transfer.runs.test_record import make_predictions
from transfer.tracking.mistakes import MOST_MISTAKES, count_confusions, find_mistakes


def test_the_worst_mistakes_come_first() -> None:
    found = make_predictions(LABELS, PROBABILITIES, [f"{k}.png" for k in range(6)], CLASS_NAMES)
    mistakes = find_mistakes(found, lambda place: None)
    assert [one.image for one in mistakes] == WORST
    assert [(one.label, one.prediction) for one in mistakes] == [("cat", "bee"), ("bee", "ant"), ("ant", "bee")]
    shares = [(one.probability, one.label_probability) for one in mistakes]
    assert np.allclose(shares, [(0.97, 0.01), (0.9, 0.05), (0.6, 0.1)])


def test_confusions_are_counted_most_first() -> None:
    labels, said = np.array([0, 0, 0, 1, 2]), np.array([1, 1, 0, 1, 0])
    found = make_predictions(labels, np.eye(3, dtype=np.float32)[said], [], CLASS_NAMES)
    counted = count_confusions(found)
    assert counted[0] == ("ant", "bee", 2) and sum(images for _, _, images in counted) == 5
    assert set(count_confusions(make_predictions(LABELS, PROBABILITIES, [], CLASS_NAMES))) == CONFUSIONS


def test_of_several_labels_any_difference_is_a_mistake() -> None:
    labels = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]])
    probabilities = np.array([[0.9, 0.2, 0.1], [0.8, 0.1, 0.7], [0.1, 0.2, 0.6]], np.float32)
    found = make_predictions(labels, probabilities, ["a", "b", "c"], CLASS_NAMES)
    first, second = find_mistakes(found, lambda place: None)
    assert (first.image, first.label, first.prediction) == ("b", "ant|bee", "ant|cat")
    assert (first.probability, first.label_probability) == pytest.approx((0.7, 0.1))
    assert (second.image, second.label, second.prediction, second.label_probability) == ("c", "", "cat", 1.0)
    assert count_confusions(found) == []


def test_a_table_of_mistakes_ends() -> None:
    probabilities = np.tile(np.array([[0.1, 0.9, 0.0]], np.float32), (100, 1))
    found = make_predictions(np.zeros(100, np.int64), probabilities, [], CLASS_NAMES)
    asked: list[int] = []
    assert len(find_mistakes(found, asked.append)) == MOST_MISTAKES == len(asked)
