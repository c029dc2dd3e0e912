"""The schedule of progressive learning."""

from __future__ import annotations

from collections import Counter

import pytest

from transfer.progressive import FIRST_DROPOUT, FIRST_RANDAUGMENT, Stages, grown, stage_sizes


@pytest.mark.parametrize(
    ("first", "last", "sizes"),
    [(128, 300, [128, 185, 243, 300]), (128, 380, [128, 212, 296, 380]), (128, 224, [128, 160, 192, 224])],
)
def test_sizes_are_those_of_algorithm_1(first: int, last: int, sizes: list[int]) -> None:
    assert stage_sizes(first, last) == sizes


def test_regularisation_is_that_of_table_6() -> None:
    assert [30 * grown(FIRST_RANDAUGMENT, 20 / 30, stage) for stage in range(4)] == pytest.approx([5, 10, 15, 20])
    assert [grown(FIRST_DROPOUT, 0.4, stage) for stage in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("last", [0.0, 0.05, 0.1])
def test_what_ends_below_the_start_stays(last: float) -> None:
    assert {grown(FIRST_DROPOUT, last, stage) for stage in range(4)} == {last}


def test_each_stage_has_a_quarter_of_the_steps_wherever_epochs_end() -> None:
    stages = Stages(steps=20, steps_per_epoch=6, batches_per_step=2, batch_size=3)
    batches = [(epoch, batch) for epoch in range(4) for batch in range(12)][:40]
    found = [stages.of_batch(*position) for position in batches]
    assert Counter(found) == dict.fromkeys(range(4), 10) and found == sorted(found)
    assert found[::2] == found[1::2]  # both batches of a step
    assert [stages.of_image(1, position) for position in range(36)] == [
        stages.of_batch(1, batch) for batch in range(12) for _ in range(3)
    ]


def test_an_incomplete_step_at_the_end_of_an_epoch_counts() -> None:
    stages = Stages(steps=8, steps_per_epoch=2, batches_per_step=2, batch_size=1)  # three batches an epoch
    assert [[stages.of_batch(epoch, batch) for batch in range(3)] for epoch in range(4)] == [[i] * 3 for i in range(4)]


def test_a_run_shorter_than_the_stages_ends_in_a_late_one() -> None:
    assert [Stages(3, 3, 1, 1).of_batch(0, batch) for batch in range(4)] == [0, 1, 2, 3]
