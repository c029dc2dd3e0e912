"""The multiply-adds of a run's training, against torch's own counter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.support.reported import Page, written_run
from transfer.report.page import render_page
from transfer.report.run_content import read_run_content
from transfer.report.training_cost import describe_training, passes_per_image
from transfer.runs.results import Results
from transfer.weights.build import build_classifier

NAMES = ("cat", "dog", "owl")
RUN: dict[str, Any] = {
    "backbone": "lite0",
    "image_size": 64,
    "steps": 10,
    "steps_per_epoch": 5,
    "global_batch_size": 16,
}


def results_of(tmp_path: Path, **changes: Any) -> Results:
    written_run(tmp_path / "run", NAMES, results={**RUN, **changes})
    return read_run_content(tmp_path / "run").results


def test_forward_and_backward_are_what_torch_counts(tmp_path: Path) -> None:
    # Of convolutions with groups, torch counts the backward pass as if they had none: a network without them.
    classifier = build_classifier("resnet50", 3, pretrained=False).train()
    with FlopCounterMode(display=False) as counter:
        classifier(torch.zeros(2, 3, 64, 64)).sum().backward()
    counted = counter.get_total_flops() / 2 / 2  # of two images; two operations are a multiply-add
    text = describe_training(results_of(tmp_path, backbone="resnet50")) or ""
    assert text.startswith("about ") and "160 images" in text and text.endswith("times 3 with backward")
    total = float(text.split()[1])
    assert text.split()[2] == "G:" and total == pytest.approx(160 * counted / 1e9, rel=0.05)
    page = Page(render_page([read_run_content(tmp_path / "run")]))
    assert text in page.text


@pytest.mark.parametrize(
    ("config", "passes"),
    [
        ({"freeze": "none"}, 3),
        ({"freeze": "backbone"}, 1),
        ({"freeze": "until-epoch 1"}, (5 * 1 + 5 * 3) / 10),
        ({"freeze": "until-epoch 9"}, 1),
        ({"optim.sam_rho": 0.05}, 6),
        ({"optim.sam_rho": 0.05, "freeze": "until-epoch 1"}, (5 * 2 + 5 * 6) / 10),
        ({"grad_checkpointing": True}, 4),
    ],
)
def test_passes_follow_from_the_settings(config: dict[str, Any], passes: float) -> None:
    assert passes_per_image(config, 5, 10) == pytest.approx(passes)


@pytest.mark.parametrize("changes", [{"backbone": "my_net.build"}, {"steps": None}, {"image_size": 0}])
def test_what_cannot_be_told_is_left_out(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert describe_training(results_of(tmp_path, **changes)) is None


def test_growing_images_count_with_their_sizes(tmp_path: Path) -> None:
    small = describe_training(results_of(tmp_path / "a", image_size=32)) or ""
    large = describe_training(results_of(tmp_path / "b", image_size=64)) or ""
    both = describe_training(results_of(tmp_path / "c", train_image_sizes=[32, 64])) or ""
    mean = (float(small.split()[1]) + float(large.split()[1])) / 2
    assert float(both.split()[1]) == pytest.approx(mean, rel=0.01)
