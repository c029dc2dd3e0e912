"""Distances to the k-th neighbour are scikit-learn's, without the image itself."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from transfer.calibration.calibration import NEIGHBOUR, fit_calibration
from transfer.calibration.neighbours import neighbour_distances, on_sphere

RNG = np.random.default_rng(0)
FEATURES = RNG.gamma(2.0, size=(1500, 24)).astype(np.float32)


@pytest.mark.parametrize("k", [1, 5, 40])
def test_distances_are_those_of_scikit_learn(k: int) -> None:
    references = on_sphere(FEATURES[:300])
    theirs = NearestNeighbors(n_neighbors=k).fit(normalize(FEATURES[:300].astype(float)))
    expected = theirs.kneighbors(normalize(FEATURES[300:].astype(float)))[0][:, -1]
    np.testing.assert_allclose(neighbour_distances(FEATURES[300:], references, k), expected, atol=1e-3)


def test_an_image_is_no_neighbour_of_itself() -> None:
    found = fit_calibration(np.zeros((300, 2)), np.arange(300) % 2, FEATURES[:300])
    theirs = NearestNeighbors(n_neighbors=NEIGHBOUR + 1).fit(normalize(FEATURES[:300].astype(float)))
    expected = theirs.kneighbors()[0][:, NEIGHBOUR - 1]  # without a query, scikit-learn leaves each one out, too
    np.testing.assert_allclose(found.distances, expected, atol=2e-3)  # references are float16


def test_of_many_images_two_thousand_are_references_and_all_have_a_distance() -> None:
    features = np.random.default_rng(1).gamma(2.0, size=(4500, 8)).astype(np.float32)
    found = fit_calibration(np.zeros((4500, 3)), np.arange(4500) % 3, features)
    assert found.references.shape == (2000, 8) and found.distances.shape == (4500,)
    exact = NearestNeighbors(n_neighbors=NEIGHBOUR + 1).fit(found.references.astype(float))
    expected = exact.kneighbors(normalize(features.astype(float)))[0]
    is_own = expected[:, 0] < 2e-3
    assert is_own.sum() >= 2000
    np.testing.assert_allclose(found.distances, expected[np.arange(4500), NEIGHBOUR - 1 + is_own], atol=3e-3)


def test_the_length_of_the_features_and_the_batch_play_no_role() -> None:
    references = on_sphere(FEATURES[:50])
    whole = neighbour_distances(FEATURES, references, 5)
    np.testing.assert_allclose(neighbour_distances(7 * FEATURES, references, 5), whole, atol=1e-4)
    parts = [neighbour_distances(part, references, 5) for part in np.array_split(FEATURES, 7)]
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-4)
    assert neighbour_distances(np.zeros((1, 24)), references, 5).tolist() == [np.sqrt(np.float32(2))]
