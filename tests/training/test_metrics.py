"""Metrics against scikit-learn and hand counts, accumulated over uneven batches of an imbalanced set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    precision_recall_curve,
    recall_score,
    top_k_accuracy_score,
)
from torch import Tensor

from transfer.training.metrics import (
    CalibrationError,
    Predicted,
    Predictions,
    build_metrics,
    build_per_class_accuracy,
    describe_absent,
    fit_threshold,
)
from transfer.training.scores import Scores

NUM_CLASSES = 8


@pytest.fixture
def imbalanced() -> tuple[Tensor, Tensor]:
    """Logits (203, 8) that are right about half of the time; the first class has most images, the last has one."""
    targets = torch.repeat_interleave(torch.arange(NUM_CLASSES), torch.tensor([120, 40, 20, 10, 6, 4, 2, 1]))
    logits = 2.0 * torch.randn(len(targets), NUM_CLASSES)
    logits[torch.arange(len(targets)), targets] += torch.linspace(4.0, 1.0, NUM_CLASSES)[targets]
    order = torch.randperm(len(targets))
    return logits[order], targets[order]


@pytest.fixture
def several_labels() -> tuple[Tensor, Tensor]:
    """Logits and multi-hot targets (61, 4)."""
    targets = (torch.rand(61, 4) < torch.tensor([0.7, 0.4, 0.2, 0.1])).long()
    return 2.0 * targets - 1.0 + 2.0 * torch.randn(61, 4), targets


def measure(logits: Tensor, targets: Tensor, multilabel: bool = False, batch_size: int = 32) -> dict[str, float]:
    metrics = build_metrics(logits.shape[1], multilabel)
    probabilities = logits.sigmoid() if multilabel else logits.softmax(1)
    for batch in zip(probabilities.split(batch_size), targets.split(batch_size), strict=True):
        metrics.update(*batch)
    return {name: value.item() for name, value in metrics.compute().items()}


def test_top1_is_the_share_of_right_images(imbalanced: tuple[Tensor, Tensor]) -> None:
    logits, targets = imbalanced
    expected = accuracy_score(targets, logits.argmax(1))
    assert 0.3 < expected < 0.8
    assert measure(logits, targets)["top1"] == pytest.approx(expected, abs=1e-6)


def test_top5_is_scikit_learns(imbalanced: tuple[Tensor, Tensor]) -> None:
    logits, targets = imbalanced
    expected = top_k_accuracy_score(targets, logits, k=5, labels=range(NUM_CLASSES))
    assert expected < 0.99
    assert measure(logits, targets)["top5"] == pytest.approx(expected, abs=1e-6)


def test_top5_is_its_own_also_where_the_first_batch_is_all_right() -> None:
    targets = torch.arange(8)
    logits = 9.0 * torch.eye(8)
    logits[4:] = logits[4:].roll(1, 1)  # wrong, but within the first five
    found = measure(logits, targets, batch_size=4)
    assert (found["top1"], found["top5"]) == (0.5, top_k_accuracy_score(targets, logits, k=5, labels=range(8)))
    assert found["top5"] > 0.5


def test_mean_per_class_gives_every_class_the_same_say(imbalanced: tuple[Tensor, Tensor]) -> None:
    logits, targets = imbalanced
    expected = balanced_accuracy_score(targets, logits.argmax(1))
    assert abs(expected - accuracy_score(targets, logits.argmax(1))) > 0.01
    assert measure(logits, targets)["mean_per_class"] == pytest.approx(expected, abs=1e-6)


def test_ece_is_the_gap_between_confidence_and_accuracy_over_15_bins(imbalanced: tuple[Tensor, Tensor]) -> None:
    logits, targets = imbalanced
    confidence, prediction = (t.numpy() for t in logits.double().softmax(1).max(1))
    right = prediction == targets.numpy()
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs(right[bins == b].sum() - confidence[bins == b].sum()) for b in range(15)]
    assert measure(logits, targets)["ece"] == pytest.approx(sum(gaps) / len(targets), abs=1e-5)


@pytest.mark.parametrize("multilabel", [False, True])
def test_batches_and_a_smaller_last_one_change_nothing(
    imbalanced: tuple[Tensor, Tensor], several_labels: tuple[Tensor, Tensor], multilabel: bool
) -> None:
    logits, targets = several_labels if multilabel else imbalanced
    assert len(targets) % 20 == (1 if multilabel else 3)
    at_once = measure(logits, targets, multilabel, batch_size=1000)
    assert measure(logits, targets, multilabel, batch_size=20) == pytest.approx(at_once, abs=1e-6)


def test_per_class_accuracy_is_the_recall_of_each_class(imbalanced: tuple[Tensor, Tensor]) -> None:
    logits, targets = imbalanced
    metric = build_per_class_accuracy(NUM_CLASSES, multilabel=False)
    for batch in zip(logits.softmax(1).split(64), targets.split(64), strict=True):
        metric.update(*batch)
    expected = recall_score(targets, logits.argmax(1), average=None)
    np.testing.assert_allclose(metric.compute(), expected, atol=1e-6)


def test_several_labels_are_measured_as_scikit_learn_does(several_labels: tuple[Tensor, Tensor]) -> None:
    logits, targets = several_labels
    yes = (logits > 0).long()
    assert measure(logits, targets, multilabel=True) == pytest.approx(
        {
            "map": average_precision_score(targets, logits, average="macro"),
            "map_11": np.mean([eleven_point_precision(targets[:, i], logits[:, i]) for i in range(targets.shape[1])]),
            "f1": f1_score(targets, yes, average="micro"),
            "exact_match": accuracy_score(targets, yes),
        },
        abs=1e-5,
    )


def eleven_point_precision(truth: Tensor, scores: Tensor) -> float:
    """As the devkit's VOCevalcls.m: the highest precision from each of 11 recalls on, by scikit-learn's curve."""
    precision, recall, _ = precision_recall_curve(truth, scores)
    precision, recall = precision[:-1], recall[:-1]  # the last is a point that the function adds
    return float(np.mean([precision[recall >= point - 1e-9].max() for point in np.linspace(0, 1, 11)]))


def test_the_11_point_precision_of_a_short_list_by_hand() -> None:
    """Ranks 1, 3 and 4 of 5 have the label: precision 1 up to recall 1/3, then 3/4; noise in the second column."""
    truth = torch.tensor([[1, 0], [0, 1], [1, 0], [1, 0], [0, 0]])
    logits = torch.tensor([[5.0, 0.0], [4.0, 1.0], [3.0, 0.5], [2.0, 2.0], [1.0, 0.1]])
    first = (4 * 1 + 7 * 3 / 4) / 11  # recalls 0, 0.1, 0.2, 0.3; and 0.4 to 1
    assert measure(logits, truth, multilabel=True)["map_11"] == pytest.approx((first + 1 / 2) / 2)


def test_a_recall_of_three_tenths_is_reached_by_three_of_ten() -> None:
    """In floating point, 3 * 0.1 is more than 0.3."""
    truth = torch.tensor([[1]] * 3 + [[0]] * 10 + [[1]] * 7)
    logits = torch.linspace(5, -5, 20)[:, None]
    later = max((3 + n) / (13 + n) for n in range(1, 8))
    found = measure(logits.expand(-1, 2), truth.expand(-1, 2), multilabel=True)["map_11"]
    assert found == pytest.approx((4 * 1 + 7 * later) / 11)


def test_images_of_equal_probability_are_retrieved_together_whatever_their_order() -> None:
    truth = torch.tensor([[1, 0], [0, 0], [1, 1], [0, 1], [0, 0], [1, 0]])
    logits = torch.tensor([[2.0, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, -1.0]])
    found = measure(logits, truth, multilabel=True)["map_11"]
    assert measure(logits.flip(0), truth.flip(0), multilabel=True)["map_11"] == pytest.approx(found)
    expected = np.mean([eleven_point_precision(truth[:, i], logits[:, i]) for i in range(2)])
    assert found == pytest.approx(float(expected))


def test_per_class_accuracy_of_several_labels_counts_yes_and_no(several_labels: tuple[Tensor, Tensor]) -> None:
    logits, targets = several_labels
    metric = build_per_class_accuracy(4, multilabel=True)
    metric.update(logits.sigmoid(), targets)
    np.testing.assert_allclose(metric.compute(), ((logits > 0) == targets).float().mean(0), atol=1e-6)


def test_top5_needs_six_classes() -> None:
    assert "top5" not in build_metrics(5, multilabel=False)
    assert "top5" in build_metrics(6, multilabel=False)


def test_a_label_without_images_does_not_count_in_the_mean_average_precision() -> None:
    """Perfect predictions of one label among five, and noise, against scikit-learn on the labels that are there."""
    targets = torch.zeros(12, 5, dtype=torch.long)
    targets[:4, 2] = 1
    assert measure(10.0 * targets - 5.0, targets, multilabel=True)["map"] == 1.0
    targets[3:9, 0] = 1
    logits = torch.randn(12, 5)
    expected = average_precision_score(targets[:, [0, 2]], logits[:, [0, 2]], average="macro")
    assert expected < 0.99
    assert measure(logits, targets, multilabel=True, batch_size=5)["map"] == pytest.approx(expected, abs=1e-6)


def test_labels_that_no_image_has_give_no_average_precision() -> None:
    assert measure(torch.randn(4, 3), torch.zeros(4, 3, dtype=torch.long), multilabel=True)["map"] == 0.0


@pytest.mark.parametrize("multilabel", [False, True])
def test_classes_that_are_left_out_of_a_mean_are_named(multilabel: bool) -> None:
    metrics = build_metrics(4, multilabel).clone(prefix="test/")
    labels = torch.tensor([0, 2, 2])
    metrics.update(torch.rand(3, 4), torch.nn.functional.one_hot(labels, 4) if multilabel else labels)
    metrics.compute()
    name = "map" if multilabel else "mean_per_class"
    assert describe_absent(metrics, None) == f"no image of 1, 3: {name} is the mean over the other classes"
    assert "no image of b, d" in str(describe_absent(metrics, ["a", "b", "c", "d"]))
    metrics.update(torch.rand(4, 4), torch.eye(4, dtype=torch.long) if multilabel else torch.arange(4))
    metrics.compute()
    assert describe_absent(metrics, None) is None


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_all_that_is_measured_is_the_same_to_the_bit_for_any_number_of_ranks(
    imbalanced: tuple[Tensor, Tensor], several_labels: tuple[Tensor, Tensor], multilabel: bool, world_size: int
) -> None:
    logits, targets = several_labels if multilabel else imbalanced
    found = []
    for ranks in (1, world_size):
        scores = Scores("test", logits.shape[1], multilabel, "bce" if multilabel else "cross_entropy", False)
        for rank in range(ranks):  # the order in which the images of all ranks are gathered
            for rows in torch.arange(rank, len(targets), ranks).split(7):
                scores.update(logits[rows], targets[rows].float() if multilabel else targets[rows])
        found.append({name: value.item() for name, value in scores.compute().items()})
        assert found[0] == found[-1]
    loss = torch.nn.functional
    expected = (
        loss.binary_cross_entropy_with_logits(logits.double(), targets.double())
        if multilabel
        else loss.cross_entropy(logits.double(), targets)
    )
    assert found[0]["test/loss"] == pytest.approx(expected.item(), rel=1e-7)


def test_a_class_without_images_does_not_count_in_the_mean_per_class() -> None:
    logits = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 6]), NUM_CLASSES).float() * 9.0
    targets = torch.tensor([0, 1, 2, 0])
    assert measure(logits, targets)["mean_per_class"] == pytest.approx((0.5 + 1 + 1) / 3)


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize(("num_images", "world_size"), [(13, 1), (13, 2), (13, 4), (8, 4), (2, 3)])
def test_predictions_of_several_processes_come_rank_after_rank(
    num_images: int, world_size: int, multilabel: bool
) -> None:
    labels = torch.randint(2, (num_images, NUM_CLASSES)) if multilabel else torch.randint(NUM_CLASSES, (num_images,))
    probabilities = torch.randn(num_images, NUM_CLASSES).softmax(1)
    ranks: list[Predictions] = []
    names = iter(("labels", "probabilities"))  # in the order in which torchmetrics gathers them

    def gather(mine: Tensor, group: object) -> list[Tensor]:
        states = [getattr(rank, name) for name in [next(names)] for rank in ranks]
        empty = torch.tensor([])  # what torchmetrics sends for a rank without images
        return [torch.cat(s) if s else empty for s in states]

    for _ in range(world_size):
        distributed = {"dist_sync_fn": gather, "distributed_available_fn": lambda: world_size > 1}
        ranks.append(Predictions(NUM_CLASSES, multilabel, **distributed))
    for rank, metric in enumerate(ranks):
        for rows in torch.arange(rank, num_images, world_size).split(2):
            metric.update(probabilities[rows], labels[rows])
    found = ranks[0].compute()
    order = torch.cat([torch.arange(rank, num_images, world_size) for rank in range(world_size)])
    assert found.labels.dtype == torch.int64 and torch.equal(found.labels, labels[order])
    assert torch.equal(found.probabilities, probabilities[order])
    assert torch.equal(found.classes, probabilities.argmax(1)[order])


def test_the_threshold_gives_the_highest_micro_f1() -> None:
    labels = (torch.rand(40, 3) < 0.3).long()
    probabilities = (0.3 * labels + 0.7 * torch.rand(40, 3)).round(decimals=2)  # some are equal
    threshold = fit_threshold(Predicted(labels, probabilities))
    values = probabilities.double().unique()
    possible = {f1_score(labels, probabilities.double() >= value, average="micro") for value in values}
    assert f1_score(labels, probabilities >= threshold, average="micro") == pytest.approx(max(possible), abs=1e-12)
    assert max(possible) > f1_score(labels, probabilities >= 0.5, average="micro")
    assert (probabilities - threshold).abs().min() > 1e-4  # between two, so that rounding decides nothing


@pytest.mark.parametrize(
    ("labels", "probabilities", "expected"),
    [
        ([[1, 0], [1, 0]], [[0.8, 0.2], [0.6, 0.3]], 0.45),
        ([[1, 1]], [[0.4, 0.3]], 0.15),
        ([[0, 0]], [[0.75, 0.25]], 0.5),  # nothing to find: every threshold is as good
    ],
)
def test_the_threshold_lies_between_two_probabilities(
    labels: list[list[int]], probabilities: list[list[float]], expected: float
) -> None:
    assert fit_threshold(Predicted(torch.tensor(labels), torch.tensor(probabilities))) == pytest.approx(expected)


def test_a_diverged_networks_calibration_error_is_no_number() -> None:
    metric = CalibrationError(3)
    metric.update(torch.tensor([[0.2, 0.3, 0.5], [torch.nan] * 3]), torch.tensor([2, 0]))
    assert metric.compute().isnan()
