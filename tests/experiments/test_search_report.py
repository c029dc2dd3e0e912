"""What the report of a grid search says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.support.studies import make_study, outcomes_of
from transfer.experiments.scaling.conclusions import conclusions
from transfer.experiments.scaling.noise import measure_noise
from transfer.experiments.scaling.ranking import rank_rounds
from transfer.experiments.scaling.report import markdown
from transfer.experiments.scaling.rounds import plan_next_round
from transfer.experiments.scaling.search_report import search_report


def said(scores: Sequence[Sequence[float]], budget: int | None = None) -> list[str]:
    study = make_study(scores, budget)
    while (extended := plan_next_round(study, outcomes_of(study, scores))) != study:
        study = extended
    return conclusions(rank_rounds(study, outcomes_of(study, scores)), 180)


def test_noise_is_said_in_words() -> None:
    alike = said([[0.60, 0.70, 0.65], [0.70, 0.60, 0.66], [0.64, 0.66, 0.62]])
    assert alike[0] == "No network can be told from the best: all 3 lie within the noise."
    assert "That is no more than chance would cause (F = " in alike[1] and ": 0% of the variance" in alike[1]
    assert any(
        line.startswith("The paper's constants, 1.2, 1.1, 1.15, are number 2 of 3, 0.33 points below") for line in alike
    )
    assert alike[-1].startswith("One val image is 0.56 points.")

    two = said([[0.30, 0.31, 0.32], [0.81, 0.80, 0.79], [0.80, 0.79, 0.78], [0.35, 0.33, 0.34]])
    assert two[0] == "The best 2 of 4 networks cannot be told apart."
    assert "That is more than chance would cause" in two[1] and "p = under 0.001): 100% of" in two[1]
    assert any("are number 4 of 4, 49.00 points below the best: a significant difference." in line for line in two)
    assert any(
        line.startswith("The accuracy's rank correlations: with alpha 0.20 (p = 0.917), multiply-adds 0.20")
        for line in two
    )

    one = said([[0.9, 0.91], [0.1, 0.11], [0.2, 0.21]])
    assert one[0] == "The best network is better than each of the other 2 by more than the noise explains."


def test_the_seeds_that_would_tell_are_said() -> None:
    alike = said([[0.60, 0.70, 0.65], [0.70, 0.60, 0.66], [0.64, 0.66, 0.62]])
    (line,) = (line for line in alike if "with a probability of 80%" in line)
    assert "seeds from number 2 (0.33 points) and" in line and "seeds from number 3 (1.33 points)" in line
    assert "for the 3 networks" in line
    told = said([[0.9, 0.91], [0.1, 0.11], [0.2, 0.21]])
    assert not any("with a probability of" in line for line in told)


def test_a_single_seed_says_nothing_of_the_noise() -> None:
    lines = said([[0.5], [0.6]])
    assert lines[0].startswith("There is no measure of the noise") and "all may be chance" in lines[0]


def test_a_doubtful_discard_is_said() -> None:
    scores = [[0.5, 0.6, 0.7], [0.6, 0.7, 0.5], [0.7, 0.5, 0.6], [0.5, 0.6, 0.6], [0.6, 0.5, 0.7], [0.6, 0.6, 0.6]]
    lines = said(scores, budget=60)
    assert (
        "After 5 steps 2 of 6 networks were kept, though 6 could not be told apart: there, chance decided too." in lines
    )


def test_the_report_of_a_half_done_search_with_a_failure(tmp_path: Path) -> None:
    scores = [[0.5, math.nan, 0.6], [0.8, 0.7, 0.75], [0.7, 0.72, 0.8]]
    study = make_study(scores)
    outcomes = outcomes_of(study, scores)
    del outcomes["t1_s2"]
    (current,) = rank_rounds(study, outcomes)
    text = markdown("x", study, outcomes, search_report(study, outcomes))
    assert "- 2 of 3 networks lack a run: they are left out of the comparisons." in text
    assert [standing.trial.name for standing in current.complete] == ["t2"]
    assert "7 of 9 planned runs are done, 1 failed." in text
    assert "| 2, 1 failed | 55.00 |" in text and "There is no measure of the noise" in text
    assert "- processor time: 18 s for 7 runs" in text
    outcomes["t1_s2"] = replace(outcomes["t1_s1"], score=0.75)
    (current,) = rank_rounds(study, outcomes)
    assert current.noise == measure_noise([[70, 72, 80], [80, 70, 75]]) and len(current.equal_to_best()) == 2
    assert "Nothing yet." in markdown("x", study, {}, search_report(study, {}))
