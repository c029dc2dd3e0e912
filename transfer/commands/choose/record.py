"""What a choice found: choose.json as a dataclass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from transfer.commands.choose.curve import LearningCurve
from transfer.commands.choose.search_record import Searched
from transfer.config.choose_schema import ChooseConfig
from transfer.config.schema import FinetuneConfig
from transfer.records import Interval
from transfer.resampling import Difference
from transfer.runs.results import Metrics, Results

if TYPE_CHECKING:
    from datamodules.dataset.loaded import Dataset
    from transfer.commands.choose.candidates import Tried
    from transfer.commands.choose.decision import Decision, Tuned
    from transfer.commands.choose.images import Images

SCHEMA_VERSION = 2  # of choose.json


@dataclass(frozen=True)
class LeftOut:
    """A network that was not tried, and why; `image_size` None stands for all sizes."""

    backbone: str
    reason: str
    image_size: int | None = None

    def __str__(self) -> str:
        size = "" if self.image_size is None else f" at {self.image_size} px"
        return f"{self.backbone}{size}: {self.reason}"


@dataclass(frozen=True)
class Figures:
    """What one network at one image size takes and reaches.

    Attributes:
        weights: name of the checkpoint that it starts from.
        num_parameters, macs: with the linear head; multiply-adds for one image.
        latency_ms: median for one image, in float32 by PyTorch, on `device`.
        accuracy: cross-validated, in [0, 1], with its 95% `interval`.
        head, penalty, temperature, num_features: the linear head that cross-validation prefers, and how many features
            it sees (`transfer.probe.cross_validation`); None: all of the last map's.
        logit_adjustment: whether its logits are adjusted by the class shares of the images it was fitted to.
        engine: what computed the features.
        on_front: whether no other network is both as fast and as accurate.
    """

    backbone: str
    image_size: int
    weights: str
    num_parameters: int
    macs: int
    latency_ms: float
    device: str
    accuracy: float
    interval: Interval
    head: str
    penalty: float
    temperature: float
    engine: str
    on_front: bool
    num_features: int | None = None
    logit_adjustment: bool = False


@dataclass(frozen=True)
class Comparison:
    """The accuracy of the most accurate network less that of a faster one; both are indices of `Choice.candidates`."""

    most_accurate: int
    faster: int
    difference: Difference


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Fine-tuning the chosen network from its linear probe (LP-FT), beside that probe on the same out-of-fold images.

    Attributes:
        num_folds: folds that were tried, the first ones of the first repeat, without the one that chose the settings,
            with `num_images` images.
        accuracy: on them, in [0, 1], with its 95% `interval`.
        probe_accuracy: the probe's on them.
        difference: `accuracy` less `probe_accuracy`; fine-tuning is taken if it is above 0 by more than its interval.
        fold_seconds: wall-clock time of each fold.
    """

    num_folds: int
    num_images: int
    accuracy: float
    interval: Interval
    probe_accuracy: float
    difference: Difference
    fold_seconds: list[float]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A choice among networks, and between their linear probe and fine-tuning.

    Attributes:
        metric: what was cross-validated, `top1` or `mean_per_class`.
        num_images: images of train and val.
        num_groups: groups of them that no two folds share; None without groups.
        chosen: index of the candidate to take.
        reasons: why, in words.
        method: `probe` or `lpft`.
        fine_tuning: what fine-tuning it reaches; None if it was not tried on any fold.
        folds_left_out: why it was not tried on more; empty if it was tried on all of them, or was not asked for.
        sentence: the choice in words.
        run_dir: the run of the winner, by its method.
        test: that run's metrics on test; None without test images.
        budget_seconds: what the choice was allowed to take.
        seconds: wall-clock time of the comparison of `networks`, of writing `suspects`, of the `learning_curve`, of
            `fine_tuning` on folds, and of the `winner`'s run.
        search: the settings that fine-tuning was tried with on a fold of their own; None without a search.
        num_suspects: images of suspects.csv.
        learning_curve: None unless asked for.
        weakest_class: which class fares worst, in words; None if none is below all images beyond its interval.
    """

    schema_version: int = SCHEMA_VERSION
    dataset: str
    fingerprint: dict[str, str]
    metric: str
    num_images: int
    num_groups: int | None
    folds: int
    repeats: int
    seed: int
    candidates: list[Figures]
    left_out: list[LeftOut]
    comparisons: list[Comparison]
    chosen: int
    reasons: list[str]
    method: str
    fine_tuning: FineTuning | None
    folds_left_out: str
    sentence: str
    run_dir: str
    test: Metrics | None
    budget_seconds: float
    seconds: dict[str, float]
    search: Searched | None = None
    num_suspects: int = 0
    learning_curve: LearningCurve | None = None
    weakest_class: str | None = None
    command: list[str]
    environment: dict[str, Any]
    config: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the content of choose.json."""
        return asdict(self)


