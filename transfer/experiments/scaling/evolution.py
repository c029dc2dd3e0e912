"""Regularised evolution of a network's blocks (Real et al. 2019, arXiv 1802.01548, Algorithm 1: aging evolution).

A population of random networks is trained. Then, again and again, a few of the population are drawn, the best of them
is copied with one change, the copy is trained and joins the population, and the oldest leaves it, however good it is.
The networks are those of a baseline with other blocks: kernel size, expansion, squeeze-excitation and repeats of each
stage, the choices of MnasNet (Tan et al. 2019, arXiv 1807.11626) that these blocks have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random

from transfer.costs.counts import count
from transfer.experiments.halving import best
from transfer.experiments.scaling.one_run import Outcome
from transfer.experiments.scaling.plan import Run, Study, Trial
from transfer.experiments.scaling.rounds import trial_means
from transfer.networks.notation import format_blocks
from transfer.networks.registry import get_variant
from transfer.networks.rows import StageRow
from transfer.networks.scaling import search_objective

Stages = tuple[StageRow, ...]
KERNEL_SIZES, EXPAND_RATIOS, SE_RATIOS, REPEATS = (3, 5), (3, 6), (0.0, 0.25), (-1, 0, 1)


def stage_choices(row: StageRow) -> dict[str, tuple[float, ...]]:
    """What each field of a stage may be: the values above and the baseline's own.

    A stage that does not expand stays so, and fused blocks have no squeeze-excitation.
    """
    return {
        "kernel_size": tuple(sorted({*KERNEL_SIZES, row.kernel_size})),
        "expand_ratio": (1,) if row.expand_ratio == 1 else tuple(sorted({*EXPAND_RATIOS, row.expand_ratio})),
        "se_ratio": (0.0,) if row.fused else tuple(sorted({*SE_RATIOS, row.se_ratio})),
        "repeats": tuple(row.repeats + change for change in REPEATS if row.repeats + change >= 1),
    }


@dataclass(frozen=True)
class Space:
    """The networks that can be reached from a baseline's stages; these are one of them."""

    baseline: Stages

    @cached_property
    def fields(self) -> list[tuple[int, str, tuple[float, ...]]]:
        """Stage, name and values of each field that has a choice."""
        return [
            (stage, name, values)
            for stage, row in enumerate(self.baseline)
            for name, values in stage_choices(row).items()
            if len(values) > 1
        ]

    @property
    def size(self) -> int:
        """Number of networks."""
        return math.prod(len(values) for _, _, values in self.fields)

    def draw(self, random: Random) -> Stages:
        """A network, all with the same probability."""
        stages = self.baseline
        for stage, name, values in self.fields:
            stages = _changed(stages, stage, name, random.choice(values))
        return stages

    def mutate(self, stages: Stages, random: Random) -> Stages:
        """A copy with another value of one field."""
        stage, name, values = random.choice(self.fields)
        present = getattr(stages[stage], name)
        return _changed(stages, stage, name, random.choice([value for value in values if value != present]))


def _changed(stages: Stages, stage: int, name: str, value: float) -> Stages:
    changes: dict[str, float] = {name: value}
    return (*stages[:stage], replace(stages[stage], **changes), *stages[stage + 1 :])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Evolution:
    """Which networks are tried next.

    What it plans depends on the seed and on what came of the networks planned before, in the order in which they were
    planned; not on when or where each was trained.

    Attributes:
        population: how many live at a time.
        sample: how many of them are drawn, with replacement, for each child; the best is its parent.
        children: planned at a time, of one population. With 1 it is Real et al.'s order; with more there is work for
            more workers, and a child's elder siblings cannot be its parents.
        networks: most that are tried.
    """

    space: Space
    population: int
    sample: int
    children: int
    networks: int
    seed: int

    def plan(self, history: Sequence[tuple[Stages, float]]) -> list[tuple[Stages, int | None]]:
        """The next networks, none of which was tried before, each with the number of its parent in `history`.

        The first ones have no parents: the baseline, and random networks.

        Args:
            history: every network that was planned with its objective, in order.
        """
        first = len(history)
        known = {stages for stages, _ in history}
        planned: list[tuple[Stages, int | None]] = []
        last = first + self.children if first else self.population
        for number in range(first, min(last, self.networks)):
            random = Random(f"{self.seed} {number}")
            parent = self._parent(history, random) if first else None
            if parent is not None:
                stages = self.space.mutate(history[parent][0], random)
            else:
                stages = self.space.draw(random) if number else self.space.baseline
            while stages in known:
                stages = self.space.mutate(stages, random)
            known.add(stages)
            planned.append((stages, parent))
        return planned

    def _parent(self, history: Sequence[tuple[Stages, float]], random: Random) -> int:
        alive = range(max(0, len(history) - self.population), len(history))
        drawn = random.choices(alive, k=self.sample)
        return drawn[best([history[number][1] for number in drawn], 1)[0]]


def study_space(study: Study) -> Space:
    """The networks that a study may try.

    Raises:
        UserError: no such baseline among the tables' rows.
    """
    return Space(get_variant(study.options["baseline"]).baseline.stages)


def plan_next_networks(study: Study, outcomes: Mapping[str, Outcome]) -> Study:
    """The study with its next networks and their runs, once all of the planned ones have an outcome."""
    options, facts = study.options, study.facts
    names = ("population", "sample", "children", "networks")
    evolution = Evolution(study_space(study), **{name: options[name] for name in names}, seed=options["search_seed"])
    accuracy = trial_means(study.runs, outcomes)
    history = [
        (get_variant(trial.backbone).baseline.stages, objective(study, trial, accuracy[trial.name]))
        for trial in study.trials
    ]
    trials = []
    for number, (stages, parent) in enumerate(evolution.plan(history), start=len(history)):
        variant = get_variant(f"{options['baseline']}@blocks={format_blocks(stages)}")
        counts = count(variant, options["image_size"], facts["num_classes"])
        values = {} if parent is None else {"parent": parent}
        size = options["image_size"]
        trials.append(Trial(f"n{number:03d}", variant.name, values, size, counts.macs, counts.num_params))
    runs = [
        Run(f"{trial.name}_s{seed}", trial.name, seed, options["steps"], 0)
        for seed in options["seeds"]
        for trial in trials
    ]
    return study.extended(runs, trials)


def objective(study: Study, trial: Trial, accuracy: float) -> float:
    """What the evolution maximises; see `search_objective`."""
    return search_objective(accuracy, trial.num_macs, study.facts["target_macs"], study.options["exponent"])
