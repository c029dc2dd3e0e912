"""Two settings over seeds and images: against analysis of variance by hand, resampled indices and Welch's test."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from transfer.resampling import paired_bootstrap
from transfer.seeds import average_difference, compare_seeds
from transfer.statistics import Metric, mean_per_class, top1

Labels = NDArray[np.int64]


def settings(
    num_seeds: tuple[int, int], num_images: int, spread: float = 0.0, seed: int = 0
) -> tuple[Labels, Labels, Labels]:
    """Labels of four classes, and the predictions of two settings' seeds, which differ by `spread`."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(4, size=num_images, p=[0.4, 0.3, 0.2, 0.1])
    image = rng.normal(size=num_images)
    found = []
    for quality, count in zip((1.2, 1.0), num_seeds, strict=True):
        latent = quality + image + 0.5 * rng.normal(size=num_images) + 0.4 * rng.normal(size=(count, num_images))
        found.append(np.where(latent + spread * rng.normal(size=(count, 1)) > 0, labels, (labels + 1) % 4))
    return labels, found[0], found[1]


def mean_squares(gains: NDArray[np.float64]) -> tuple[float, float, float]:
    """The mean squares of a crossed table of seeds and images, as a textbook's two-way analysis has them."""
    (seeds, images), mean = gains.shape, gains.mean()
    of_seeds = images * np.sum((gains.mean(1) - mean) ** 2) / (seeds - 1)
    of_images = seeds * np.sum((gains.mean(0) - mean) ** 2) / (images - 1)
    rest = gains - gains.mean(1)[:, None] - gains.mean(0) + mean
    return of_seeds, of_images, np.sum(rest**2) / ((seeds - 1) * (images - 1))


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_the_variance_of_pairs_is_that_of_a_two_way_analysis(num_seeds: int) -> None:
    labels, a, b = settings((num_seeds, num_seeds), 400, spread=0.1)
    gains = (a == labels).astype(float) - (b == labels)
    of_seeds, of_images, rest = mean_squares(gains)
    expected = (of_seeds + of_images - rest) / gains.size
    found = compare_seeds(labels, a, b, paired=True, num_resamples=100)
    lost = (of_seeds / gains.size) ** 2 / (num_seeds - 1) + ((of_images - rest) / gains.size) ** 2 / 399
    intervals = [
        scipy.stats.t.interval(0.95, degrees, gains.mean(), variance**0.5)
        for variance, degrees in ((expected, expected**2 / lost), (of_images / gains.size, 399))
    ]
    low, high = max(intervals, key=lambda interval: interval[1] - interval[0])
    assert (found.value, found.low, found.high) == pytest.approx((gains.mean(), low, high))
    assert found.covers_seeds and found.paired and found.num_seeds == (num_seeds, num_seeds)


def test_seeds_that_alone_differ_give_welchs_interval() -> None:
    # Images differ by chance of the seed alone, so that nothing is left between images.
    rng = np.random.default_rng(0)
    labels = np.zeros(2000, np.int64)
    a, b = (np.array([rng.random(2000) > share for share in shares]).astype(int)
            for shares in ((0.70, 0.80, 0.75), (0.6, 0.5, 0.62, 0.48)))  # fmt: skip
    found = compare_seeds(labels, a, b, paired=False, num_resamples=100)
    expected = scipy.stats.ttest_ind((a == 0).mean(1), (b == 0).mean(1), equal_var=False)
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.01)
    assert found.p_value == pytest.approx(expected.pvalue, abs=0.005) and found.num_seeds == (3, 4)


def test_seeds_that_happen_to_agree_are_not_narrower_than_their_images() -> None:
    # Every seed is as much better, on other images: between seeds there is nothing, between images as good as nothing.
    labels = np.zeros(300, np.int64)
    b = np.repeat(np.array([0] * 150 + [1] * 150)[None], 3, axis=0)
    a = b.copy()
    for seed in range(3):
        a[seed, 150 + 20 * seed : 170 + 20 * seed] = 0
        a[seed, 10 * seed : 10 * seed + 10] = 1
    found = compare_seeds(labels, a, b, paired=True, num_resamples=100)
    gains = np.mean((a == 0).astype(float) - (b == 0), axis=0)
    assert found.value == pytest.approx(10 / 300)
    assert found.variance == pytest.approx(np.var(gains, ddof=1) / 300) and found.degrees == 299


def test_seeds_that_agree_leave_the_interval_of_images() -> None:
    labels, a, b = settings((1, 1), 1000)
    same_a, same_b = (np.repeat(predictions, 3, axis=0) for predictions in (a, b))
    metrics: tuple[Metric, ...] = ("top1", "mean_per_class")
    for metric in metrics:
        alone = paired_bootstrap(labels, a[0], b[0], metric, num_resamples=2000)
        for paired in (True, False):
            found = compare_seeds(labels, same_a, same_b, metric, paired=paired)
            assert found.value == pytest.approx(alone.value)
            assert (found.low, found.high) == pytest.approx((alone.low, alone.high), abs=0.006)
    assert not compare_seeds(labels, a, b, paired=True).covers_seeds


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
@pytest.mark.parametrize("paired", [True, False])
def test_the_bootstrap_draws_seeds_and_images(metric: str, paired: bool) -> None:
    labels, a, b = settings((3, 3), 80, spread=0.3)
    measure, rng = (mean_per_class if metric == "mean_per_class" else top1), np.random.default_rng(1)
    expected = []
    for _ in range(2000):
        images, rows = rng.integers(80, size=80), rng.integers(3, size=3)
        others = rows if paired else rng.integers(3, size=3)
        shares = [np.mean([measure(labels[images], of[k][images]) for k in chosen])
                  for of, chosen in ((a, rows), (b, others))]  # fmt: skip
        expected.append(shares[0] - shares[1])
    found = compare_seeds(labels, a, b, metric, paired=paired).bootstrap  # type: ignore[arg-type]
    assert found is not None
    assert (found.low, found.high) == pytest.approx(np.quantile(expected, [0.025, 0.975]), abs=0.02)


