"""Bootstraps against scipy's, resampled indices and McNemar's exact test."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, f1_score

from transfer.resampling import accuracy_interval, multilabel_intervals, paired_bootstrap
from transfer.statistics import mean_per_class, mean_per_class_interval, share_interval, top1
from transfer.training.metrics import ElevenPointPrecision

Labels = NDArray[np.int64]


def noisy(labels: Labels, share_right: float, rng: np.random.Generator) -> Labels:
    """Predictions that are right with a probability, else the next class."""
    return np.where(rng.random(len(labels)) < share_right, labels, (labels + 1) % 5)


def runs(num_images: int, right_a: float, right_b: float, seed: int = 0) -> tuple[Labels, Labels, Labels]:
    """Labels of five classes, the last of them rare, and two runs' predictions."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(5, size=num_images, p=[0.3, 0.3, 0.2, 0.15, 0.05])
    return labels, noisy(labels, right_a, rng), noisy(labels, right_b, rng)


def test_the_top1_interval_is_scipys_bootstrap() -> None:
    labels, a, b = runs(400, 0.85, 0.8)
    found = paired_bootstrap(labels, a, b)
    gains = (a == labels).astype(float) - (b == labels)
    expected = scipy.stats.bootstrap(
        (gains,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1), batch=1000
    )
    low, high = expected.confidence_interval
    assert found.value == pytest.approx(top1(labels, a) - top1(labels, b))
    assert (found.low, found.high) == (pytest.approx(low, abs=0.004), pytest.approx(high, abs=0.004))
    assert found.num_better / 10_000 == pytest.approx(np.mean(expected.bootstrap_distribution > 0), abs=0.02)


def test_the_interval_of_the_mean_per_class_is_that_of_resampled_images() -> None:
    labels, a, b = runs(60, 0.85, 0.7)  # the rare class is missing from some resamples
    found = paired_bootstrap(labels, a, b, "mean_per_class")
    rng = np.random.default_rng(1)
    drawn = rng.integers(60, size=(3000, 60))
    assert any(len(set(labels[rows])) < 5 for rows in drawn)
    expected = [mean_per_class(labels[r], a[r]) - mean_per_class(labels[r], b[r]) for r in drawn]
    assert found.value == pytest.approx(mean_per_class(labels, a) - mean_per_class(labels, b))
    low, high = np.quantile(expected, [0.025, 0.975])
    assert (found.low, found.high) == (pytest.approx(low, abs=0.015), pytest.approx(high, abs=0.015))


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_95_of_100_intervals_hold_the_true_difference(metric: str) -> None:
    found = [
        paired_bootstrap(*runs(400, 0.85, 0.80, seed), metric, num_resamples=500)  # type: ignore[arg-type]
        for seed in range(300)
    ]
    covered = np.mean([one.low <= 0.05 <= one.high for one in found])
    assert 0.91 <= covered <= 0.98


def test_equal_runs_differ_in_no_resample() -> None:
    labels, a, _ = runs(100, 0.8, 0.8)
    for metric in ("top1", "mean_per_class"):
        found = paired_bootstrap(labels, a, a, metric)  # type: ignore[arg-type]
        assert (found.value, found.low, found.high, found.p_value) == (0, 0, 0, 1)
        assert (found.num_better, found.num_equal, found.num_resamples) == (0, 10_000, 10_000)


def test_what_cancels_out_is_as_good() -> None:
    # A gains an image in each of classes 0 and 1, B two in class 2; thirds are no binary fractions.
    labels = np.repeat([0, 1, 2], 3)
    a, b = labels.copy(), labels.copy()
    b[[0, 3]], a[[6, 7]] = 9, 9
    found = paired_bootstrap(labels, a, b, "mean_per_class")
    assert found.value == 0 and found.num_equal > 0


@pytest.mark.parametrize(("only_a", "only_b"), [(3, 0), (1, 0), (0, 0), (5, 2), (10, 2)])
def test_the_p_value_of_few_different_images_is_mcnemars_exact_one(only_a: int, only_b: int) -> None:
    labels = np.zeros(30, np.int64)
    a, b = labels.copy(), labels.copy()
    b[:only_a], a[only_a : only_a + only_b] = 1, 1
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert paired_bootstrap(labels, a, b).p_value == pytest.approx(expected)


def test_the_p_value_of_many_different_images_is_near_mcnemars() -> None:
    labels, a, b = runs(400, 0.85, 0.8)
    found = paired_bootstrap(labels, a, b)
    expected = binomtest(int(np.sum((a == labels) & (b != labels))), int(np.sum((a == labels) != (b == labels)))).pvalue
    assert found.p_value == pytest.approx(expected, abs=0.02)
    swapped = paired_bootstrap(labels, b, a)
    assert swapped.value == -found.value and swapped.p_value == pytest.approx(found.p_value, abs=0.02)


