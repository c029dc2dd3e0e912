"""The logits of an ensemble are those of the mean probability, also where probabilities are too small for float32."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from transfer.calibration.temperature import as_probabilities
from transfer.networks.classifier import Classifier
from transfer.networks.ensemble import Ensemble

TEMPERATURES = (0.5, 2.0)


@pytest.fixture
def members(tiny_classifier: Classifier) -> list[Classifier]:
    other = copy.deepcopy(tiny_classifier)
    for number, classifier in enumerate((tiny_classifier.eval(), other.eval())):
        torch.manual_seed(number)
        weight = classifier.get_parameter("head.fc.weight")
        torch.nn.init.normal_(weight, std=3e4)  # the features of a network without training are small
    return [tiny_classifier, other]


def expected(logits: list[Tensor], multilabel: bool) -> NDArray[np.float64]:
    divided = [z.double().numpy() / by for z, by in zip(logits, TEMPERATURES, strict=True)]
    return np.mean([as_probabilities(z, multilabel) for z in divided], axis=0)


@pytest.mark.parametrize("multilabel", [False, True])
@torch.no_grad()
def test_probabilities_are_the_mean_and_features_lie_side_by_side(members: list[Classifier], multilabel: bool) -> None:
    images = torch.randn(5, 3, 32, 32)
    logits, features = Ensemble(members, TEMPERATURES, multilabel).forward_with_features(images)
    apart = [member.forward_with_features(images) for member in members]
    mean = expected([one for one, _ in apart], multilabel)
    found = as_probabilities(logits.numpy(), multilabel)
    np.testing.assert_allclose(found, mean, rtol=1e-5)
    assert torch.equal(features, torch.cat([one for _, one in apart], 1))
    assert not np.allclose(as_probabilities(apart[0][0].numpy(), multilabel), mean, atol=1e-3)


@pytest.mark.parametrize(
    ("multilabel", "right"),
    [
        # (e^-400 + 1) / 2 = 1/2, and of (e^-400 + e^-100) / 2 the logarithm is -100 - ln 2.
        (False, [-np.log(2), -np.log(2), -100 - np.log(2)]),
        # Sigmoids 0 and 1; e^-200 and e^-50; e^-200 and e^-50 below 1.
        (True, [0.0, -50 - np.log(2), 50 + np.log(2)]),
    ],
)
@torch.no_grad()
def test_certain_answers_stay_numbers(
    members: list[Classifier], monkeypatch: pytest.MonkeyPatch, multilabel: bool, right: list[float]
) -> None:
    given = ([[-200.0, 0.0, -200.0]], [[0.0, -800.0, -200.0]])
    if multilabel:
        given = ([[-100.0, -100.0, 100.0]], [[200.0, -100.0, 100.0]])
    for member, logits in zip(members, given, strict=True):
        outputs = torch.tensor(logits), torch.zeros(1, 4)
        monkeypatch.setattr(member, "forward_with_features", lambda images, outputs=outputs: outputs)
    found = Ensemble(members, TEMPERATURES, multilabel)(torch.zeros(1, 3, 32, 32))
    np.testing.assert_allclose(found[0], right, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_one_alone_is_itself(members: list[Classifier]) -> None:
    images = torch.randn(2, 3, 32, 32)
    found = Ensemble(members[:1], [3.0], False).forward_with_features(images)
    for mine, its in zip(found, members[0].forward_with_features(images), strict=True):
        assert torch.equal(mine, its)