def test_95_of_100_intervals_of_three_seeds_hold_the_true_difference() -> None:
    truth = np.subtract(*scipy.stats.norm.cdf(np.array([1.2, 1.0]) / np.sqrt(1 + 0.25 + 0.16 + 0.3**2)))
    every = [compare_seeds(*settings((3, 3), 500, 0.3, seed), paired=True, num_resamples=20) for seed in range(200)]
    assert 0.91 <= np.mean([one.low <= truth <= one.high for one in every]) <= 0.99
    bootstraps = [one.bootstrap for one in every if one.bootstrap]
    assert np.mean([one.low <= truth <= one.high for one in bootstraps]) < 0.90


def test_equal_settings_do_not_differ() -> None:
    labels, a, _ = settings((3, 3), 100)
    found = compare_seeds(labels, a, a, paired=True)
    assert (found.value, found.low, found.high, found.p_value) == (0, 0, 0, 1)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("num_images", [3, 6, 13, 200])
def test_a_difference_on_every_image_proves_what_its_exchange_does(num_images: int, paired: bool) -> None:
    labels = np.arange(num_images)
    found = compare_seeds(labels, np.stack([labels] * 2), np.stack([labels + 1] * 2), paired=paired)
    assert (found.value, found.variance, found.low, found.high) == pytest.approx((1, 0, 1, 1), rel=1e-12)
    # Of all ways to exchange the predictions, two are as extreme; beyond 13 images 8,192 random ones are tried.
    assert found.p_value == pytest.approx(max(2 / 2**num_images, 2 / (2**13 + 1)), rel=1e-3)


def test_a_difference_on_a_whole_class_proves_what_its_exchange_does() -> None:
    labels = np.array([0] * 4 + [1] * 40)
    wrong = np.where(labels == 0, 1, labels)
    found = compare_seeds(labels, np.stack([labels] * 3), np.stack([wrong] * 3), "mean_per_class", paired=True)
    assert (found.value, found.variance, found.p_value) == (0.5, 0, 2 / 2**4)
    both = average_difference([found, compare_seeds(labels, *np.array([[labels] * 3, [labels] * 3]), paired=True)])
    assert (both.value, both.variance, both.p_value) == (0.25, 0, found.p_value)


def test_images_that_are_alone_in_their_class_vary_too() -> None:
    truth, *both = settings((3, 3), 200, spread=0.2)
    labels = np.arange(200)
    a, b = (np.where(one == truth, labels, -1) for one in both)
    plain, per_class = (
        compare_seeds(labels, a, b, paired=True),
        compare_seeds(labels, a, b, "mean_per_class", paired=True),
    )
    assert per_class.degrees > 3 and (per_class.value, per_class.variance, per_class.degrees) == pytest.approx(
        (plain.value, plain.variance, plain.degrees)
    )


@pytest.mark.parametrize(("only_a", "only_b"), [(5, 0), (9, 2), (13, 0)])
def test_few_images_that_differ_prove_no_more_than_their_exchange(only_a: int, only_b: int) -> None:
    labels = np.zeros((1000,), np.int64)
    a, b = np.zeros((2, 1000), np.int64), np.zeros((2, 1000), np.int64)
    b[:, :only_a], a[:, only_a : only_a + only_b] = 1, 1
    exact = scipy.stats.binomtest(only_a, only_a + only_b).pvalue
    found = compare_seeds(labels, a, b, paired=True).p_value
    assert found == pytest.approx(max(exact, scipy.stats.ttest_rel(*np.array([a, b])[:, 0]).pvalue), abs=2e-6)


def test_the_mean_over_datasets_adds_their_variances() -> None:
    one = compare_seeds(*settings((3, 3), 300, 0.1, 1), paired=True, num_resamples=20)
    other = compare_seeds(*settings((4, 3), 300, 0.2, 2), paired=False, num_resamples=20)
    both = average_difference([one, other])
    assert both.value == pytest.approx((one.value + other.value) / 2)
    assert both.variance == pytest.approx((one.variance + other.variance) / 4)
    lost = one.variance**2 / one.degrees + other.variance**2 / other.degrees
    assert both.degrees == pytest.approx((one.variance + other.variance) ** 2 / lost)
    assert both.num_seeds == (3, 3) and not both.paired and both.low < both.value < both.high
    alone = average_difference([one])
    assert (alone.low, alone.high, alone.degrees) == pytest.approx((one.low, one.high, one.degrees))
