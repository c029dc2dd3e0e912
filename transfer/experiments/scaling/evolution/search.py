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

from transfer.costs.counts import count, count_macs
from transfer.errors import BadValue, check_count
from transfer.experiments.halving import best
from transfer.experiments.scaling.evolution import PAPER_SIZE
from transfer.experiments.scaling.outcomes import Outcome
from transfer.experiments.scaling.plan import Study, Trial, TrialRun
from transfer.experiments.scaling.rounds import trial_means
from transfer.networks.notation import format_blocks
from transfer.networks.registry import get_variant, list_backbones
from transfer.networks.rows import StageRow
from transfer.networks.scaling import OBJECTIVE_TARGET, search_objective

Stages = tuple[StageRow, ...]
KERNEL_SIZES, EXPAND_RATIOS, SE_RATIOS, REPEATS = (3, 5), (3, 6), (0.0, 0.25), (-1, 0, 1)


def stage_choices(row: StageRow) -> dict[str, tuple[float, ...]]:
    """Return the values that each field of a stage may have: those above and the baseline's own.

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
    """The networks that can be reached by changing a baseline's stages, itself among them."""

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
        """Return a random network; all have the same probability."""
        stages = self.baseline
        for stage, name, values in self.fields:
            stages = _changed(stages, stage, name, random.choice(values))
        return stages

    def mutate(self, stages: Stages, random: Random) -> Stages:
        """Return a copy in which one field has another value."""
        stage, name, values = random.choice(self.fields)
        present = getattr(stages[stage], name)
        return _changed(stages, stage, name, random.choice([value for value in values if value != present]))


def _changed(stages: Stages, stage: int, name: str, value: float) -> Stages:
    changes: dict[str, float] = {name: value}
    return (*stages[:stage], replace(stages[stage], **changes), *stages[stage + 1 :])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Evolution:
    """Plans which networks are tried next.

    The plan depends on the seed and on the results of the networks planned before, in the order of the plan; not on
    when or where each was trained.

    Attributes:
        space: the networks that may be tried.
        population: networks that live at a time.
        sample: networks that are drawn from them, with replacement, for each child; the best is its parent.
        children: networks planned at a time from one population. 1 is Real et al.'s order; more keep more workers
            busy, and a child's elder siblings cannot be its parents.
        networks: most networks that are tried.
        seed: seed of all draws.
    """

    space: Space
    population: int
    sample: int
    children: int
    networks: int
    seed: int

    def plan(self, history: Sequence[tuple[Stages, float]]) -> list[tuple[Stages, int | None]]:
        """Return the next networks, none of which was tried before, each with its parent's number in `history`.

        The first ones, the baseline and random networks, have no parents.

        Args:
            history: every network that was planned, with its objective, in order.
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
    """Return the networks that a study may try.

    Raises:
        UserError: the baseline is not a published network.
    """
    return Space(get_variant(study.options["baseline"]).baseline.stages)


def plan_space(study: Study) -> tuple[Study, list[str]]:
    """Return an evolution with what it needs to know about its baseline, and lines that say what is searched.

    Raises:
        UserError: a baseline that cannot be changed block by block, or numbers that cannot work.
    """
    options = study.options
    for name, least in (("population", 2), ("sample", 1), ("children", 1), ("networks", options["population"])):
        check_count(name, options[name], least)
    if options["baseline"] not in list_backbones():
        raise BadValue(
            f"`baseline`={options['baseline']}: only the blocks of a published network can be searched"
            " (allowed: b0, lite0, v2-b0, mobilenet-v2)"
        )
    space = study_space(study)
    get_variant(f"{options['baseline']}@blocks={format_blocks(space.baseline)}")
    if options["networks"] > space.size:
        raise BadValue(f"`networks`={options['networks']} (there are {space.size})")
    macs = count_macs(get_variant(options["baseline"]), options["image_size"], study.facts["num_classes"])
    own = OBJECTIVE_TARGET if options["image_size"] >= PAPER_SIZE else macs
    target = own if options["target_macs"] is None else options["target_macs"]
    search_objective(1.0, macs, target, options["exponent"])
    runs = options["networks"] * len(options["seeds"])
    lines = [
        f"{options['networks']} of {space.size:,} networks, {runs} runs of {options['steps']} steps",
        f"objective: accuracy * (multiply-adds / T)^{options['exponent']:g}, T = {target / 1e6:,.1f} million"
        f" ({options['baseline']} at {options['image_size']} px: {macs / 1e6:,.1f} million)",
    ]
    return replace(study, facts={**study.facts, "baseline_macs": macs, "target_macs": target}), lines


def plan_next_networks(study: Study, outcomes: Mapping[str, Outcome]) -> Study:
    """Return the study with its next networks and their runs, once all planned runs have an outcome."""
    options, facts = study.options, study.facts
    names = ("population", "sample", "children", "networks")
    evolution = Evolution(study_space(study), **{name: options[name] for name in names}, seed=options["search_seed"])
    accuracy = trial_means(study.runs, outcomes)
    history = [
        (
            get_variant(trial.backbone).baseline.stages,
            math.nan if math.isnan(accuracy[trial.name]) else objective(study, trial, accuracy[trial.name]),
        )
        for trial in study.trials
    ]
    trials = []
    for number, (stages, parent) in enumerate(evolution.plan(history), start=len(history)):
        variant = get_variant(f"{options['baseline']}@blocks={format_blocks(stages)}")
        counts = count(variant, options["image_size"], facts["num_classes"])
        values = {} if parent is None else {"parent": parent}
        size = options["image_size"]
        trials.append(Trial(f"n{number:03d}", variant.name, values, size, counts.macs, counts.num_parameters))
    runs = [
        TrialRun(f"{trial.name}_s{seed}", trial.name, seed, options["steps"], 0)
        for seed in options["seeds"]
        for trial in trials
    ]
    return study.extended(runs, trials)


def objective(study: Study, trial: Trial, accuracy: float) -> float:
    """Return what the evolution maximises; see `search_objective`."""
    return search_objective(accuracy, trial.num_macs, study.facts["target_macs"], study.options["exponent"])