@dataclass(frozen=True)
class Methods:
    """What a choice between the linear probe and fine-tuning found.

    Attributes:
        tuned: how they compare; None if fine-tuning was not tried.
        left_out: why it was not tried on more folds.
        searched: the search for its settings; None without one.
        sentence: the choice in words.
    """

    tuned: Tuned | None
    left_out: str
    searched: Searched | None
    sentence: str

    @property
    def takes_lpft(self) -> bool:
        """Whether fine-tuning is to take."""
        return self.tuned is not None and self.tuned.is_taken


def make_choice(
    config: FinetuneConfig,
    own: ChooseConfig,
    dataset: Dataset,
    images: Images,
    tried: Sequence[Tried],
    left_out: Sequence[LeftOut],
    decision: Decision,
    reasons: Sequence[str],
    methods: Methods,
    results: Results,
    seconds: Mapping[str, float],
) -> Choice:
    """Return what choose.json holds.

    Args:
        config: the configuration of the choice.
        own: its own fields.
        dataset: the images.
        images: those that were cross-validated.
        tried: the candidates.
        left_out: networks that were not tried.
        decision: which to take.
        reasons: why, in words.
        methods: how to train it.
        results: of the winner's run.
        seconds: wall-clock time of each part.
    """
    from transfer.environment import command_words, environment

    return Choice(
        dataset=dataset.name,
        fingerprint=dict(dataset.fingerprint),
        metric=dataset.metric,
        num_images=len(images.labels),
        num_groups=None if images.groups is None else len(set(images.groups.tolist())),
        folds=images.num_folds,
        repeats=len(images.folds),
        seed=config.seed,
        candidates=[_figures(one, number in decision.front) for number, one in enumerate(tried)],
        left_out=list(left_out),
        comparisons=[
            Comparison(decision.most_accurate, faster, difference)
            for faster, difference in decision.comparisons.items()
        ],
        chosen=decision.chosen,
        reasons=list(reasons),
        method="lpft" if methods.takes_lpft else "probe",
        fine_tuning=None if methods.tuned is None else _fine_tuning(methods.tuned),
        folds_left_out=methods.left_out,
        search=methods.searched,
        sentence=methods.sentence,
        run_dir=str(results.run_dir),
        test=results.metrics.get("test"),
        budget_seconds=own.budget_seconds,
        seconds={name: round(value, 2) for name, value in seconds.items()},
        command=command_words(),
        environment=environment(),
        config={**config.to_dict(), **asdict(own)},
    )


def _fine_tuning(tuned: Tuned) -> FineTuning:
    return FineTuning(
        num_folds=len(tuned.seconds),
        num_images=tuned.num_images,
        accuracy=tuned.accuracy,
        interval=tuned.interval,
        probe_accuracy=tuned.probe_accuracy,
        difference=tuned.difference,
        fold_seconds=[round(value, 2) for value in tuned.seconds],
    )


def _figures(tried: Tried, on_front: bool) -> Figures:
    candidate, found = tried.candidate, tried.found
    start = candidate.start
    assert start.row is not None
    return Figures(
        backbone=start.variant.name,
        image_size=start.preprocessing.image_size,
        weights=start.row.name,
        num_parameters=candidate.num_parameters,
        macs=candidate.macs,
        latency_ms=candidate.latency.median_ms,
        device=candidate.latency.device,
        accuracy=found.value,
        interval=found.interval,
        **asdict(found.choice),
        engine=tried.engine,
        on_front=on_front,
    )
