"""Sets hold the class as often as promised, in all and in every class that has a quantile of its own."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from transfer.calibration.calibration import fit_calibration
from transfer.calibration.conformal import class_groups, in_set, limits, measure_sets
from transfer.calibration.guarantees import Guarantees
from transfer.calibration.temperature import as_probabilities, folds
from transfer.commands.calibrate import summarize


def images(
    rng: np.random.Generator, count: int, skill: tuple[float, ...]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities and classes; `skill` is how well each class is recognised."""
    targets = rng.integers(len(skill), size=count)
    logits = rng.normal(size=(count, len(skill)))
    logits[np.arange(count), targets] += np.array(skill)[targets]
    return as_probabilities(logits, False), targets


def test_limits_are_counted_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.55, 0.45]])
    targets = np.array([0, 0, 0, 1, 1])  # scores 0.1, 0.2, 0.4, 0.3, 0.55
    one = np.zeros(2, np.int64)
    assert limits(probabilities, targets, one, 0.5).tolist() == pytest.approx([0.3, 0.3])  # third of 6 * 0.5
    assert limits(probabilities, targets, one, 0.8).tolist() == pytest.approx([0.55, 0.55])
    assert limits(probabilities, targets, one, 0.9).tolist() == [np.inf, np.inf]
    assert limits(probabilities, targets, np.array([1, 2]), 0.5).tolist() == pytest.approx([0.2, 0.55])


def test_the_most_probable_class_always_belongs() -> None:
    member = in_set(np.array([[0.4, 0.35, 0.25], [0.1, 0.2, 0.7]]), np.array([0.2, 0.65, 0.5]))
    assert member.tolist() == [[True, True, False], [False, False, True]]


@pytest.mark.parametrize("coverage", [0.9, 0.95])
def test_sets_hold_the_class_as_often_as_promised(coverage: float) -> None:
    rng = np.random.default_rng(0)
    held: list[float] = []
    for _ in range(200):
        val, targets = images(rng, 150, (1.0, 1.0, 1.0, 1.0))
        groups = class_groups(targets, 4, coverage)
        assert groups.tolist() == [0, 0, 0, 0]
        others, classes = images(rng, 200, (1.0, 1.0, 1.0, 1.0))
        member = in_set(others, limits(val, targets, groups, coverage))
        held.append(member[np.arange(200), classes].mean())
    assert coverage - 0.005 < np.mean(held) < coverage + 0.015


def test_a_class_with_enough_images_is_covered_for_itself() -> None:
    rng = np.random.default_rng(0)
    skill = (3.0, 1.0, 0.0)
    by_class: list[NDArray[np.float64]] = []
    in_all: list[NDArray[np.float64]] = []
    for _ in range(60):
        val, targets = images(rng, 900, skill)
        others, classes = images(rng, 600, skill)
        groups = class_groups(targets, 3, 0.9)
        assert groups.tolist() == [1, 2, 3]
        for found, of in ((by_class, groups), (in_all, np.zeros(3, np.int64))):
            member = in_set(others, limits(val, targets, of, 0.9))[np.arange(600), classes]
            found.append(np.array([member[classes == c].mean() for c in range(3)]))
    # The easy class is above: its sets hold the most probable class anyway.
    assert (np.mean(by_class, axis=0) > 0.89).all() and np.mean(by_class, axis=0)[1:] == pytest.approx(0.9, abs=0.02)
    assert np.mean(in_all, axis=0)[2] < 0.87  # without, the hard class pays for the easy one


def test_small_classes_share_a_quantile_or_all_do() -> None:
    counts = {"own and shared": [200, 60, 60, 150], "one for all": [200, 60, 20, 150], "own": [100, 100, 100, 100]}
    found = {name: class_groups(np.repeat(np.arange(4), sizes), 4, 0.9).tolist() for name, sizes in counts.items()}
    assert found == {"own and shared": [1, 0, 0, 2], "one for all": [0, 0, 0, 0], "own": [1, 2, 3, 4]}
    assert class_groups(np.repeat(np.arange(2), 100), 2, 0.995).tolist() == [0, 0]  # 199 images are needed


def test_what_sets_are_on_val_is_measured_by_the_other_folds() -> None:
    rng = np.random.default_rng(0)
    probabilities, targets = images(rng, 400, (1.5, 1.5, 1.5))
    fold = folds(400)
    found = measure_sets(probabilities, targets, fold, 0.9)
    assert found is not None
    held, sizes = [], []
    for i in range(5):
        own = fold == i
        scores = np.sort(1 - probabilities[~own][np.arange(320), targets[~own]])
        assert found.own_quantiles == 3
        for image, target in zip(probabilities[own], targets[own], strict=True):
            chosen = []
            for c in range(3):
                of_class = np.sort(1 - probabilities[~own][targets[~own] == c][:, c])
                if 1 - image[c] <= of_class[int(np.ceil((len(of_class) + 1) * 0.9)) - 1] or c == image.argmax():
                    chosen.append(c)
            held.append(target in chosen)
            sizes.append(len(chosen))
    assert (found.coverage, found.mean_size) == pytest.approx((np.mean(held), np.mean(sizes)))
    assert all(low <= high for low, high in pairwise(scores))


def test_a_higher_coverage_gives_larger_sets() -> None:
    probabilities, targets = images(np.random.default_rng(0), 500, (1.0, 1.0, 1.0, 1.0, 1.0))
    found = [measure_sets(probabilities, targets, folds(500), share) for share in (0.5, 0.8, 0.95)]
    sizes = [facts.mean_size for facts in found if facts is not None]
    assert len(sizes) == 3 and sizes == sorted(sizes) and sizes[0] < sizes[-1]


@pytest.mark.parametrize(("count", "is_measured"), [(19, False), (23, False), (24, True)])
def test_too_few_images_for_cross_fitting_are_no_measurement(count: int, is_measured: bool) -> None:
    """19 images are needed for 0.95: of fewer, which four folds of 23 are, every class would belong to every set."""
    probabilities, targets = images(np.random.default_rng(0), count, (2.0, 2.0))
    assert (measure_sets(probabilities, targets, folds(count), 0.95) is not None) == is_measured
    assert np.isfinite(limits(probabilities, targets, np.zeros(2, np.int64), 0.95)).all()
    spread = np.log(probabilities)
    fitted = fit_calibration(spread, targets, np.random.default_rng(1).normal(size=(count, 4)))
    (line,) = Guarantees(sets=0.95).describe(fitted)
    assert ("too few to measure by cross-fitting" in line) != is_measured
    assert ("sets" in summarize(fitted) and "0.95" in summarize(fitted)["sets"]) == is_measured
