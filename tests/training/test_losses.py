"""Losses, class weights and logit adjustment against scikit-learn and hand arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from transfer.errors import UserError
from transfer.training.losses import balanced_class_weights, build_loss, log_class_shares

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, -3.0], [0.0, 4.0, 1.0], [-1.0, 0.3, 0.7]])
TARGETS = torch.tensor([0, 1, 2, 2])
SIGMOIDS = 1.0 / (1.0 + np.exp(-LOGITS.double().numpy()))
HOT = np.eye(3)[TARGETS.numpy()]


def test_cross_entropy_is_scikit_learns_log_loss() -> None:
    expected = log_loss(TARGETS, LOGITS.double().softmax(1))
    assert build_loss("cross_entropy")(LOGITS, TARGETS).item() == pytest.approx(expected, rel=1e-6)


def test_label_smoothing_spreads_its_share_over_all_classes() -> None:
    targets = 0.8 * HOT + 0.2 / 3
    expected = -(targets * LOGITS.double().log_softmax(1).numpy()).sum(1).mean()
    assert build_loss("cross_entropy", 0.2)(LOGITS, TARGETS).item() == pytest.approx(expected, rel=1e-6)


def test_class_weights_weigh_examples_as_scikit_learn_does() -> None:
    weights = torch.tensor([0.5, 3.0, 1.5])
    expected = log_loss(TARGETS, LOGITS.double().softmax(1), sample_weight=weights[TARGETS])
    loss = build_loss("cross_entropy", class_weights=weights)
    assert loss(LOGITS, TARGETS).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("counts", [(10, 10, 10), (100, 1, 7), (3, 500)])
def test_balanced_weights_are_scikit_learns(counts: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
    np.testing.assert_allclose(balanced_class_weights(counts).numpy(), expected, rtol=1e-6)


def test_balanced_weights_refuse_empty_classes() -> None:
    with pytest.raises(UserError, match=r"classes \[1, 3\] have no training image"):
        balanced_class_weights([5, 0, 2, 0])


def test_shares_are_logarithms_and_1_of_a_class_without_images() -> None:
    found = log_class_shares([3, 0, 1, 4])
    assert found.dtype == torch.float64 and found.tolist() == pytest.approx(np.log([3 / 8, 1, 1 / 8, 1 / 2]))


def test_an_adjusted_loss_is_that_of_the_logits_and_log_shares() -> None:
    shares = np.array([0.7, 0.2, 0.1])
    loss = build_loss("cross_entropy", logit_adjustment=torch.tensor(np.log(shares), dtype=torch.float32))
    probabilities = shares * np.exp(LOGITS.double().numpy())
    expected = log_loss(TARGETS, probabilities / probabilities.sum(1, keepdims=True))
    assert loss(LOGITS, TARGETS).item() == pytest.approx(expected, rel=1e-6)
    each = build_loss("cross_entropy", 0.2, logit_adjustment=torch.tensor(np.log(shares)), reduction="none")
    targets = 0.8 * HOT + 0.2 / 3
    expected = -(targets * log_softmax(LOGITS.double() + np.log(shares), axis=1)).sum(1)
    assert each(LOGITS, TARGETS).tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_a_linear_layer_that_learns_by_the_adjusted_loss_is_the_plain_fit_less_the_log_shares() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    features = rng.normal(size=(100, 4)) + 1.5 * np.eye(4)[labels]
    x, y, adjustment = torch.tensor(features), torch.tensor(labels), log_class_shares([60, 30, 10])
    layer = torch.nn.Linear(4, 3).double()
    loss = build_loss("cross_entropy", logit_adjustment=adjustment)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(5_000):
        optimizer.zero_grad()
        (loss(layer(x), y) + layer.weight.square().sum() / 200).backward()
        optimizer.step()
    plain = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(features, labels)
    post_hoc = plain.decision_function(features) - np.log([0.6, 0.3, 0.1])
    found = layer(x).detach().numpy()
    np.testing.assert_allclose(log_softmax(found, axis=1), log_softmax(post_hoc, axis=1), atol=1e-4)
    assert (found.argmax(1) == 2).sum() > (plain.predict(features) == 2).sum()


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("bce", None, r"`logit_adjustment` with `loss`=bce: it adjusts the logits of a softmax \(use cross_entropy\)"),
        ("cross_entropy", torch.ones(3), "`logit_adjustment` with `class_weights`: both correct .* leave one out"),
    ],
)
def test_what_an_adjustment_does_not_go_with(name: str, weights: torch.Tensor | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_loss(name, 0.0, weights, torch.zeros(3))


def test_bce_asks_one_question_per_class() -> None:
    expected = -(HOT * np.log(SIGMOIDS) + (1 - HOT) * np.log(1 - SIGMOIDS)).mean()
    assert build_loss("bce")(LOGITS, TARGETS).item() == pytest.approx(expected, rel=1e-6)


def test_bce_takes_indices_and_multi_hot_alike() -> None:
    loss = build_loss("bce", 0.1)
    for dtype in (torch.float32, torch.int64):
        torch.testing.assert_close(loss(LOGITS, torch.tensor(HOT, dtype=dtype)), loss(LOGITS, TARGETS))


def test_bce_takes_several_labels_per_image_and_none() -> None:
    hot = np.array([[1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    expected = -(hot * np.log(SIGMOIDS) + (1 - hot) * np.log(1 - SIGMOIDS)).mean()
    assert build_loss("bce")(LOGITS, torch.tensor(hot)).item() == pytest.approx(expected, rel=1e-6)


def test_bce_smoothing_moves_targets_towards_one_half() -> None:
    soft = np.where(HOT == 1, 0.9, 0.1)
    expected = -(soft * np.log(SIGMOIDS) + (1 - soft) * np.log(1 - SIGMOIDS)).mean()
    assert build_loss("bce", 0.2)(LOGITS, TARGETS).item() == pytest.approx(expected, rel=1e-6)


def test_bce_class_weights_weigh_the_positive_part() -> None:
    weights = np.array([0.5, 3.0, 1.5])
    expected = -(weights * HOT * np.log(SIGMOIDS) + (1 - HOT) * np.log(1 - SIGMOIDS)).mean()
    loss = build_loss("bce", class_weights=torch.tensor(weights, dtype=torch.float32))
    assert loss(LOGITS, TARGETS).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["cross_entropy", "bce"])
def test_class_weights_move_with_the_module_but_stay_out_of_its_checkpoint(name: str) -> None:
    loss = build_loss(name, class_weights=torch.ones(3))
    assert loss.state_dict() == {}
    assert [buffer.dtype for buffer in loss.double().buffers()] == [torch.float64]


def test_so_does_a_logit_adjustment() -> None:
    loss = build_loss("cross_entropy", logit_adjustment=torch.zeros(3))
    assert loss.state_dict() == {}
    assert [buffer.dtype for buffer in loss.double().buffers()] == [torch.float64]


def test_an_unknown_loss_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"unknown loss 'crossentropy'; did you mean 'cross_entropy'"):
        build_loss("crossentropy")


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_a_smoothing_out_of_range_is_refused(smoothing: float) -> None:
    with pytest.raises(UserError, match=r"allowed is 0 <= label_smoothing < 1"):
        build_loss("bce", smoothing)
