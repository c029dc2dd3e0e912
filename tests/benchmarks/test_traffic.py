"""Counted traffic of a training step."""

from __future__ import annotations

import pytest
from torch import nn

from benchmarks.traffic import parse_case, step_traffic
from transfer.errors import UserError
from transfer.weights.build import build_classifier


def test_bytes_are_those_counted_by_hand() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    pixels, logits, label = 48, 5, 8
    counted = {
        "images to bfloat16": pixels * (4 + 2),
        "addmm": pixels * 2 + logits * 2,
        "logits to float32": logits * (2 + 4),
        "log_softmax": logits * (4 + 4),
        "nll_loss": logits * 4 + label,
        "nll_loss_backward": logits * (4 + 4) + label,
        "log_softmax_backward": logits * (4 + 4 + 4),
        "gradient to bfloat16": logits * (4 + 2),
        "mm for the weight": logits * 2 + pixels * 2,
        "sum for the bias": logits * 2,
    }
    assert step_traffic(network, 4)["bytes_per_image"] == sum(counted.values())


def test_frozen_norms_leave_out_their_passes() -> None:
    learning, frozen = (step_traffic(build_classifier("b0@d=0.1", 10), 64, frozen=frozen) for frozen in (False, True))
    assert "native_batch_norm" in learning["operators_of"] and "native_batch_norm" not in frozen["operators_of"]
    norms = learning["megabytes_per_image_of"]
    saved = (learning["bytes_per_image"] - frozen["bytes_per_image"]) / 1e6
    assert saved == pytest.approx(norms["native_batch_norm"] + norms["native_batch_norm_backward"], abs=0.1)


@pytest.mark.parametrize("case", ["b0", "b0@", "@224", "b0@large"])
def test_a_case_of_another_form_is_refused(case: str) -> None:
    with pytest.raises(UserError, match=r"--cases .* BACKBONE@PIXELS"):
        parse_case(case)