def test_three_images_that_one_run_alone_gets_right_prove_nothing_per_class_either() -> None:
    labels = np.array([0, 1, 2])
    assert paired_bootstrap(labels, labels, labels + 1, "mean_per_class").p_value == pytest.approx(0.25)


def test_the_same_seed_gives_the_same_interval() -> None:
    data = runs(200, 0.85, 0.8)
    assert paired_bootstrap(*data) == paired_bootstrap(*data)
    assert paired_bootstrap(*data) != paired_bootstrap(*data, seed=1)


def test_several_labels_are_resampled_by_image() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random((80, 3)) < (0.5, 0.3, 0.1)
    probabilities = np.round(0.4 * labels + 0.6 * rng.random((80, 3)), 1).astype(np.float32)  # many are equal
    found = multilabel_intervals(labels, probabilities, num_resamples=300)
    f1, precision, at_points = [], [], []
    for number in range(300):
        drawn = rng.integers(80, size=80)
        f1.append(f1_score(labels[drawn], probabilities[drawn] > 0.5, average="micro"))
        with_label = labels[drawn].any(0)
        precision.append(average_precision_score(labels[drawn][:, with_label], probabilities[drawn][:, with_label]))
        if number < 150:
            metric = ElevenPointPrecision(3)
            metric.update(torch.from_numpy(probabilities[drawn]), torch.from_numpy(labels[drawn]).long())
            at_points.append(float(metric.compute()))
    for name, values in (("f1", f1), ("map", precision), ("map_11", at_points)):
        assert (found[name].low, found[name].high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.03)


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
def test_groups_are_resampled_as_wholes(metric: str) -> None:
    labels, a, b = runs(60, 0.85, 0.7)
    groups = np.random.default_rng(2).choice(["x", "y", "z", "u", "v", "w", "t"], 60)
    measure = mean_per_class if metric == "mean_per_class" else top1
    found = paired_bootstrap(labels, a, b, metric, groups=groups)  # type: ignore[arg-type]
    names, rng = np.unique(groups), np.random.default_rng(1)
    expected, alone = [], []
    for _ in range(3000):
        rows = np.concatenate([np.flatnonzero(groups == name) for name in rng.choice(names, len(names))])
        alone.append(measure(labels[rows], a[rows]))
        expected.append(alone[-1] - measure(labels[rows], b[rows]))
    low, high = np.quantile(expected, [0.025, 0.975])
    assert found.value == pytest.approx(measure(labels, a) - measure(labels, b))
    assert (found.low, found.high) == (pytest.approx(low, abs=0.015), pytest.approx(high, abs=0.015))
    value, interval = accuracy_interval(labels, a, metric, groups)  # type: ignore[arg-type]
    assert value == pytest.approx(measure(labels, a))
    assert (interval.low, interval.high) == pytest.approx(np.quantile(alone, [0.025, 0.975]), abs=0.015)


def test_an_image_a_group_is_no_group() -> None:
    labels, a, b = runs(200, 0.85, 0.7)
    found, alone = paired_bootstrap(labels, a, b, groups=np.arange(200)), paired_bootstrap(labels, a, b)
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high), abs=0.01)
    assert (found.value, found.p_value) == (alone.value, pytest.approx(alone.p_value, abs=0.01))


def test_one_group_that_differs_proves_nothing() -> None:
    labels = np.zeros(40, np.int64)
    a, b, groups = labels.copy(), labels.copy(), np.arange(40) // 10
    b[:10] = 1
    assert paired_bootstrap(labels, a, b).is_better and paired_bootstrap(labels, a, b).p_value < 0.01
    found = paired_bootstrap(labels, a, b, groups=groups)
    assert found.p_value == 1 and not found.is_better
    alone = paired_bootstrap(labels[:10], a[:10], b[:10], groups=groups[:10])
    assert alone.low == alone.high == 1 and not alone.is_better


def test_repeated_predictions_count_by_their_mean() -> None:
    labels, a, b = runs(300, 0.85, 0.8)
    both = np.stack([a, b])
    assert paired_bootstrap(labels, np.stack([a, a, a]), b) == paired_bootstrap(labels, a, b)
    found = paired_bootstrap(labels, both, b, "mean_per_class")
    assert found.value == pytest.approx((mean_per_class(labels, a) - mean_per_class(labels, b)) / 2)
    value, interval = accuracy_interval(labels, both)
    assert value == pytest.approx((top1(labels, a) + top1(labels, b)) / 2)
    assert interval == share_interval(value, 300)
    value, interval = accuracy_interval(labels, a, "mean_per_class")
    assert value == pytest.approx(mean_per_class(labels, a))
    assert interval == mean_per_class_interval(value, np.bincount(labels).tolist())
