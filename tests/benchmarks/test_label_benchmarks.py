"""The benchmarks of learning curves and of label noise: their draws, counts and refusals."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import label_noise
from benchmarks.label_noise import flip, score
from benchmarks.learning_curve import extrapolate_draw, save_draw, summarise
from transfer.folds import draw_folds
from transfer.probe.cross_validation import cross_validate
from transfer.probe.features import Features
from transfer.probe.label_suspects import Suspect


def test_a_share_of_the_labels_becomes_another_class() -> None:
    labels = np.arange(400) % 4
    changed = flip(labels, 4, 0.05, 0)
    assert (changed != labels).sum() == 20 and changed.min() >= 0 and changed.max() <= 3
    assert np.array_equal(changed, flip(labels, 4, 0.05, 0)) and not np.array_equal(changed, flip(labels, 4, 0.05, 1))


def test_precision_and_recall_are_counted() -> None:
    given = np.zeros(10, np.int64)
    changed = np.arange(10) < 4
    suspects = [Suspect(image, 1, suggested, 0.1, 0.9) for image, suggested in ((0, 0), (9, 0), (1, 2), (8, 0), (2, 0))]
    found = score(suspects, changed, given)
    assert (found["changed"], found["suspects"]) == (4, 5)
    assert (found["precision"], found["recall"]) == (0.6, 0.75)
    assert found["precision_of_as_many_as_changed"] == found["recall_of_as_many_as_changed"] == 0.5
    assert found["suggests_the_class_before"] == pytest.approx(2 / 3)


def test_suspects_are_those_of_a_head_that_sees_what_folds_choose(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    features = features_of_which_three_tell(300)
    labels = features.labels.numpy()
    photos = features, SimpleNamespace(num_classes=3), [3, 120]
    monkeypatch.setattr(label_noise, "compute_photos", lambda *_: photos)
    (draw,) = label_noise.benchmark_label_noise(tmp_path, tmp_path, draws=1)["draws"]
    noisy = flip(labels, 3, 0.05, 0)

    def accuracy(width: int) -> float:
        of_noisy = Features(features.features[:, :width], torch.from_numpy(noisy))
        return cross_validate([of_noisy], 3, draw_folds(noisy, 5, 1, 0)).value

    assert draw["accuracy"] == accuracy(3) > accuracy(120)


def test_a_curve_and_its_truth_are_of_a_head_that_sees_what_folds_choose(tmp_path: Path) -> None:
    features = features_of_which_three_tell(600)
    for name, given, widths in (("all", features, [3, 120]), ("three", features.leading(3), [3])):
        save_draw(given, 3, widths, 100, 0, tmp_path / f"{name}.npz")
    saved = [np.load(tmp_path / f"{name}.npz", allow_pickle=False) for name in ("all", "three")]
    assert all(np.array_equal(saved[0][name], saved[1][name]) for name in ("sizes", "right", "labels", "truth"))


def features_of_which_three_tell(num_images: int) -> Features:
    """Return features of three classes, of which the first three tell them apart and 117 are noise."""
    rng, labels = np.random.default_rng(0), np.arange(num_images) % 3
    x = rng.normal(size=(num_images, 120)).astype(np.float32)
    x[:, :3] += 5 * np.eye(3, dtype=np.float32)[labels]
    return Features(torch.from_numpy(x), torch.from_numpy(labels))


def test_intervals_that_cover_are_counted(tmp_path: Path) -> None:
    """Errors fall as the root of the number of images; the truth of the second draw does not."""
    ease = (np.arange(400) + 0.5) / 400
    sizes = 240 / 2 ** (np.arange(6, -1, -1) / 2)
    right = np.broadcast_to(ease < 1 - 4 * sizes[:, None] ** -0.5, (3, 7, 400))
    truths = {"0": [1 - 4 * images**-0.5 for images in (400, 800, 1600)], "1": [0.8, 0.5, 0.2]}
    rows = []
    for name, truth in truths.items():
        path = tmp_path / f"{name}.npz"
        np.savez(path, sizes=sizes, right=right, labels=np.arange(400) % 4, truth=truth)
        rows.append(extrapolate_draw(path))
    assert rows[0]["2x"]["gain_covers"] and not rows[1]["2x"]["gain_covers"]
    assert rows[0]["2x"]["error"] == pytest.approx(0, abs=0.02)
    found = summarise([*rows, {"measured": [0.8, 0.8, 0.8], "refusal": "too few"}])
    assert found["refused"] == 1 and found["2x"]["gain_covering"] == found["4x"]["covering"] == 0.5
    assert found["1x"]["measured_gain"] == 0
    errors = [row["4x"]["gain_error"] for row in rows]
    assert found["4x"]["mean_absolute_gain_error"] == pytest.approx(np.mean(np.abs(errors)))
